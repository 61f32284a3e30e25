"""From raw files to rows: what can be used, what cannot and why.

In: the raw folder of a dataset. Out: `rows.parquet` (id, part, the text or, of a preference, the
texts as lists of turns, targets `y_<class>`, NaN in the test part, and `truth_<class>` where the
dataset comes with a known judge), `rejects.parquet` (part, file, line, id and reason of every raw
row that did not become a row, so that rows + rejects = raw rows), `labels.json` (kind of task,
ordered classes) and `strata.parquet` (the names of the models that answered a train row, where the
files of a preference tell them: only the stage `audit` reads it). A row that the params leave out
on purpose (of several labels where the task has one) is a reject too, but is counted apart and is
no fault.

Nothing is written where a file is missing or of the wrong shape, where too many rows are rejected,
or where the sample submission or the truth does not fit. A reader (`stages/data/readers/`) knows
the format; this stage knows what holds for all of them.

    python -m stages.data.ingest --dataset arena
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator
from tqdm import tqdm

from stages.core.errors import InputError
from stages.core.folds import DEV, TEST, TRAIN
from stages.core.layout import Layout
from stages.core.params import Params, read_params
from stages.core.tables import ID, MODEL_A, MODEL_B, PART, TARGET, TRUTH, atomic, write_json
from stages.core.tasks import TASKS, Task
from stages.data.readers.arena import ArenaReader
from stages.data.readers.rows import (
    LEFT_OUT,
    Reject,
    Row,
    are_probabilities,
    as_number,
    csv_faults,
    csv_header,
    csv_records,
    is_distribution,
)
from stages.data.readers.table import TableReader
from stages.data.readers.text import TextReader
from stages.runtime.cli import run

log = logging.getLogger("verdict")

BATCH = 1_000  # rows that are Python objects at once
ROW_GROUP = 10_000  # rows; small enough for readers that stream

# Part, file, and what the reader made of the record.
Sourced: TypeAlias = tuple[str, str, Row | Reject]
Probabilities: TypeAlias = tuple[float, ...]
AnyReader: TypeAlias = ArenaReader | TableReader | TextReader

REJECTS = pa.schema(
    [
        (PART, pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        (ID, pa.string()),
        ("reason", pa.string()),
    ]
)
STRATA = pa.schema([(ID, pa.string()), (MODEL_A, pa.string()), (MODEL_B, pa.string())])


class IngestParams(Params):
    """What the raw files are, and how much of them may be lost.

    `sample` is the sample submission, `truth` a CSV of id and one column a class (the probabilities
    of a known judge); null where there is none. `max_reject_share` is a share of the raw rows of
    all parts.
    """

    section = "ingest"

    task: Literal["preference", "single_label", "multi_label"]
    reader: Annotated[AnyReader, Field(discriminator="format")]
    sample: str | None = None
    truth: str | None = None
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _fits(self) -> "IngestParams":
        if self.reader.kind != self.task:
            raise ValueError(
                f"the reader and its label make a task {self.reader.kind!r}, got {self.task!r}"
            )
        if self.sample is not None and not self.reader.sample_columns:
            raise ValueError("a sample submission wants a column of ids; expected sample: null")
        if self.sample is not None and self.reader.test is None:
            raise ValueError("a sample submission wants a test file; expected sample: null")
        return self


def row_schema(task: Task) -> Any:
    """The columns of rows.parquet: a text is a string, the texts of a pair are lists of turns."""
    text = pa.list_(pa.string()) if len(task.text_columns) > 1 else pa.string()
    return pa.schema(
        [
            (ID, pa.string()),
            (PART, pa.string()),
            *[(name, text) for name in task.text_columns],
            *[(TARGET + name, pa.float64()) for name in task.classes],
        ]
    )


def build(records: Iterable[Sourced], task: Task) -> tuple[Any, Any, Any]:
    """The Arrow tables of rows, rejects and model names, in the order of the records.

    A row whose id an earlier row has is a reject.
    """
    schema, unlabelled = row_schema(task), (float("nan"),) * len(task.classes)
    seen: dict[str, str] = {}
    batches: list[Any] = []
    rows: list[tuple[Any, ...]] = []
    rejects: list[tuple[Any, ...]] = []
    strata: list[tuple[Any, ...]] = []
    for part, file, record in records:
        if isinstance(record, Reject):
            rejects.append((part, file, record.line, record.id, record.reason))
        elif record.id in seen:
            twice = f"duplicate id, as in {seen[record.id]}"
            rejects.append((part, file, record.line, record.id, twice))
        else:
            seen[record.id] = file
            rows.append((record.id, part, *record.texts, *(record.target or unlabelled)))
            if any(record.models):
                strata.append((record.id, *record.models))
        if len(rows) == BATCH:
            batches.append(_batch(rows, schema))
            rows = []
    batches.append(_batch(rows, schema))
    return (
        pa.Table.from_batches(batches),
        pa.Table.from_batches([_batch(rejects, REJECTS)]),
        pa.Table.from_batches([_batch(strata, STRATA)]),
    )


def _batch(rows: list[tuple[Any, ...]], schema: Any) -> Any:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def with_truth(rows: Any, truth: Mapping[str, Probabilities], task: Task) -> Any:
    """The rows with the columns `truth_<class>`, joined by id."""
    values = [truth[name] for name in rows[ID].to_pylist()]
    for at, name in enumerate(task.classes):
        rows = rows.append_column(
            TRUTH + name, pa.array([value[at] for value in values], pa.float64())
        )
    return rows


def measure(rows: Any, rejects: Any, task: Task) -> dict[str, Any]:
    """Counts, and under `share` the share of each class in the train part."""
    parts = Counter(rows[PART].to_pylist())
    counts = {
        "raw_rows": len(rows) + len(rejects),
        "train_rows": parts[TRAIN],
        "test_rows": parts[TEST],
        "rejects": len(rejects),
    }
    texts = [rows[name] for name in task.text_columns]
    if pa.types.is_list(texts[0].type):
        counts["null_turns"] = sum(pc.list_flatten(text).null_count for text in texts)
    else:
        blank = [pc.equal(pc.utf8_trim_whitespace(text), "") for text in texts]
        counts["dev_rows"] = parts[DEV]
        counts["left_out"] = len(rejects) - len(faulty(rejects))  # of the rejects
        counts["empty_texts"] = sum(pc.sum(pc.cast(text, pa.int64())).as_py() for text in blank)
    train = of_part(rows, TRAIN)
    shares = {name: pc.mean(train[TARGET + name]).as_py() for name in task.classes}
    return {**counts, "share": shares}


def faulty(rejects: Any) -> Any:
    """The rejects that have a fault: all but those that the params leave out."""
    return rejects.filter(pc.invert(pc.starts_with(rejects["reason"], LEFT_OUT)))


def reject_faults(rows: Any, rejects: Any, raw: Path, params: IngestParams) -> list[str]:
    """More rejects than allowed, with the most frequent reasons; a part that has no row left."""
    n_raw, wrong = len(rows) + len(rejects), faulty(rejects)
    faults = []
    if len(wrong) > params.max_reject_share * n_raw:
        share = len(wrong) / n_raw
        faults.append(
            f"{raw}: too many rejects, got {len(wrong)} of {n_raw} rows ({share:.2%}); "
            f"expected at most max_reject_share = {params.max_reject_share:.2%}. "
            "Most frequent reasons:" + reasons(wrong, raw)
        )
    left = set(rows[PART].to_pylist())
    parts = [part for part, _ in params.reader.files]
    return faults + [f"{raw}: no {part} row is left" for part in parts if part not in left]


def reasons(rejects: Any, raw: Path) -> str:
    """The ten most frequent reasons, a line each, with their count and the place of the first."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for reject in rejects.to_pylist():
        counts[reject["reason"]] += 1
        first.setdefault(reject["reason"], f"{raw / reject['file']}:{reject['line']}")
    return "".join(
        f"\n    {count} x {reason}, first at {first[reason]}"
        for reason, count in counts.most_common(10)
    )


def file_faults(raw: Path, params: IngestParams) -> list[str]:
    """Files that are missing or of the wrong shape, all of them."""
    reader = params.reader
    if not raw.is_dir():
        files = " and ".join(file for _, file in reader.files)
        return [f"{raw}: missing folder; expected one with {files}"]
    faults = []
    for part, file in reader.files:
        faults += reader.faults(raw / file, labelled=part != TEST)
    classes: tuple[str, ...] = ()
    try:
        classes = reader.classes(raw)
    except InputError as error:
        faults.append(str(error))
    if params.truth is not None:
        faults += csv_faults(raw / params.truth, [ID, *classes])
    if params.sample is None:
        return faults
    sample, columns = raw / params.sample, list(reader.sample_columns)
    wrong = csv_faults(sample, columns)
    if not wrong and csv_header(sample)[: len(columns)] != columns:
        wrong = [f"{sample}: columns do not fit, got {csv_header(sample)}; expected {columns}"]
    return faults + wrong


def read_records(raw: Path, reader: AnyReader) -> Iterator[Sourced]:
    """All records of the raw files, the train part first."""
    for part, file in reader.files:
        records = reader.read(raw / file, labelled=part != TEST)
        for record in tqdm(records, desc=file, unit=" rows", mininterval=1, disable=None):
            yield part, file, record


def sample_faults(raw: Path, params: IngestParams, rows: Any, rejects: Any) -> list[str]:
    """Ids of the sample submission that are not those of the raw test file, each once.

    Rejected test rows count: the competition wants a line for each of them too.
    """
    if params.sample is None:
        return []
    id_column = params.reader.sample_columns[0]
    records = list(csv_records(raw / params.sample))
    counts = Counter(str(record.fields.get(id_column)) for record in records)
    lost = of_part(rejects, TEST)[ID].drop_null()
    tests = dict.fromkeys([*of_part(rows, TEST)[ID].to_pylist(), *lost.to_pylist()])
    checks: dict[str, list[Any]] = {
        "broken lines": [record.line for record in records if record.fault],
        "ids that the test file lacks": [name for name in counts if name not in tests],
        "test ids missing": [name for name in tests if name not in counts],
        "ids more than once": [name for name, count in counts.items() if count > 1],
    }
    return [
        f"{raw / params.sample}: got {len(found)} {what}, the first is {found[0]!r}; "
        "expected the ids of the test file, each once"
        for what, found in checks.items()
        if found
    ]


def of_part(table: Any, part: str) -> Any:
    """The rows or rejects of one part."""
    return table.filter(pc.equal(table[PART], part))


def read_truth(path: Path, task: Task) -> tuple[dict[str, Probabilities], list[str]]:
    """The probabilities by id, and what is wrong with the file."""
    truth: dict[str, Probabilities] = {}
    twice, wrong = [], []
    for record in csv_records(path):
        name = str(record.fields.get(ID))
        values = tuple(as_number(record.fields.get(column)) for column in task.classes)
        if name in truth:
            twice.append(record.line)
        allowed = is_distribution if task.exclusive else are_probabilities
        if record.fault or not allowed(values):
            wrong.append(record.line)
        truth[name] = values
    checks = {
        "an id that came before": twice,
        "no probabilities" + " that sum to 1" * task.exclusive: wrong,
    }
    return truth, [
        f"{path}: got {len(lines)} rows with {what}, the first in line {lines[0]}; "
        "expected each id once, with its probabilities"
        for what, lines in checks.items()
        if lines
    ]


def truth_faults(path: Path, truth: Mapping[str, Probabilities], rows: Any) -> list[str]:
    """Rows that the truth does not cover."""
    lost = [name for name in rows[ID].to_pylist() if name not in truth]
    if not lost:
        return []
    return [f"{path}: no truth for {len(lost)} rows, the first is {lost[0]!r}; expected every id"]


def write_arrow(table: Any, path: Path) -> None:
    """Write an Arrow table; by way of pandas, a table without rows would lose its schema."""
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


def refuse(raw: Path, faults: list[str]) -> None:
    """Raise one error for all faults, if there are any."""
    if faults:
        raise InputError.listing(f"{raw}: {len(faults)} fault(s), nothing was written", faults)


def main(*, dataset: str) -> None:
    """Read the raw folder, check it, and write rows, rejects, labels, model names and counts."""
    layout = Layout(dataset)
    raw = layout.raw
    params = read_params(IngestParams, layout)
    log.info("ingest: reading %s as %s", raw, params.reader.format)
    refuse(raw, file_faults(raw, params))
    task = TASKS[params.task](params.reader.classes(raw))
    kept, lost, names = build(read_records(raw, params.reader), task)
    faults = reject_faults(kept, lost, raw, params)
    faults += sample_faults(raw, params, kept, lost)
    truth = None
    if params.truth is not None:
        truth, wrong = read_truth(raw / params.truth, task)
        faults += wrong + truth_faults(raw / params.truth, truth, kept)
    refuse(raw, faults)

    counts = measure(kept, lost, task)
    log.info(
        "ingest: %(train_rows)d train rows, %(test_rows)d test rows, %(rejects)d rejects", counts
    )
    if len(lost):
        log.warning("ingest: rejects by reason:%s", reasons(lost, raw))
    if n_lost := len(ids := of_part(lost, TEST)[ID]):
        log.warning(
            "ingest: %d test rows are rejects, %d of them without an id: a submission gives the "
            "others the class shares", n_lost, ids.null_count,
        )  # fmt: skip
    write_arrow(kept if truth is None else with_truth(kept, truth, task), layout.rows)
    write_arrow(lost, layout.rejects)
    write_arrow(names, layout.strata)
    write_json({"kind": task.kind, "classes": list(task.classes)}, layout.labels)
    write_json(counts, layout.ingest)


if __name__ == "__main__":
    run(main)
