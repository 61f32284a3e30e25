"""The losses that training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages.core.matrices import Floats
from stages.core.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor


def smooth(task: Task, targets: Floats, smoothing: float) -> Floats:
    """Targets with a share `smoothing` spread over all answers (Szegedy et al., 2016)."""
    n_answers = len(task.classes) if task.exclusive else 2
    smoothed: Floats = (1 - smoothing) * targets + smoothing / n_answers
    return smoothed


def ignorance(task: Task) -> float:
    """The loss of a model that gives all answers the same probability."""
    return float(np.log(len(task.classes) if task.exclusive else 2))


def class_weights(task: Task, targets: Floats) -> npt.NDArray[np.float64]:
    """A weight for each row `(n_rows,)` that gives all classes the same total weight.

    This is scikit-learn's `balanced`, extended to soft targets. In a symmetric task each row is
    counted in both orders. If the classes are not exclusive, every weight is 1.
    """
    if not task.exclusive:
        return np.ones(len(targets))
    both = (targets + task.swap_classes(targets)) / 2
    total = both.sum(axis=0)
    present = total > 0
    weight = np.zeros(len(total))
    weight[present] = total.sum() / (present.sum() * total[present])
    return np.asarray(both @ weight, dtype=np.float64)


def sequence_losses(scores: Tensor, targets: Tensor, *, exclusive: bool) -> Tensor:
    """Log loss `(n,)` of scores `(n, n_classes)` under soft targets, as in `Task.row_losses`.

    If the classes are not exclusive, it is the mean of their binary log losses.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    if exclusive:
        return cross_entropy(scores, targets, reduction="none")
    return binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(dim=1)


def disagreement(one: Tensor, other: Tensor, *, exclusive: bool) -> Tensor:
    """Mean of both Kullback-Leibler divergences `(n,)` of two predictions, given their scores.

    For two passes of the same sequences through dropout this is R-Drop (Wu et al., 2021,
    https://arxiv.org/abs/2106.14448).
    """
    if exclusive:
        apart = one.softmax(dim=1) - other.softmax(dim=1)
        return (apart * (one - other)).sum(dim=1) / 2  # the normalising constants cancel out
    return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean(dim=1) / 2
