r"""Apply the whole trained pipeline to new rows: clean, features, models, ensemble.

In: a file of the form of the dataset's own test file (`ingest.reader` in params/<dataset>.yaml), as
CSV, TSV, JSONL or Parquet; the trained pipeline, as `dvc repro` or `dvc pull` leaves it. Out: CSV,
JSONL or Parquet by suffix, in the order of the input: `id`, the ensemble's probabilities
`p_<class>`, and `label` as in the submission where that holds labels. A row gets what it got as a
row of the test part (from a transformer in bf16 to some 1e-3, since batches differ). Rows stream
through, so that memory does not grow with their number; ids may repeat. A row that cannot be read
is listed in `<out>.rejects.csv` (line, id, reason).

For many files give a folder, or a quoted pattern such as `'shards/*.parquet'`, and a new folder:
each file becomes one of the same name there. Where RAY_ADDRESS names a cluster its nodes predict;
they must see the files and the repository at the same paths.

A tool for the terminal, no stage. Exit status: 0 all rows are predicted, 1 nothing was written, 2
some rows were rejected.

    verdict predict --dataset arena new.csv out.csv
    verdict predict --dataset arena shards/ predicted/
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from tqdm import tqdm

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.params import read_params
from stages.core.tables import ID, PREDICTION, atomic
from stages.data.ingest import IngestParams
from stages.data.readers.files import SUFFIXES as READABLE
from stages.runtime.cli import run
from stages.runtime.outputs import file_faults, folder_faults
from stages.serving._chunks import REJECTED, Predicted, predict
from stages.serving.pipeline import Pipeline
from stages.transformer.network.params import Bits, Inference, Precision

log = logging.getLogger("verdict")

SUFFIXES = (".csv", ".jsonl", ".parquet")
SOME_REJECTED = 2  # exit status

Write: TypeAlias = Callable[[pd.DataFrame], None]


def write(found: Iterable[Predicted], outputs: list[Path], columns: list[str]) -> tuple[int, int]:
    """Write the predictions and the rejects of each file; how many rows and rejects there were."""
    n_rows, n_rejects = 0, 0
    for number, parts in groupby(found, attrgetter("source")):
        rejects = rejects_of(outputs[number])
        lost = 0
        with (
            table_writer(outputs[number], columns) as write_rows,
            table_writer(rejects, REJECTED) as write_rejects,
        ):
            for part in parts:
                if len(part.rows):
                    write_rows(part.rows)
                write_rejects(part.rejects)
                n_rows, lost = n_rows + len(part.rows), lost + len(part.rejects)
        if not lost:
            rejects.unlink()
        n_rejects += lost
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


def sources_of(source: Path) -> list[Path]:
    """The files of a folder or pattern, sorted; `source` itself where it is neither.

    What a folder holds besides is named in a warning, but for hidden files and those of Spark.
    """
    if source.is_dir():
        found = list(source.iterdir())
    elif not source.exists() and any(sign in str(source) for sign in "*?["):
        found = list(Path(source.anchor).glob(str(source.relative_to(source.anchor))))
    else:
        return [source]
    found = sorted(path for path in found if not path.name.startswith(("_", ".")))
    if source.is_dir():
        other = [path.name for path in found if path.suffix not in READABLE or path.is_dir()]
        if other:
            log.warning("predict: left out of %s: %s", source, ", ".join(other))
        found = [path for path in found if path.name not in other]
    if not found:
        raise InputError(
            f"{source}: no such files; expected some with a suffix in {READABLE}, their names not "
            "starting with _ or a dot"
        )
    return found


def outputs_of(sources: list[Path]) -> list[Path]:
    """The names of the files for many `sources`: theirs, and .csv for .tsv.

    Raises:
        InputError: Two would have the same name.
    """
    names = [Path(path.name.removesuffix(".tsv") + ".csv" if path.suffix == ".tsv" else path.name)
             for path in sources]  # fmt: skip
    stems = [name.stem.removesuffix(".rejects") for name in names]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise InputError(f"input: several files are called {twice}; expected one of each name")
    return names


def path_faults(source: Path, output: Path) -> list[str]:
    """Why `output` cannot take the predictions for `source`."""
    if output.suffix not in SUFFIXES:
        return [
            f"{output}: unknown suffix, got {output.suffix!r}; expected one of {list(SUFFIXES)}"
        ]
    outputs = (output, rejects_of(output))
    return file_faults(*outputs) + [
        f"{path}: is the input; expected another name for the output"
        for path in outputs
        if path.is_file() and source.exists() and path.samefile(source)
    ]


def rejects_of(output: Path) -> Path:
    """Where the rejects go: beside the output."""
    return output.with_suffix(".rejects.csv")


def main(
    source: Path,
    output: Path,
    /,
    *,
    dataset: str,
    root: Path = Path(),
    cascade: bool = False,
    precision: Precision | None = None,
    bits: Bits | None = None,
) -> None:
    """Predict new rows.

    Args:
        source: File with the rows, or a folder or pattern of files.
        output: Where the predictions go: a file, or a folder for many.
        dataset: Whose pipeline: its name in params/.
        root: The repository, with params/, data/, models/ and metrics/.
        precision: Of tuned networks, where it is not to be that of their training: fp16 or bf16
            take half the memory.
        bits: Quantise their weights, 4 or 8, which needs the extra `gpu`.
        cascade: Let the cheap model of the section `cascade` answer the rows that it is sure of.
    """
    reader = read_params(IngestParams, Layout(dataset, root)).reader
    sources = sources_of(source)
    many = sources != [source]
    faults = folder_faults(output) if many else path_faults(source, output)
    faults += [fault for path in sources for fault in reader.faults(path, labelled=False)]
    if faults:
        raise InputError.listing(f"{source}: nothing was predicted", faults)
    load = partial(
        Pipeline.load, dataset, root.resolve(), cascade=cascade, how=Inference(precision, bits)
    )
    pipeline = load()
    log.info("predict: %s with %s", source, ", ".join(pipeline.members))
    found = predict(sources, partial(reader.read, labelled=False), pipeline, load)
    columns = [ID, *pipeline.columns]
    with tqdm(desc=source.name, unit=" rows", disable=None) as bar:
        seen = counted(found, bar)
        if many:
            with atomic(output) as folder:
                folder.mkdir()
                names = outputs_of(sources)
                n_rows, n_rejects = write(seen, [folder / name for name in names], columns)
        else:
            n_rows, n_rejects = write(seen, [output], columns)
    log.info("predict: %d rows -> %s", n_rows, output)
    if n_rejects:
        where = f"{output}/*.rejects.csv" if many else rejects_of(output)
        log.warning("predict: %d rows are rejected: %s says why", n_rejects, where)
        sys.exit(SOME_REJECTED)


def counted(found: Iterable[Predicted], bar: tqdm) -> Iterator[Predicted]:
    """`found`, with a bar of progress."""
    for part in found:
        yield part
        bar.update(len(part.rows) + len(part.rejects))


if __name__ == "__main__":
    run(main)
