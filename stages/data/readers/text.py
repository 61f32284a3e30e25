"""Texts with labels: CSV, TSV, JSONL or Parquet by suffix, the names of the columns in params.

The label is one column with the name or the number of a class (`kind: classes`), or one column a
class with its probability: of `probabilities`, as of several annotators, a row sums to 1; `flags`
are questions of their own. Params:

    reader:
      format: text
      train: train.csv
      dev: null                  # a labelled file that is scored apart, or null
      test: test.csv             # or null: all rows are labelled
      quoted: true               # CSV and TSV: fields may stand in quotes
      header: null               # CSV and TSV whose first line is a row: names of the columns,
                                 # {labelled: [text, label, id], unlabelled: [text, id]}
      columns: {id: id, text: text}        # id: null numbers the rows by file and line
      longest: 1000000           # characters; a longer text is a reject
      label: {kind: classes, column: label, classes: [no, yes], numbers_from: null,
              separator: null, several: refuse}
      # or   {kind: probabilities, columns: {no: p_no, yes: p_yes}}
      # or   {kind: flags, columns: {rude: is_rude, funny: is_funny}}

`classes` lists the names, or is a file beside the train file with a name a line; `numbers_from: 0`
says that cells hold their numbers instead. A cell may hold several labels, split by `separator` (a
list in JSONL and Parquet needs none): they are `all` true, which makes a task of several labels;
or votes that `share` the row among the classes; or a fault (`refuse`); or no row of this task
(`leave_out`). An empty cell has no label, a reject; an empty list says that no class is true.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from stages.core.errors import InputError
from stages.core.folds import DEV, TEST, TRAIN
from stages.core.params import Params
from stages.core.tasks import MultiLabel, SingleLabel
from stages.data.readers.files import file_faults, file_records, layout_of
from stages.data.readers.rows import (
    LEFT_OUT,
    Fault,
    Layout,
    Reader,
    Reject,
    Row,
    are_probabilities,
    as_number,
    as_word,
    clean_text,
    given,
    is_distribution,
    text_faults,
    to_rows,
)

PROBED = 100  # rows that show whether the text column holds numbers

Target: TypeAlias = tuple[float, ...]


class TextColumns(Params):
    """The file's own names of the columns."""

    id: str | None
    text: str


class Header(Params):
    """Names of the columns where the first line does not hold them."""

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]


class ClassLabel(Params):
    """One column with names or numbers of classes."""

    kind: Literal["classes"]
    column: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | str
    numbers_from: Annotated[int, Field(ge=0)] | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    several: Literal["refuse", "leave_out", "share", "all"] = "refuse"

    @field_validator("classes")
    @classmethod
    def _named(cls, classes: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not isinstance(classes, str) and (wrong := wrong_names(classes)):
            raise ValueError(f"{wrong} blank, in blanks or twice; expected each name once")
        return classes

    @property
    def task(self) -> str:
        """The kind of task that the labels make."""
        return MultiLabel.kind if self.several == "all" else SingleLabel.kind

    def columns_of_label(self) -> tuple[str, ...]:
        """The columns that hold the label."""
        return (self.column,)

    def names(self, folder: Path) -> tuple[str, ...]:
        """The ordered classes."""
        return read_names(folder / self.classes) if isinstance(self.classes, str) else self.classes

    def parser(self, classes: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Target]:
        """What makes the target of a record's fields, or raises a `Fault`."""
        first = self.numbers_from
        words = classes if first is None else [str(first + at) for at in range(len(classes))]
        known = {word: at for at, word in enumerate(words)}

        def target(fields: Mapping[str, Any]) -> Target:
            found = [class_of(label, known) for label in self.labels(fields[self.column])]
            if self.several == "all":
                return tuple(float(at in found) for at in range(len(words)))
            if not found:
                raise Fault("no label")
            if self.several != "share" and len(set(found)) > 1:
                several = "more than one label"
                raise Fault(LEFT_OUT + several if self.several == "leave_out" else several)
            return tuple(found.count(at) / len(found) for at in range(len(words)))

        return target

    def labels(self, cell: Any) -> list[Any]:
        """The labels of a cell.

        Raises:
            Fault: The cell is empty.
        """
        if isinstance(cell, list):
            return cell
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise Fault("no label")
        if isinstance(cell, str) and self.separator is not None:
            return cell.split(self.separator)
        return [cell]


class ProbabilityLabel(Params):
    """One column a class: probabilities that sum to 1, or flags, each in 0 to 1 on its own."""

    kind: Literal["probabilities", "flags"]
    columns: Annotated[dict[str, str], Field(min_length=1)]  # by class

    @property
    def task(self) -> str:
        """The kind of task that the labels make."""
        return MultiLabel.kind if self.kind == "flags" else SingleLabel.kind

    def columns_of_label(self) -> tuple[str, ...]:
        """The columns that hold the label."""
        return tuple(self.columns.values())

    def names(self, folder: Path) -> tuple[str, ...]:  # noqa: ARG002 - no file is needed
        """The ordered classes."""
        return tuple(self.columns)

    def parser(self, classes: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Target]:
        """What makes the target of a record's fields, or raises a `Fault`."""
        columns = [self.columns[name] for name in classes]

        def target(fields: Mapping[str, Any]) -> Target:
            values = tuple(as_number(fields[column]) for column in columns)
            if self.kind == "flags" and not are_probabilities(values):
                raise Fault("label is not a probability in each column")
            if self.kind == "probabilities" and not is_distribution(values):
                raise Fault("label is not probabilities that sum to 1")
            return values

        return target


class TextReader(Reader):
    """The files of the raw folder, and what their columns mean."""

    format: Literal["text"]
    dev: str | None = None
    quoted: bool = True
    header: Header | None = None
    columns: TextColumns
    longest: Annotated[int, Field(ge=1)] = 1_000_000
    label: Annotated[ClassLabel | ProbabilityLabel, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _numbered(self) -> "TextReader":
        stems = [Path(file).stem for _, file in self.files]
        if self.columns.id is None and len(set(stems)) < len(stems):
            raise ValueError(
                f"columns.id: null makes ids of the files' names, got {stems}; expected files of "
                "different names, or a column of ids"
            )
        return self

    @property
    def kind(self) -> str:
        """The kind of task that the reader has targets for."""
        return self.label.task

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Part and file, in the order of the rows; all parts but the test part are labelled."""
        return given((TRAIN, self.train), (DEV, self.dev), (TEST, self.test))

    @property
    def sample_columns(self) -> tuple[str, ...]:
        """The columns of a submission that are known here: of the others, submit knows."""
        return () if self.columns.id is None else (self.columns.id,)

    def classes(self, raw: Path) -> tuple[str, ...]:
        """The ordered classes of the files in the folder `raw`.

        Raises:
            InputError: The file of names is missing, or a name is blank or stands twice.
        """
        return self.label.names((raw / self.train).parent)

    def needed(self, *, labelled: bool) -> list[str]:
        """The columns that a file must have."""
        label = self.label.columns_of_label() if labelled else ()
        return [*self.sample_columns, self.columns.text, *label]

    def layout(self, path: Path, *, labelled: bool) -> Layout:
        """How the file is laid out if it is CSV or TSV."""
        names = None
        if self.header is not None:
            names = self.header.labelled if labelled else self.header.unlabelled
        return layout_of(path, quoted=self.quoted, names=names)

    def faults(self, path: Path, *, labelled: bool) -> list[str]:
        """Why the file cannot be read at all."""
        needed, layout = self.needed(labelled=labelled), self.layout(path, labelled=labelled)
        faults = file_faults(path, needed, layout)
        if faults:
            return faults
        first = itertools.islice(file_records(path, needed, layout), PROBED)
        texts = [record.fields.get(self.columns.text) for record in first if record.fault is None]
        # a few texts to predict may be numbers; in a labelled file it is the wrong column
        enough = texts and (labelled or len(texts) == PROBED)
        if enough and not any(math.isnan(as_number(text)) for text in texts):
            return [
                f"{path}: column {self.columns.text!r} holds numbers, got {texts[0]!r}; "
                "expected texts"
            ]
        return []

    def read(self, path: Path, *, labelled: bool) -> Iterator[Row | Reject]:
        """The rows and rejects of the file, in its order; targets only where `labelled`."""
        needed, layout = self.needed(labelled=labelled), self.layout(path, labelled=labelled)
        target = self.label.parser(self.label.names(path.parent)) if labelled else None

        def parse(fields: dict[str, Any]) -> tuple[tuple[str, ...], Target | None]:
            missing = [name for name in needed if name not in fields]
            if missing:
                raise Fault(f"missing {', '.join(missing)}")
            text = self.text_of(fields[self.columns.text])
            # An empty text teaches nothing, but a test row wants its answer all the same.
            if labelled and not text.strip():
                raise Fault("empty text")
            return (text,), target(fields) if target else None

        records = file_records(path, needed, layout)
        return to_rows(records, self.columns.id, parse, source=path.stem)

    def text_of(self, cell: Any) -> str:
        """The text of a cell; none is an empty one.

        Raises:
            Fault: The cell holds something else, or more than `longest` characters.
        """
        if cell is None:
            return ""
        if not isinstance(cell, str):
            raise Fault(f"{self.columns.text} is no text")
        if len(cell) > self.longest:
            raise Fault(f"text of more than {self.longest} characters")
        return clean_text(cell)


def class_of(label: Any, known: Mapping[str, int]) -> int:
    """The number of the class that the label names (numbers, true, null as in JSON).

    Raises:
        Fault: It names none of the `known`.
    """
    word = as_word(label)
    if word not in known:
        raise Fault(f"unknown label {clean_text(word[:40])!r}")
    return known[word]


def read_names(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line; blank lines at its end do not count.

    Raises:
        InputError: The file is missing or no UTF-8 text, or a name is blank or stands twice.
    """
    if faults := text_faults(path):
        raise InputError(faults[0])
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8: {error}") from error
    names = tuple(line.strip() for line in lines)
    if wrong := wrong_names(names):
        raise InputError(f"{path}: got {wrong} blank or twice; expected a name a line, each once")
    return names


def wrong_names(names: Sequence[str]) -> list[str]:
    """Names that no cell can hold (blank, or with blanks around), and those that stand twice."""
    known = list(names)
    return sorted(
        {name for name in known if name.strip() != name or not name or known.count(name) > 1}
    )
