"""From one table to another, row by row: in batches, so that memory does not grow with the rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from stages.core.errors import InputError
from stages.core.tables import ID, atomic, rows_of
from stages.runtime import cluster, parallel

BUFFER = 1 << 20  # bytes of a column read at once: pandas writes a million rows as one row group
GROUP = 1 << 16  # rows of a row group of the new table


def map_table(
    function: Callable[[pd.DataFrame], pd.DataFrame],
    source: Path,
    columns: Sequence[str],
    target: Path,
    *,
    size: int,
    alone: int = 0,
) -> int:
    """Write `id` and what `function` makes of `columns` for each row; how many rows there are.

    `size` is the rows of a batch. Below `alone` rows this process works alone: starting others
    would not pay.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_rows = rows_of(source, [ID, *columns])

    def one(batch: Any) -> Any:
        frame = batch.to_pandas()
        made = function(frame[list(columns)])
        made.insert(0, ID, frame[ID].to_numpy())
        return pa.Table.from_pandas(made, preserve_index=False)

    batches = tqdm(
        read_batches(source, [ID, *columns], size), desc=target.stem, unit="batch", disable=None,
        total=max(1, -(-n_rows // size)),
    )  # fmt: skip
    inline = n_rows < alone and not cluster.is_given()
    found = (
        (one(batch) for batch in batches)
        if inline
        else parallel.stream(one, batches, processes=True)
    )
    with closing(found), atomic(target) as temporary:
        first = next(found)
        with pq.ParquetWriter(temporary, first.schema, compression="zstd") as file:
            for table in chain([first], found):
                for batch in table.to_batches():
                    file.write_batch(batch, row_group_size=GROUP)
    return n_rows


def read_batches(source: Path, columns: Sequence[str], size: int) -> Iterator[Any]:
    """Arrow record batches of a table; one without rows where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False) as file:
            if not file.metadata.num_rows:
                yield file.schema_arrow.empty_table().select([*columns])
            yield from file.iter_batches(batch_size=size, columns=[*columns])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{source}: cannot be read as Parquet: {error}") from error
