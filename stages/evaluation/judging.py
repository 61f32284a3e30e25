"""Rows to judge on that were not fitted on, and how sure a mean over them is."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.core.folds import NO_FOLD, Folds, parts_of_groups
from stages.core.matrices import Floats

PARTS = 5  # of the one fold that was predicted
BATCH = 2**20  # counts of groups that a bootstrap holds at a time

Rows = npt.NDArray[np.bool_]


def clustered_mean(values: Floats, group: npt.NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Mean of the values that are known, and its standard error, clustered by group.

    Rows of a prompt are no independent draws (Liang and Zeger 1986). Values are `(n_rows,)`, NaN
    where unknown. NaN is also the error of a single group, and both where no value is known.
    """
    known = ~np.isnan(values)
    if not known.any():
        return float("nan"), float("nan")
    mean = float(values[known].mean())
    _, member = np.unique(group[known], return_inverse=True)
    sums = np.bincount(member, values[known] - mean)
    if len(sums) < 2:
        return mean, float("nan")
    variance = len(sums) / (len(sums) - 1) * np.square(sums).sum()
    return mean, float(np.sqrt(variance) / known.sum())


def judging_folds(folds: Folds, judged: Rows) -> Folds:
    """The stored folds; where the rows `judged` `(n_rows,)` are of one fold, parts of its groups.

    The other rows get no part then.
    """
    if len(np.unique(folds.fold[judged])) > 1:
        return folds
    part = parts_of_groups(folds.group, PARTS, seed=0)
    return replace(folds, fold=np.where(judged, part, NO_FOLD))


def resampled_sums(sums: Floats, samples: int, seed: int = 0) -> Floats:
    """Sums over the rows of bootstrap samples, `(samples, n_columns)`.

    Whole groups are drawn, with replacement: the rows of a group are not independent. `sums` are
    those of each group, `(n_groups, n_columns)`. A seed draws the same of equally many groups.
    """
    rng = np.random.default_rng(seed)
    n = len(sums)
    step = max(1, BATCH // n)
    found = []
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(0, n, size=(rows, n), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        found.append(counts.astype(float) @ sums)
    return np.concatenate(found)
