"""The format of the Kaggle competitions *LLM Classification Finetuning* and *LMSYS Chatbot Arena*.

CSV in UTF-8. `prompt`, `response_a` and `response_b` each hold a JSON list of turns, a turn may be
null; the train file has one of three 0/1 flags set. The names of the models that answered are known
for the train part only and are not read: they would leak.
Source: https://www.kaggle.com/competitions/llm-classification-finetuning/data
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stages.readers.rows import (
    Fault,
    Reader,
    Reject,
    Row,
    Turns,
    as_number,
    as_turns,
    csv_faults,
    csv_records,
    to_rows,
)

TEXTS = ("prompt", "response_a", "response_b")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


class ArenaReader(Reader):
    """The competition's files, by their names in the raw folder."""

    format: Literal["arena"]

    @property
    def sample_columns(self) -> tuple[str, ...]:
        """The columns of a submission."""
        return ("id", *WINNERS)

    def faults(self, path: Path, *, labelled: bool) -> list[str]:
        """Why the file cannot be read at all."""
        return csv_faults(path, ["id", *TEXTS, *(WINNERS if labelled else ())])

    def read(self, path: Path, *, labelled: bool) -> Iterator[Row | Reject]:
        """The rows and rejects of the file, in its order; targets only where `labelled`."""

        def parse(fields: dict[str, Any]) -> tuple[tuple[Turns, ...], tuple[float, ...] | None]:
            texts = tuple(turns_of(fields[name], name) for name in TEXTS)
            return texts, winner_of([fields[name] for name in WINNERS]) if labelled else None

        return to_rows(csv_records(path), "id", parse)


def turns_of(cell: str, column: str) -> Turns:
    """The turns of a JSON cell.

    Raises:
        Fault: The cell is no JSON list of strings and nulls.
    """
    try:
        value = json.loads(cell, strict=False)  # raw newlines inside a string are allowed
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
