"""Rows to judge on that were not fitted on, also where only one fold was predicted."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stages.base.folds import NO_FOLD, Folds

PARTS = 5  # of the one fold that was predicted

Rows = npt.NDArray[np.bool_]


def judging_folds(folds: Folds, judged: Rows) -> Folds:
    """The stored folds; where the rows to judge on are of one fold, parts of its groups.

    Args:
        folds: For all rows.
        judged: `(n_rows,)`, the rows to judge on; the others get no part.
    """
    if len(np.unique(folds.fold[judged])) > 1:
        return folds
    groups, member = np.unique(folds.group, return_inverse=True)
    part = np.random.default_rng(0).permutation(len(groups)) % PARTS
    return replace(folds, fold=np.where(judged, part[member], NO_FOLD))
