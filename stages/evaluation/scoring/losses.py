"""The loss of each out-of-fold row of a model: kept in Git, so that revisions can be compared.

In as few bytes as Parquet can, and ids and groups as the same bytes in the file of each model, so
that Git packs them once: 57,477 rows of 8 models are 3.4 MB in the working tree and 1.7 MB in the
repository (with dictionary pages, as tables are written else: 6.8 and 2.7 MB).
"""

from io import BytesIO
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.tables import GROUP, ID, atomic

LOSS = "loss"


def write_losses(table: pd.DataFrame, path: Path) -> None:
    """Write the columns `id`, `group` and `loss` in the order of the rows."""
    encoding = {ID: "DELTA_BYTE_ARRAY", GROUP: "DELTA_BINARY_PACKED", LOSS: "BYTE_STREAM_SPLIT"}
    with atomic(path) as temporary:
        table[[ID, GROUP, LOSS]].to_parquet(
            temporary, index=False, compression="zstd",
            use_dictionary=False, column_encoding=encoding,
        )  # fmt: skip


def read_losses(content: bytes, source: str) -> pd.DataFrame:
    """The columns `id`, `group` and `loss` of a file's content; `source` names it in an error.

    Raises:
        InputError: It is no Parquet file with these columns.
    """
    import pyarrow as pa

    try:
        return pd.read_parquet(BytesIO(content), columns=[ID, GROUP, LOSS])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{source}: cannot be read as losses: {error}") from error
