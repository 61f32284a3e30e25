"""Token ids of all rows on disk: one flat array, and where each sequence starts in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.errors import InputError
from stages.core.tables import (
    ID,
    atomic,
    read_array,
    read_json,
    read_table,
    write_json,
    write_table,
)

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """The sequences of rows, where each row has `n_orders` in succession (2 for a pair, else 1).

    `flat` is int32 `(n_tokens,)`, `offsets` is int64 `(n_rows * n_orders + 1,)`, and `pad_id` is
    the pad token of the backbone's tokenizer.
    """

    flat: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    n_orders: int
    pad_id: int = 0

    @classmethod
    def of(cls, sequences: Sequence[npt.NDArray[np.int32]], n_orders: int, pad_id: int) -> Tokens:
        """Tokens from sequences that are sorted by row, then order."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(ids) for ids in sequences], out=offsets[1:])
        flat = np.concatenate([np.zeros(0, np.int32), *sequences])
        return cls(flat, offsets, n_orders, pad_id)

    def lengths(self) -> Lengths:
        """The number of tokens in each sequence, `(n_rows, n_orders)`."""
        return np.diff(self.offsets).reshape(-1, self.n_orders)

    def sequence(self, row: int, order: int) -> npt.NDArray[np.int32]:
        """The ids of one sequence, as a view."""
        at = row * self.n_orders + order
        return self.flat[self.offsets[at] : self.offsets[at + 1]]

    def rows(self, rows: npt.NDArray[Any]) -> Tokens:
        """The tokens of some rows, in the given order, in memory."""
        wanted = [self.sequence(int(row), k) for row in rows for k in range(self.n_orders)]
        return Tokens.of(wanted, self.n_orders, self.pad_id)

    def pad(
        self,
        sequences: npt.NDArray[Any] | Sequence[tuple[int, int]],
        side: Literal["left", "right"] = "right",
        multiple: int = 1,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids and attention mask `(n, longest)` of sequences given as (row, order).

        The mask is 1 on tokens and 0 on padding. `longest` is a multiple of `multiple`.
        """
        found = [self.sequence(int(row), int(order)) for row, order in sequences]
        lengths = np.array([len(ids) for ids in found], np.int64)
        place = np.arange(-(-int(lengths.max(initial=0)) // multiple) * multiple)
        if side == "left":
            place = place[::-1]
        mask = place < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, np.int64)
        if found:
            ids[mask] = np.concatenate(found)
        return ids, mask.astype(np.int64)


def write_tokens(folder: Path, ids: pd.Series, tokens: Tokens) -> None:
    """Write `tokens` as a folder; `ids` are those of their rows."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_table(ids.to_frame(ID), temporary / "ids.parquet")
        np.save(temporary / "flat.npy", tokens.flat, allow_pickle=False)
        np.save(temporary / "offsets.npy", tokens.offsets, allow_pickle=False)
        write_json(
            {"n_orders": tokens.n_orders, "pad_id": tokens.pad_id}, temporary / "tokens.json"
        )


def read_tokens(folder: Path, ids: pd.Series) -> Tokens:
    """Read what `write_tokens` wrote, with rows in the order of `ids`.

    If the stored rows are already in that order, the tokens stay on disk (memory-mapped).

    Raises:
        InputError: The folder is incomplete, or lacks an id.
    """
    stored = read_table(folder / "ids.parquet")[ID]
    rows = pd.Index(stored).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(
            f"{folder}: no tokens for {(rows < 0).sum()} of {len(ids)} ids, the first is "
            f"{ids[rows < 0].iloc[0]!r}; expected those of the rows that the stage tokens read"
        )
    about = read_json(folder / "tokens.json")
    tokens = Tokens(
        read_array(folder / "flat.npy"), read_array(folder / "offsets.npy"),
        about["n_orders"], about["pad_id"],
    )  # fmt: skip
    aligned = np.array_equal(rows, np.arange(len(stored)))
    return tokens if aligned else tokens.rows(rows)
