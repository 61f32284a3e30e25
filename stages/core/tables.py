"""Tables and JSON on disk: checked, whole or not at all, the same bytes every time."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.errors import InputError

ID = "id"
PART = "part"
FOLD = "fold"
GROUP = "group"
MODEL_A, MODEL_B = "model_a", "model_b"  # names of what answered, in strata.parquet
TARGET = "y_"  # targets: y_<class>, a probability; NaN where the row has no label
TRUTH = "truth_"  # truth_<class>: the probability under a known judge, where the data set has one
PREDICTION = "p_"  # predictions: p_<class>
SWAPPED = "swapped_p_"  # predictions for the row with A and B exchanged (preference only)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    File or folder; a folder takes the place of one, a file that of a file. What stood at `path`
    stays until then; an error leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    _remove(temporary)  # a killed run may have left it
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV, by the suffix, in the order of its rows."""
    if ID in frame and not frame[ID].is_unique:
        twice = frame.loc[frame[ID].duplicated(), ID].iloc[0]
        raise ValueError(f"{path}: {ID} must be unique, got {twice!r} twice")
    with atomic(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table of ours, or only some of its columns, which it must have."""
    import pyarrow as pa

    rows_of(path, columns or ())
    try:
        frame: pd.DataFrame = pd.read_parquet(path, columns=None if columns is None else [*columns])
        return frame
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error


def rows_of(path: Path, columns: Sequence[str]) -> int:
    """The number of rows of a table that must have `columns`, without reading them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    known = about.schema.to_arrow_schema().names
    missing = [name for name in columns if name not in known]
    if missing:
        raise InputError(f"{path}: missing columns {missing}, got {known}")
    return int(about.num_rows)


def columns_with(path: Path, prefix: str) -> list[str]:
    """Names of the columns of the Parquet file `path` that start with `prefix`, in their order."""
    import pyarrow.parquet as pq

    return [name for name in pq.read_schema(path).names if name.startswith(prefix)]


def by_id(frame: pd.DataFrame, ids: pd.Series, source: Path) -> pd.DataFrame:
    """The rows of `frame` in the order of `ids`, joined by id, never by position."""
    index = pd.Index(frame[ID]).get_indexer(pd.Index(ids))
    if (index < 0).any():
        lost = ids[index < 0]
        raise InputError(
            f"{source}: no row for {len(lost)} of {len(ids)} ids, the first is {lost.iloc[0]!r}"
        )
    ordered: pd.DataFrame = frame.iloc[index].reset_index(drop=True)
    return ordered


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON with its keys in the order given.

    Raises:
        ValueError: A number is NaN or infinite: JSON has no such numbers, and DVC would drop them.
            Names the keys that lead to each, joined by dots.
    """
    numbers = {key: n for key, n in flatten(content).items() if isinstance(n, float)}
    if bad := [key for key, number in numbers.items() if not math.isfinite(number)]:
        raise ValueError(f"{path}: must be finite: {bad}")
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level, keys joined by dots, as DVC shows metrics and params."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: got a {type(content).__name__}; expected a JSON object")
    return content


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array on disk (.npy), mapped into memory."""
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; expected an array") from error
    return found


def join_turns(cell: Any) -> str:
    """A cell of a text column as one text: turns joined by line breaks, nulls left out."""
    if isinstance(cell, str):
        return cell
    if cell is None or isinstance(cell, float):  # pandas holds a null text as NaN
        return ""
    return "\n".join(turn for turn in cell if turn)
