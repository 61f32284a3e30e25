"""The stored folds: who may be trained on, and who is predicted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.errors import InputError
from stages.core.matrices import Floats
from stages.core.tables import FOLD, GROUP, ID, PART, TARGET, read_table
from stages.core.tasks import Task

TRAIN = "train"
DEV = "dev"  # labelled, scored apart, never trained on
TEST = "test"
NO_FOLD = -1
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Folds:
    """Row by row: id, part, fold (-1 outside the train part), group and targets."""

    ids: pd.Series
    part: npt.NDArray[Any]
    fold: npt.NDArray[np.integer[Any]]
    group: npt.NDArray[Any]
    targets: Floats

    @property
    def numbers(self) -> list[int]:
        """The folds that there are, in order."""
        return sorted({int(fold) for fold in self.fold if fold != NO_FOLD})

    def train(self, fold: int | None) -> Indices:
        """Rows that the model of `fold` may see: the train part without that fold (None: all)."""
        return np.flatnonzero(
            (self.part == TRAIN) & (self.fold != (NO_FOLD if fold is None else fold))
        )

    @property
    def judged(self) -> Indices:
        """Rows that are predicted out of fold: the train part."""
        return np.flatnonzero(self.part == TRAIN)

    def held(self, fold: int) -> Indices:
        """Rows that the model of `fold` predicts out of fold."""
        return np.flatnonzero((self.part == TRAIN) & (self.fold == fold))

    def take(self, rows: Indices) -> "Folds":
        """Some of the rows."""
        return Folds(
            ids=self.ids.iloc[rows].reset_index(drop=True),
            part=self.part[rows],
            fold=self.fold[rows],
            group=self.group[rows],
            targets=self.targets[rows],
        )

    @property
    def unseen(self) -> Indices:
        """Rows that no fold's model sees (the dev and test parts)."""
        return np.flatnonzero(self.part != TRAIN)


def parts_of_groups(group: npt.NDArray[Any], n: int, seed: int) -> Indices:
    """A random part, 0 to `n` - 1, for each row, `(n_rows,)`; rows of a group share theirs."""
    groups, member = np.unique(group, return_inverse=True)
    part: Indices = np.random.default_rng(seed).permutation(len(groups)) % n
    return part[member]


def read_folds(path: Path, task: Task) -> Folds:
    """Read folds.parquet."""
    targets = [TARGET + name for name in task.classes]
    frame = read_table(path, [ID, PART, FOLD, GROUP, *targets])
    folds = Folds(
        ids=frame[ID],
        part=frame[PART].to_numpy(),
        fold=frame[FOLD].to_numpy(),
        group=frame[GROUP].to_numpy(),
        targets=frame[targets].to_numpy(np.float64),
    )
    if len(folds.numbers) < 2:
        raise InputError(f"{path}: {FOLD}: got {folds.numbers}; expected at least two folds")
    return folds
