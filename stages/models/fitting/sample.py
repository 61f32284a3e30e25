"""What a model is fitted on: rows with their classes and a weight each, balanced."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.folds import Indices, parts_of_groups
from stages.core.matrices import Design, Floats, Matrix, vstack
from stages.core.tasks import Task

Balance: TypeAlias = Literal["none", "weights", "oversampling"]


@dataclass(frozen=True)
class Sample:
    """Rows `X` (the first `n_odd` columns odd), their classes `y`, weights and groups.

    Where classes are exclusive, `y` are class numbers `(n_rows,)`, and soft targets stand as one
    weighted row a class. Else `y` are the targets `(n_rows, n_classes)` themselves. Under the
    weights `natural` the classes are as frequent as before they were balanced.
    """

    task: Task
    X: Matrix
    n_odd: int
    y: npt.NDArray[Any]
    weight: Floats
    natural: Floats
    group: npt.NDArray[np.integer]

    @property
    def n_classes(self) -> int:
        """The number of classes of the task, also of those that the sample lacks."""
        return len(self.task.classes)

    @property
    def targets(self) -> Floats:
        """Targets `(n_rows, n_classes)`, not weighted."""
        return self.y if self.y.ndim == 2 else np.eye(self.n_classes)[self.y]

    def take(self, rows: Indices) -> "Sample":
        """Some of the rows."""
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            weight=self.weight[rows],
            natural=self.natural[rows],
            group=self.group[rows],
        )

    def both_orders(self, turned: Matrix | None = None) -> "Sample":
        """All rows, and behind them all rows with A and B exchanged, where the task has a swap.

        `turned` are the columns of the exchanged rows, where they are no design's.
        """
        if not self.task.symmetric:
            return self
        if turned is None:
            turned = self.task.swap_design(self.X, self.n_odd)
        return replace(
            self,
            X=vstack([self.X, turned]),
            y=np.concatenate([self.y, self.task.swap_class_numbers(self.y)]),
            weight=np.tile(self.weight, 2),
            natural=np.tile(self.natural, 2),
            group=np.tile(self.group, 2),
        )

    def splits(self, n: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
        """`n` disjoint (fit, held) pairs of row numbers that keep groups whole."""
        part = parts_of_groups(self.group, n, seed)
        for number in range(n):
            yield np.flatnonzero(part != number), np.flatnonzero(part == number)


def make_sample(
    task: Task,
    design: Design,
    targets: Floats,
    group: npt.NDArray[np.integer],
    balance: Balance,
    seed: int,
) -> Sample:
    """A sample of all rows.

    Args:
        task: Knows the swap, and whether the classes are exclusive.
        design: Of the training rows.
        targets: `(n_rows, n_classes)`; rows sum to 1 where the classes are exclusive.
        group: `(n_rows,)`.
        balance: `weights` gives each class the same total weight, `oversampling` repeats rows of
            the rarer classes at random until all are as frequent as the most frequent. A row with
            several classes counts for the rarest of them, rows with none are a class of their
            own. Both move the predicted probabilities away from the frequencies, unless a model
            is calibrated under the natural weights.
        seed: Of the oversampling.
    """
    if task.exclusive:
        row, stratum = np.nonzero(targets)
        weight = targets[row, stratum]
    else:
        row, stratum = np.arange(len(targets)), rarest(targets >= 0.5)
        weight = np.ones(len(targets))
    natural = weight
    if balance == "weights":
        total = np.bincount(stratum, weight)
        weight = weight * (weight.sum() / (np.count_nonzero(total) * total[stratum]))
    if balance == "oversampling":
        drawn = _oversample(stratum, weight, seed)
        natural = (weight / np.bincount(drawn))[drawn]
        row, stratum, weight = row[drawn], stratum[drawn], weight[drawn]
    X = design.X if np.array_equal(row, np.arange(design.X.shape[0])) else design.X[row]
    y = stratum if task.exclusive else targets[row]
    return Sample(task, X, design.n_odd, y, weight, natural, group[row])


def rarest(has: npt.NDArray[np.bool_]) -> Indices:
    """Number of the rarest class that each row has, `(n_rows,)`; `n_classes` where it has none.

    Args:
        has: `(n_rows, n_classes)`.
    """
    frequency = np.where(has, has.sum(axis=0), len(has) + 1)
    number: Indices = np.where(has.any(axis=1), frequency.argmin(axis=1), has.shape[1])
    return number


def _oversample(y: npt.NDArray[np.intp], weight: Floats, seed: int) -> Indices:
    rng = np.random.default_rng(seed)
    size, total = np.bincount(y), np.bincount(y, weight)
    drawn = [np.arange(len(y))]
    for number in np.flatnonzero(size):
        missing = (total.max() - total[number]) * size[number] / total[number]
        drawn.append(rng.choice(np.flatnonzero(y == number), round(missing)))
    return np.concatenate(drawn)
