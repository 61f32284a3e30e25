"""Feature sets on disk: a matrix for each text column, rows joined by id."""

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy import sparse

from stages.base.errors import InputError
from stages.base.tables import ID, atomic, by_id, read_json, read_table, write_json, write_table
from stages.base.tasks import Block, Matrix

CSR = ("data", "indices", "indptr")  # the arrays of a sparse matrix


def write_blocks(
    folder: Path,
    ids: pd.Series,
    blocks: Mapping[str, Block],
    state: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Write `blocks`, and the fitted `state` that makes them (one .npz a name), as a folder.

    Dense matrices become one .npy, sparse ones one for each of their three arrays: files that
    `read_blocks` maps into memory.
    """
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_table(ids.to_frame(ID), temporary / "ids.parquet")
        write_json(
            {key: list(block.names) for key, block in blocks.items()}, temporary / "names.json"
        )
        for key, block in blocks.items():
            parts = {key: block.X}
            if sparse.issparse(block.X):
                parts = {f"{key}.{part}": getattr(block.X, part) for part in CSR}
            for name, array in parts.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        for name, arrays in (state or {}).items():
            np.savez(temporary / f"{name}.state.npz", allow_pickle=False, **arrays)


def read_blocks(folder: Path, ids: pd.Series) -> dict[str, Block]:
    """Read what `write_blocks` wrote, rows in the order of `ids`.

    The matrices stay on disk, memory-mapped, where their rows stand in that order already.

    Raises:
        InputError: The folder is incomplete or lacks an id.
    """
    stored = read_table(folder / "ids.parquet")[ID]
    rows = pd.Index(stored).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(f"{folder}: no features for id {ids[rows < 0].iloc[0]!r}")
    aligned = np.array_equal(rows, np.arange(len(stored)))
    blocks = {}
    for key, names in read_json(folder / "names.json").items():
        X = _read_matrix(folder, key, (len(stored), len(names)))
        blocks[key] = Block(X if aligned else X[rows], tuple(names))
    return blocks


def _read_matrix(folder: Path, key: str, shape: tuple[int, int]) -> Matrix:
    def array(name: str) -> Matrix:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    if (folder / f"{key}.npy").exists():
        return array(key)
    return sparse.csr_matrix(tuple(array(f"{key}.{part}") for part in CSR), shape=shape)


def read_state(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Read the fitted state `name` that `write_blocks` wrote.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = folder / f"{name}.state.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}; expected arrays") from error


def read_columns(path: Path, ids: pd.Series) -> dict[str, Block]:
    """Read a table with columns `<text column>.<feature>` as blocks, rows in the order of `ids`.

    Raises:
        InputError: The file is missing or lacks an id.
    """
    return column_blocks(by_id(read_table(path), ids, path))


def column_blocks(frame: pd.DataFrame) -> dict[str, Block]:
    """The columns `<text column>.<feature>` of `frame` as blocks, others left out."""
    features = [name for name in frame.columns.astype(str) if "." in name]
    keys = dict.fromkeys(name.split(".", 1)[0] for name in features)
    blocks = {}
    for key in keys:
        columns = [name for name in features if name.startswith(f"{key}.")]
        names = tuple(name.split(".", 1)[1] for name in columns)
        blocks[key] = Block(frame[columns].to_numpy(np.float32), names)
    return blocks
