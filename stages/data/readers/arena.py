"""The format of the Kaggle competitions *LLM Classification Finetuning* and *LMSYS Chatbot Arena*.

CSV in UTF-8. `prompt`, `response_a` and `response_b` each hold a JSON list of turns, a turn may be
null; the train file has one of three 0/1 flags set. The names of the models that answered are known
for the train part only; they would leak, so they stand apart from what a row tells (`Row.models`).
TSV, JSONL and Parquet with these columns are read too; the last two may hold lists instead of their
JSON.
Source: https://www.kaggle.com/competitions/llm-classification-finetuning/data
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stages.data.readers.files import file_faults, file_records, layout_of
from stages.data.readers.rows import (
    Fault,
    Reader,
    Reject,
    Row,
    Turns,
    as_number,
    as_turns,
    to_rows,
)

TEXTS = ("prompt", "response_a", "response_b")
MODELS = ("model_a", "model_b")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


class ArenaReader(Reader):
    """The competition's files, by their names in the raw folder."""

    format: Literal["arena"]

    @property
    def sample_columns(self) -> tuple[str, ...]:
        """The columns of a submission."""
        return ("id", *WINNERS)

    def needed(self, *, labelled: bool) -> list[str]:
        """The columns that a file must have."""
        return ["id", *TEXTS, *(WINNERS if labelled else ())]

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
            texts = tuple(turns_of(fields[name], name) for name in TEXTS)
            return texts, winner_of([fields[name] for name in WINNERS]) if labelled else None

        records = file_records(path, needed, layout_of(path), MODELS)
        return to_rows(records, "id", parse, models=MODELS if labelled else None)


def turns_of(cell: Any, column: str) -> Turns:
    """The turns of a cell: a list, or the JSON of one.

    Raises:
        Fault: The cell is no list of strings and nulls.
    """
    try:
        # raw newlines inside a string are allowed
        value = json.loads(cell, strict=False) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        raise Fault(f"unparsable turns in {column}") from None
    return as_turns(value, column)


def winner_of(flags: list[str]) -> tuple[float, ...]:
    """The target `(a, b, tie)` of three flags.

    Raises:
        Fault: Not exactly one of them is 1 and the others 0.
    """
    target = tuple(as_number(flag) for flag in flags)
    if not set(target) <= {0.0, 1.0}:
        raise Fault("winner flags are not all 0 or 1")
    if sum(target) != 1:
        raise Fault("no winner" if sum(target) == 0 else "more than one winner")
    return target
