"""Feature sets on disk: a matrix for each text column, rows joined by id."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy import sparse

from stages.core.errors import InputError
from stages.core.matrices import Block, Matrix
from stages.core.tables import (
    ID,
    atomic,
    by_id,
    read_array,
    read_json,
    read_table,
    write_json,
    write_table,
)

CSR = ("data", "indices", "indptr")  # the arrays of a sparse matrix
MOST = np.iinfo(np.int32).max  # values of a sparse matrix whose places take 32 bits


def write_blocks(
    folder: Path,
    ids: pd.Series,
    blocks: Mapping[str, Block],
    state: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Write `blocks`, and the fitted `state` that makes them (one .npz a name), as a folder."""
    with blocks_writer(folder, ids, state) as append:
        append(blocks)


@contextmanager
def blocks_writer(
    folder: Path,
    ids: pd.Series,
    state: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Iterator[Callable[[Mapping[str, Block]], None]]:
    """What appends the next rows of all blocks: a whole folder, or none after an error.

    Dense matrices become one .npy, sparse ones one for each of their three arrays: files that
    `read_blocks` maps into memory.
    """
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_table(ids.to_frame(ID), temporary / "ids.parquet")
        for name, arrays in (state or {}).items():
            np.savez(temporary / f"{name}.state.npz", allow_pickle=False, **arrays)
        names: dict[str, list[str]] = {}
        files: dict[str, DenseFile | SparseFile] = {}
        with ExitStack() as stack:

            def append(blocks: Mapping[str, Block]) -> None:
                for key, block in blocks.items():
                    if key not in files:
                        kind = SparseFile if sparse.issparse(block.X) else DenseFile
                        files[key] = stack.enter_context(closing(kind(temporary / key, block.X)))
                        names[key] = list(block.names)
                    files[key].append(block.X)

            yield append
        write_json(names, temporary / "names.json")


class DenseFile:
    """A .npy file that rows are appended to: numpy's header has room for any number of them."""

    def __init__(self, stem: Path, like: np.ndarray) -> None:
        self.dtype, self.size, self.n = like.dtype, like.shape[1:], 0
        self.file = stem.with_name(f"{stem.name}.npy").open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows."""
        np.ascontiguousarray(rows, self.dtype).tofile(self.file)
        self.n += len(rows)

    def close(self) -> None:
        """Say how many rows there are."""
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        about = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n, *self.size),
        }
        np.lib.format.write_array_header_1_0(self.file, about)


class SparseFile:
    """The three .npy files of a CSR matrix that rows are appended to."""

    def __init__(self, stem: Path, like: sparse.csr_matrix) -> None:
        self.path = stem.with_name(f"{stem.name}.indptr.npy")
        self.data, self.indices = (
            DenseFile(stem.with_name(f"{stem.name}.{part}"), getattr(like, part))
            for part in ("data", "indices")
        )
        self.lengths = [np.zeros(1, np.int64)]

    def append(self, rows: sparse.csr_matrix) -> None:
        """Write the next rows."""
        self.data.append(rows.data)
        self.indices.append(rows.indices)
        self.lengths.append(np.diff(rows.indptr))

    def close(self) -> None:
        """Write where each row starts."""
        self.data.close()
        self.indices.close()
        indptr = np.cumsum(np.concatenate(self.lengths))
        np.save(self.path, indptr.astype(np.int32) if self.data.n <= MOST else indptr)


def read_blocks(folder: Path, ids: pd.Series) -> dict[str, Block]:
    """Read what `write_blocks` wrote, rows in the order of `ids`.

    The matrices stay on disk, memory-mapped, where their rows stand in that order already.
    """
    stored = read_table(folder / "ids.parquet")[ID]
    rows = pd.Index(stored).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(f"{folder}: no features for id {ids[rows < 0].iloc[0]!r}")
    aligned = np.array_equal(rows, np.arange(len(stored)))
    blocks = {}
    for key, names in read_json(folder / "names.json").items():
        X: Matrix
        if (dense := folder / f"{key}.npy").exists():
            X = read_array(dense)
        else:
            parts = tuple(read_array(folder / f"{key}.{part}.npy") for part in CSR)
            X = sparse.csr_matrix(parts, shape=(len(stored), len(names)))
        blocks[key] = Block(X if aligned else X[rows], tuple(names))
    return blocks


def read_state(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Read the fitted state `name` that `write_blocks` wrote."""
    path = folder / f"{name}.state.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}; expected arrays") from error


def read_columns(path: Path, ids: pd.Series) -> dict[str, Block]:
    """Read a table with columns `<text column>.<feature>` as blocks, rows in the order of `ids`."""
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
