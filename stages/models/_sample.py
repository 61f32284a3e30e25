"""What a model is fitted on: rows with one class and a weight each, balanced."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.base.folds import Indices
from stages.base.tasks import Design, Floats, Matrix, Preference, vstack

Balance: TypeAlias = Literal["none", "weights", "oversampling"]


@dataclass(frozen=True)
class Sample:
    """Rows `X` (the first `n_odd` columns odd), class numbers `y`, weights and groups.

    Soft targets stand as one weighted row a class.
    """

    task: Preference
    X: Matrix
    n_odd: int
    y: npt.NDArray[np.intp]
    weight: Floats
    group: npt.NDArray[np.integer]

    @property
    def n_classes(self) -> int:
        """The number of classes of the task, also of those that the sample lacks."""
        return len(self.task.classes)

    def take(self, rows: Indices) -> "Sample":
        """Some of the rows."""
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            weight=self.weight[rows],
            group=self.group[rows],
        )

    def both_orders(self) -> "Sample":
        """All rows, and behind them all rows with A and B exchanged."""
        return replace(
            self,
            X=vstack([self.X, self.task.swap_design(self.X, self.n_odd)]),
            y=np.concatenate([self.y, self.task.swap_class_numbers(self.y)]),
            weight=np.tile(self.weight, 2),
            group=np.tile(self.group, 2),
        )

    def splits(self, n: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
        """`n` disjoint (fit, held) pairs of row numbers that keep groups whole."""
        groups, member = np.unique(self.group, return_inverse=True)
        part = np.random.default_rng(seed).permutation(len(groups)) % n
        for number in range(n):
            held = part[member] == number
            yield np.flatnonzero(~held), np.flatnonzero(held)


def make_sample(
    task: Preference,
    design: Design,
    targets: Floats,
    group: npt.NDArray[np.integer],
    balance: Balance,
    seed: int,
) -> Sample:
    """A sample of all rows.

    Args:
        task: Knows the swap.
        design: Of the training rows.
        targets: `(n_rows, n_classes)`; rows sum to 1.
        group: `(n_rows,)`.
        balance: `weights` gives each class the same total weight, `oversampling` repeats rows of
            the rarer classes at random until all are as frequent as the most frequent. Both move
            the predicted probabilities away from the frequencies.
        seed: Of the oversampling.
    """
    row, y = np.nonzero(targets)
    weight = targets[row, y]
    if balance == "weights":
        total = np.bincount(y, weight, minlength=targets.shape[1])
        weight = weight * (weight.sum() / (np.count_nonzero(total) * total[y]))
    if balance == "oversampling":
        drawn = _oversample(y, seed)
        row, y, weight = row[drawn], y[drawn], weight[drawn]
    X = design.X if np.array_equal(row, np.arange(design.X.shape[0])) else design.X[row]
    return Sample(task, X, design.n_odd, y, weight, group[row])


def _oversample(y: npt.NDArray[np.intp], seed: int) -> Indices:
    rng = np.random.default_rng(seed)
    size = np.bincount(y)
    drawn = [np.arange(len(y))]
    drawn += [
        rng.choice(np.flatnonzero(y == number), size.max() - size[number])
        for number in np.flatnonzero(size)
    ]
    return np.concatenate(drawn)
