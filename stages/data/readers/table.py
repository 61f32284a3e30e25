"""Your own tables: CSV, TSV, JSONL or Parquet by suffix, the names of the columns in params.

A text is a string (one turn) or, in JSONL and Parquet, a list of strings and nulls (turns). The
label is one column whose values are mapped to the classes (`kind: values`), or one column a class
with probabilities that sum to 1 (`kind: probabilities`). CSV and TSV are quoted as spreadsheets and
pandas write them. Params:

    reader:
      format: table
      train: train.jsonl
      test: test.jsonl           # or null: all rows are labelled
      columns: {id: id, prompt: question, response_a: left, response_b: right}
      label: {kind: values, column: winner, classes: {left: a, right: b, both: tie, neither: tie}}
      # or  {kind: probabilities, a: p_left, b: p_right, tie: p_tie}
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core.params import Params
from stages.core.tasks import Preference
from stages.data.readers.files import file_faults, file_records, layout_of
from stages.data.readers.rows import (
    Fault,
    Reader,
    Reject,
    Row,
    Turns,
    as_number,
    as_turns,
    as_word,
    clean_text,
    is_distribution,
    to_rows,
)

CLASSES = Preference().classes


class Columns(Params):
    """The file's own names of the columns."""

    id: str
    prompt: str
    response_a: str
    response_b: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the text columns, in the order of the task."""
        return (self.prompt, self.response_a, self.response_b)


class ValueLabel(Params):
    """One column; `classes` maps its values to a, b or tie (numbers, true, null as in JSON)."""

    kind: Literal["values"]
    column: str
    classes: Annotated[Mapping[str, Literal["a", "b", "tie"]], Field(min_length=1)]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the label."""
        return (self.column,)

    def target(self, fields: Mapping[str, Any]) -> tuple[float, ...]:
        """The target `(a, b, tie)`.

        Raises:
            Fault: The value is not in `classes`.
        """
        word = as_word(fields[self.column])
        if word not in self.classes:
            raise Fault(f"unknown label {clean_text(word[:40])!r}")
        return tuple(float(name == self.classes[word]) for name in CLASSES)


class ProbabilityLabel(Params):
    """Three columns with the probability of each class: soft labels, or 0 and 1."""

    kind: Literal["probabilities"]
    a: str
    b: str
    tie: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the label."""
        return (self.a, self.b, self.tie)

    def target(self, fields: Mapping[str, Any]) -> tuple[float, ...]:
        """The target `(a, b, tie)`.

        Raises:
            Fault: They are no probabilities that sum to 1.
        """
        target = tuple(as_number(fields[name]) for name in self.columns)
        if not is_distribution(target):
            raise Fault("label is not three probabilities that sum to 1")
        return target


class TableReader(Reader):
    """Two files of the raw folder, and what their columns mean."""

    format: Literal["table"]
    columns: Columns
    label: Annotated[ValueLabel | ProbabilityLabel, Field(discriminator="kind")]

    @property
    def sample_columns(self) -> tuple[str, ...]:
        """The columns of a submission."""
        is_soft = isinstance(self.label, ProbabilityLabel)
        return (self.columns.id, *(self.label.columns if is_soft else CLASSES))

    def needed(self, *, labelled: bool) -> list[str]:
        """The columns that a file must have."""
        return [self.columns.id, *self.columns.texts, *(self.label.columns if labelled else ())]

    def faults(self, path: Path, *, labelled: bool) -> list[str]:
        """Why the file cannot be read at all."""
        return file_faults(path, self.needed(labelled=labelled), layout_of(path))

    def read(self, path: Path, *, labelled: bool) -> Iterator[Row | Reject]:
        """The rows and rejects of the file, in its order; targets only where `labelled`."""
        needed = self.needed(labelled=labelled)

        def parse(fields: dict[str, Any]) -> tuple[tuple[Turns, ...], tuple[float, ...] | None]:
            missing = [name for name in needed if name not in fields]
            if missing:
                raise Fault(f"missing {', '.join(missing)}")
            texts = tuple(turns_of(fields[name], name) for name in self.columns.texts)
            return texts, self.label.target(fields) if labelled else None

        return to_rows(file_records(path, needed, layout_of(path)), self.columns.id, parse)


def turns_of(cell: Any, column: str) -> Turns:
    """The turns of a cell: a string or null is one turn, a list holds several.

    Raises:
        Fault: The cell is something else.
    """
    return as_turns([cell] if cell is None or isinstance(cell, str) else cell, column)
