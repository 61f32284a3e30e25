"""The cleaned texts of a dataset, read in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from stages.core.folds import TRAIN
from stages.core.tables import ID, PART, by_id, read_table, rows_of
from stages.runtime import parallel
from stages.runtime.batches import read_batches

ROWS = 1024  # of a batch; changes no result

R = TypeVar("R")


@dataclass(frozen=True)
class Corpus:
    """Cleaned texts on disk: those rows of the table `path` that `taken` marks.

    `ids` and `is_train` are of the rows that are taken, in the order of the table.
    """

    path: Path
    columns: tuple[str, ...]
    taken: npt.NDArray[np.bool_]
    ids: pd.Series
    is_train: npt.NDArray[np.bool_]

    @property
    def train(self) -> "Corpus":
        """The rows of the train part."""
        taken = self.taken.copy()
        taken[taken] = self.is_train
        ids = self.ids[self.is_train].reset_index(drop=True)
        return replace(self, taken=taken, ids=ids, is_train=self.is_train[self.is_train])

    def map(self, function: Callable[[pd.DataFrame], R]) -> Iterator[R]:
        """What `function` makes of each batch of the text columns, in order."""
        columns = list(self.columns)
        return parallel.stream(lambda batch: function(batch.to_pandas()[columns]), self.batches())

    def draw(self, max_texts: int, seed: int) -> Iterator[tuple[str, list[str]]]:
        """About `max_texts` texts (each is drawn by itself), by batch and column."""
        n = len(self.ids)
        share = min(1.0, max_texts / max(n * len(self.columns), 1))
        rng = np.random.default_rng(seed)
        drawn = {column: rng.random(n) < share for column in self.columns}
        first = 0
        for batch in self.batches():
            last = first + len(batch)
            for column in self.columns:
                yield column, batch[column].filter(drawn[column][first:last]).to_pylist()
            first = last

    def batches(self) -> Iterator[Any]:
        """Arrow record batches of the rows that are taken."""
        first = 0
        n_batches = max(1, -(-len(self.taken) // ROWS))
        batches = read_batches(self.path, self.columns, ROWS)
        for batch in tqdm(
            batches, desc=self.path.stem, unit="batch", disable=None, total=n_batches
        ):
            last = first + len(batch)
            yield batch.filter(self.taken[first:last])
            first = last


def column_by_column(texts: pd.DataFrame) -> Iterator[str]:
    """The texts of all columns, those of the first before those of the next."""
    return (text for column in texts for text in texts[column])


def read_corpus(clean: Path, folds: Path, columns: tuple[str, ...]) -> Corpus:
    """The cleaned texts of the rows in `folds`.

    Raises:
        InputError: A table is missing, damaged or lacks a column, or a row has no cleaned text.
    """
    parts = read_table(folds, [ID, PART])
    rows_of(clean, [ID, *columns])
    stored = read_table(clean, [ID])
    by_id(stored, parts[ID], clean)  # complains of rows that are missing
    part = parts.set_index(ID)[PART].reindex(stored[ID])
    taken = part.notna().to_numpy()
    ids = stored.loc[taken, ID].reset_index(drop=True)
    return Corpus(clean, columns, taken, ids, (part[taken] == TRAIN).to_numpy())
