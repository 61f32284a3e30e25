"""What all readers share: the row that goes out, the reject with its reason, and reading of CSV.

A reader turns a file into `Record`s (what the file holds, line by line) and each record into a
`Row` (what the pipeline knows) or, where that fails with a `Fault`, into a `Reject`. No record is
dropped: rows + rejects = records.

A reason that starts with `LEFT_OUT` is no fault: the params ask for rows of another kind. Such
rejects are counted apart, and no limit of faults is held against them.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from stages.core.errors import InputError
from stages.core.folds import TEST, TRAIN
from stages.core.params import Params
from stages.core.tasks import Preference

Turns: TypeAlias = list[str | None]
Models: TypeAlias = tuple[str | None, str | None]

LEFT_OUT = "left out: "
HEAD = 1 << 16  # bytes that decide whether a file is text at all
WRONG_NUMBER = "wrong number of fields"
TOLERANCE = 1e-6  # of a sum of probabilities
FIELD_LIMIT = 2**31 - 1  # the csv module refuses fields above 128 KiB unless told otherwise
# In a decoded JSON string half an emoji, in a line of `_csv_lines` a byte that is no UTF-8.
SURROGATE = re.compile("[\ud800-\udfff]")


class Fault(ValueError):  # noqa: N818 - the domain's word, as in the messages
    """What is wrong with one record; its text becomes the reason of the reject."""


@dataclass(frozen=True, slots=True)
class Record:
    """What stands in a file from `line` (1-based) on: its fields, and the fault in reading them."""

    line: int
    fields: dict[str, Any]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row for the pipeline: texts and target in the task's order of text columns and classes.

    `models` are the names of what answered, as far as they are known: for audits, never for models.
    """

    line: int
    id: str
    texts: tuple[Turns | str, ...]
    target: tuple[float, ...] | None
    models: Models = (None, None)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that did not become a row."""

    line: int
    id: str | None
    reason: str


def given(*files: tuple[str, str | None]) -> tuple[tuple[str, str], ...]:
    """Those of the (part, file) pairs that have a file."""
    return tuple((part, file) for part, file in files if file is not None)


class Reader(Params):
    """What every reader tells of itself; as it stands, that of comparisons of two answers.

    `test` is null where there are no rows to submit: all is judged out of fold.
    """

    train: str
    test: str | None

    @property
    def kind(self) -> str:
        """The kind of task that the reader has targets for."""
        return Preference.kind

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Part and file, in the order of the rows; all parts but the test part are labelled."""
        return given((TRAIN, self.train), (TEST, self.test))

    def classes(self, raw: Path) -> tuple[str, ...]:  # noqa: ARG002 - a preference has its own
        """The ordered classes of the files in the folder `raw`.

        Raises:
            InputError: They cannot be read.
        """
        return Preference().classes


@dataclass(frozen=True, slots=True)
class Layout:
    """How a delimited text file is laid out.

    `names` are those of the columns, None where the first line holds them. Without `quoted`, a
    quote is a sign like any other, and a record is a line.
    """

    delimiter: str = ","
    quoted: bool = True
    names: tuple[str, ...] | None = None


CSV = Layout()
Parse: TypeAlias = Callable[
    [dict[str, Any]], tuple[tuple[Turns | str, ...], tuple[float, ...] | None]
]


def to_rows(
    records: Iterator[Record],
    id_column: str | None,
    parse: Parse,
    source: str = "",
    models: tuple[str, str] | None = None,
) -> Iterator[Row | Reject]:
    """Each record as a row (texts and target by `parse`), or as a reject with its first fault.

    Without a column of ids, the id is `<source>:<line>`. `models` are the columns with the names of
    what answered; they may be missing.
    """
    for record in records:
        name = None
        try:
            if id_column is None:
                name = f"{source}:{record.line}"
            else:
                name = as_id(record.fields.get(id_column))
            if record.fault is not None:
                raise Fault(record.fault)
            texts, target = parse(record.fields)
            if len({len(turns) for turns in texts if isinstance(turns, list)}) > 1:
                raise Fault("unequal turn counts")
        except Fault as fault:
            yield Reject(record.line, name, record.fault or str(fault))
        else:
            names = [as_name(record.fields.get(column)) for column in models or ("", "")]
            yield Row(record.line, name, texts, target, (names[0], names[1]))


def as_id(value: Any) -> str:
    """The id as a string; text and whole numbers may be ids."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Fault("empty id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Fault("id is neither text nor a whole number")
    return clean_text(str(value))


def as_name(value: Any) -> str | None:
    """The name as a string; None for what is no text or blank."""
    return clean_text(value.strip()) or None if isinstance(value, str) else None


def as_word(label: Any) -> str:
    """A label without the blanks around it; numbers, true and null as in JSON."""
    return label.strip() if isinstance(label, str) else json.dumps(label, default=str)


def as_turns(value: Any, column: str) -> Turns:
    """A list of turns, each a string or null.

    Raises:
        Fault: The value is no list of strings and nulls, or an empty one.
    """
    is_list = isinstance(value, list) and len(value) > 0
    if not is_list or not all(turn is None or isinstance(turn, str) for turn in value):
        raise Fault(f"unparsable turns in {column}")
    return [None if turn is None else clean_text(turn) for turn in value]


def clean_text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by U+FFFD."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def as_number(value: Any) -> float:
    """The value as a float; NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def are_probabilities(values: Sequence[float]) -> bool:
    """Whether each value is a probability."""
    return all(0 <= value <= 1 for value in values)


def is_distribution(values: Sequence[float]) -> bool:
    """Whether the values are probabilities that sum to 1."""
    return are_probabilities(values) and abs(sum(values) - 1) <= TOLERANCE


def text_faults(path: Path) -> list[str]:
    """Why `path` is no text file with something in it; nothing where it is one."""
    if not path.is_file():
        return [f"{path}: missing file; expected a file of that name"]
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        return [f"{path}: empty file; expected rows"]
    if b"\0" in head:
        return [f"{path}: no text file, got NUL bytes; expected UTF-8 text"]
    return []


def column_faults(path: Path, needed: Sequence[str], known: Sequence[str]) -> list[str]:
    """Needed columns that are missing or named twice."""
    missing = [name for name in needed if name not in known]
    twice = [name for name in needed if list(known).count(name) > 1]
    got = repr(list(known))
    got = got if len(got) <= 300 else got[:300] + "..."
    faults = [f"{path}: missing columns {missing}, got {got}; expected all"] if missing else []
    if missing and len(known) == 1:
        faults[0] += " (fields are separated by commas in .csv, by tabs in .tsv)"
    return faults + ([f"{path}: columns {twice} stand twice in {got}"] if twice else [])


def csv_faults(path: Path, needed: Sequence[str], layout: Layout = CSV) -> list[str]:
    """Why `path` is no delimited text file with the columns `needed` and at least one row."""
    faults = text_faults(path)
    if faults:
        return faults
    header = csv_header(path, layout)
    if any(SURROGATE.search(name) for name in header):
        return [
            f"{path}: no text file, its first line is not UTF-8; "
            f"expected a header with {list(needed)}"
        ]
    faults = column_faults(path, needed, header)
    if faults:
        return faults
    first = next(csv_records(path, layout), None)
    if first is None:
        return [f"{path}: no rows, got a header only; expected rows"]
    if layout.names is not None and first.fault == WRONG_NUMBER:
        return [
            f"{path}:{first.line}: got another number of fields than names in `header`; "
            f"expected {list(layout.names)}"
        ]
    return []


def csv_header(path: Path, layout: Layout = CSV) -> list[str]:
    """The names of the columns."""
    return list(layout.names or next(_lines(path, layout))[1])


def csv_records(path: Path, layout: Layout = CSV) -> Iterator[Record]:
    """The records of a delimited text file below its header; quoted fields may hold newlines.

    Raises:
        InputError: A quote is never closed, or text follows a closing one, so that it is unknown
        how many rows there are.
    """
    lines = _lines(path, layout)
    header = layout.names or next(lines)[1]
    for line, values in lines:
        fields = dict(zip(header, values, strict=False))
        fault = None
        if any(not value.isascii() and SURROGATE.search(value) for value in values):
            fault = "bad UTF-8"
        elif len(values) != len(header):
            fault = WRONG_NUMBER
        yield Record(line, fields, fault)


def _lines(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each record, the header too; blank lines are no records."""
    return (_csv_lines if layout.quoted else _plain_lines)(path, layout.delimiter)


def _plain_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # newline="\n": a carriage return inside a text ends no line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if text := line.rstrip("\r\n"):
                yield number, text.split(delimiter)


class _Lines:
    """The lines of a file, counted by their newlines, the last, and whether all were taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.taken = 0
        self.last = ""
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self.lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        # a lone carriage return inside a field is no line of the file
        self.taken += line.endswith("\n")
        self.last = line
        return line


def _csv_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(FIELD_LIMIT)
    # surrogateescape keeps a bad byte in its own row, where strict decoding would end the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = 1
        try:
            for values in reader:
                if values:
                    yield start, values
                lines.taken += lines.last.endswith("\r")  # here it ends a record
                start = lines.taken + 1
        except csv.Error as error:
            raise InputError(f"{path}:{start}: {_quote_fault(start, lines)}") from error


def _quote_fault(start: int, lines: _Lines) -> str:
    if lines.ended:  # the reader asked for more lines in the middle of a record
        return (
            "a quote that this record opens is never closed, got the end of the file; expected a "
            "whole file (fetch it again, or mend the quote)"
        )
    return (
        "a quoted field of this record goes on after its closing quote, got that on line "
        f"{max(start, lines.taken)}; expected each quote inside a quoted field to stand twice (or, "
        "with format text, `quoted: false`: a quote is a sign like any other, a record is a line)"
    )
