"""Tables as files: CSV, TSV, JSONL or Parquet by suffix, each record with its line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.data.readers.rows import (
    Layout,
    Record,
    column_faults,
    csv_faults,
    csv_records,
    text_faults,
)

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".parquet")
BATCH = 1_000  # rows of a Parquet file in memory at once
BUFFER = 1 << 20  # bytes of each of its columns that are read at once


def layout_of(path: Path, *, quoted: bool = True, names: tuple[str, ...] | None = None) -> Layout:
    """The layout of a CSV or TSV file, which is quoted as spreadsheets and pandas write it."""
    return Layout(DELIMITERS.get(path.suffix, ","), quoted, names)


def file_faults(path: Path, needed: list[str], layout: Layout) -> list[str]:
    """Why the file cannot be read at all, or lacks one of the columns `needed`."""
    if path.suffix not in SUFFIXES:
        return [f"{path}: unknown suffix, got {path.suffix!r}; expected one of {list(SUFFIXES)}"]
    if path.suffix == ".parquet":
        return _parquet_faults(path, needed)
    if path.suffix == ".jsonl":
        return _jsonl_faults(path, needed)
    return csv_faults(path, needed, layout)


def file_records(
    path: Path, needed: list[str], layout: Layout, optional: Sequence[str] = ()
) -> Iterator[Record]:
    """The records of the file; of Parquet the columns `needed`, and `optional` ones, only."""
    if path.suffix == ".parquet":
        return _parquet_records(path, needed, optional)
    if path.suffix == ".jsonl":
        return _jsonl_records(path)
    return csv_records(path, layout)


def _jsonl_faults(path: Path, needed: list[str]) -> list[str]:
    faults = text_faults(path)
    if faults:
        return faults
    # A row may lack a key and is a reject; where the first row lacks it, the params are wrong.
    first = next((record for record in _jsonl_records(path) if record.fault is None), None)
    if first is None:
        return [f"{path}: no JSONL, got no line with a JSON object; expected one a line"]
    return column_faults(path, needed, list(first.fields))


def _jsonl_records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if raw.strip():
                yield _jsonl_record(line, raw)


def _jsonl_record(line: int, raw: bytes) -> Record:
    try:
        fields = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError:
        return Record(line, {}, "bad UTF-8")
    except (ValueError, RecursionError):
        return Record(line, {}, "unparsable JSON")
    return Record(line, fields) if isinstance(fields, dict) else Record(line, {}, "no JSON object")


def _parquet_faults(path: Path, needed: list[str]) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return [f"{path}: missing file; expected a file of that name"]
    try:
        with pq.ParquetFile(path) as file:
            known, rows = file.schema_arrow.names, file.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        return [f"{path}: no Parquet file: {error}"]
    return column_faults(path, needed, known) or (
        [] if rows else [f"{path}: no rows; expected rows"]
    )


def _parquet_records(path: Path, needed: list[str], optional: Sequence[str]) -> Iterator[Record]:
    import pyarrow.parquet as pq

    line = 0
    # buffered: pandas writes a million rows as one row group, which would be read at once
    with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        columns = [*needed, *(name for name in optional if name in file.schema_arrow.names)]
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            for fields in _batch_rows(batch):
                line += 1
                yield Record(line, fields or {}, None if fields else "bad UTF-8")


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of an Arrow batch; None for a row with text that is no UTF-8 (Parquet allows it)."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for start in range(len(batch)):
            try:
                yield batch.slice(start, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None
