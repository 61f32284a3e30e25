"""Is a paired difference of losses real? A bootstrap over groups of rows.

Rows of a group (near-duplicates of one prompt) are not independent, so whole groups are drawn: a
resample is a multinomial count over the groups, and the mean difference a ratio of two sums. The
interval is studentised (bootstrap-t; Efron and Tibshirani, 1993, chapter 12): each resample's
deviation from the mean is divided by its own cluster-robust standard error, and the quantiles of
that ratio widen the observed one, since the percentile interval is too narrow for skewed losses.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.matrices import Floats
from stages.evaluation.judging import resampled_sums

RESAMPLES = 10_000
LEVEL = 0.95
# Normal quantiles .975 + .8: a true difference of so many standard errors is found at 5 % in 80 %
# of all repetitions.
DETECTABLE = 2.80
# Below so many groups that differ there is nothing to draw from: one resample in some thousands
# would hold none of them.
FEWEST = 10

Verdict: TypeAlias = Literal["better", "worse", "undecided", "same"]


@dataclass(frozen=True)
class Interval:
    """The mean difference (after - before: below 0 is better) and how sure it is.

    `low`, `high` and `detectable` are None where fewer than ten groups differ.
    """

    difference: float
    low: float | None
    high: float | None
    detectable: float | None
    verdict: Verdict


def interval(
    differences: Floats, clusters: npt.NDArray[np.intp], resamples: int = RESAMPLES
) -> Interval:
    """The 95 % interval of the mean of `differences` (loss after - before), and the verdict.

    `clusters` are the numbers of the rows' groups, from 0. The resamples are always the same ones
    for the same number of groups.
    """
    mean = float(differences.mean())
    if not differences.any():
        return Interval(0.0, None, None, None, "same")
    if len(np.unique(clusters[differences != 0])) < FEWEST:
        return Interval(mean, None, None, None, "undecided")
    sums = np.bincount(clusters, differences - mean).astype(float)  # of deviations: 0 in all
    columns = _columns(sums, np.bincount(clusters).astype(float))
    error = _deviations(columns.sum(axis=0)[None], len(sums))[1][0]
    deviations, errors = _deviations(resampled_sums(columns, resamples), len(sums))
    ratios = np.divide(deviations, errors, out=np.zeros_like(errors), where=errors > 0)
    tail = (1 - LEVEL) / 2
    upper, lower = np.quantile(ratios, [1 - tail, tail])
    low, high = float(mean - upper * error), float(mean - lower * error)
    verdict: Verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    return Interval(mean, low, high, float(DETECTABLE * error), verdict)


def _columns(sums: Floats, sizes: Floats) -> Floats:
    """What the mean deviation and its error are made of, from sums and rows of each group."""
    return np.column_stack([sums, sizes, sums**2, sums * sizes, sizes**2])


def _deviations(totals: Floats, n_groups: int) -> tuple[Floats, Floats]:
    """Mean deviation and its cluster-robust standard error in each resample, `(n_resamples,)`."""
    total, rows, squares, products, sizes_squared = totals.T
    mean = total / rows
    spread = squares - 2 * mean * products + mean**2 * sizes_squared
    return mean, np.sqrt(np.maximum(spread, 0) * n_groups / (n_groups - 1)) / rows
