r"""Apply the whole trained pipeline to new rows: clean, features, models, ensemble.

In: a file of the form of the dataset's own test file (`ingest.reader` in params/<dataset>.yaml), as
CSV, TSV, JSONL or Parquet; the trained pipeline, as `dvc repro` or `dvc pull` leaves it. Out: CSV,
JSONL or Parquet by suffix, in the order of the input: `id`, the ensemble's probabilities
`p_<class>`, and `label` as in the submission where that holds labels. A row gets what it got as a
row of the test part. Rows stream through, so that memory does not grow with their number; ids may
repeat. A row that cannot be read is listed in `<out>.rejects.csv` (line, id, reason).

A tool for the terminal, no stage. Exit status: 0 all rows are predicted, 1 nothing was written, 2
some rows were rejected.

    python -m stages.predict --dataset arena new.csv out.csv
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from tqdm import tqdm

from stages._pipeline import Pipeline, as_frame
from stages.base.cli import run
from stages.base.errors import InputError
from stages.base.params import FOLDER, read_params
from stages.base.tables import ID, PREDICTION, atomic
from stages.ingest import IngestParams
from stages.readers.rows import Reject, Row

log = logging.getLogger("verdict")

CHUNK = 2000  # rows in memory at once
SUFFIXES = (".csv", ".jsonl", ".parquet")
REJECTED = ["line", ID, "reason"]
SOME_REJECTED = 2  # exit status

Write: TypeAlias = Callable[[pd.DataFrame], None]


def predict(
    records: Iterable[Row | Reject], pipeline: Pipeline, write: Write, reject: Write
) -> tuple[int, int]:
    """Predict the rows chunk by chunk; how many rows and rejects there were."""
    n_rows, n_rejects = 0, 0
    stream = iter(records)
    while chunk := list(islice(stream, CHUNK)):
        rows = [record for record in chunk if isinstance(record, Row)]
        lost = [record for record in chunk if isinstance(record, Reject)]
        if rows:
            frame = pipeline.predict(as_frame(rows, pipeline.task))
            frame.insert(0, ID, [row.id for row in rows])
            write(frame)
        if lost:
            reject(pd.DataFrame([(r.line, r.id, r.reason) for r in lost], columns=REJECTED))
        n_rows, n_rejects = n_rows + len(rows), n_rejects + len(lost)
    return n_rows, n_rejects


@contextmanager
def table_writer(path: Path, columns: list[str]) -> Iterator[Write]:
    """What appends frames of these columns to `path`: a whole file, or none after an error."""
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            with _parquet_writer(temporary, columns) as write:
                yield write
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                pd.DataFrame(columns=columns).to_csv(file, index=False, lineterminator="\n")
                yield lambda frame: frame.to_csv(
                    file, index=False, header=False, lineterminator="\n"
                )
            else:
                yield lambda frame: frame.to_json(
                    file, orient="records", lines=True, force_ascii=False, double_precision=15
                )


@contextmanager
def _parquet_writer(path: Path, columns: list[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.float64() if name.startswith(PREDICTION) else pa.string()) for name in columns]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        yield lambda frame: file.write_table(
            pa.Table.from_pandas(frame, schema, preserve_index=False)
        )


def path_faults(source: Path, output: Path) -> list[str]:
    """Why `output` cannot take the predictions for `source`."""
    if output.suffix not in SUFFIXES:
        return [
            f"{output}: unknown suffix, got {output.suffix!r}; expected one of {list(SUFFIXES)}"
        ]
    return [
        f"{path}: is the input; expected another name for the output"
        for path in (output, rejects_of(output))
        if path.exists() and source.exists() and path.samefile(source)
    ]


def rejects_of(output: Path) -> Path:
    """Where the rejects go: beside the output."""
    return output.with_suffix(".rejects.csv")


def main(
    source: Path, output: Path, /, *, dataset: str, root: Path = Path(), cascade: bool = False
) -> None:
    """Predict new rows.

    Args:
        source: File with the rows.
        output: Where the predictions go.
        dataset: Whose pipeline: its name in params/.
        root: The repository, with params/, data/, models/ and metrics/.
        cascade: Let the cheap model of the section `cascade` answer the rows that it is sure of.
    """
    reader = read_params(IngestParams, dataset, "ingest", root / FOLDER).reader
    faults = path_faults(source, output) + reader.faults(source, labelled=False)
    if faults:
        raise InputError.listing(f"{source}: nothing was predicted", faults)
    pipeline = Pipeline.load(dataset, root, cascade=cascade)
    log.info("predict: %s with %s", source, ", ".join(pipeline.members))
    records = tqdm(
        reader.read(source, labelled=False), desc=source.name, unit=" rows", disable=None
    )
    rejects = rejects_of(output)
    with (
        table_writer(output, [ID, *pipeline.columns]) as write,
        table_writer(rejects, REJECTED) as reject,
    ):
        n_rows, n_rejects = predict(records, pipeline, write, reject)
    log.info("predict: %d rows -> %s", n_rows, output)
    if n_rejects:
        log.warning("predict: %d rows are rejected: %s says why", n_rejects, rejects)
        sys.exit(SOME_REJECTED)
    rejects.unlink()


if __name__ == "__main__":
    run(main)
