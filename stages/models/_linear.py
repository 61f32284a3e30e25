"""Linear classifiers as plain arrays, and what of scikit-learn fits them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from stages.base.folds import Indices
from stages.base.tasks import Floats, Matrix, Task
from stages.models._sample import Sample


@dataclass(frozen=True)
class Linear:
    """Scores are X @ coef.T + intercept: `coef` is `(n_classes, n_features)`."""

    task: Task
    coef: Floats
    intercept: Floats

    def scores(self, X: Matrix) -> Floats:
        """Scores `(n_rows, n_classes)`, in float64."""
        return np.asarray(X @ self.coef.T.astype(np.float64)) + self.intercept

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        return self.task.link(self.scores(X))

    def save(self, stem: Path) -> None:
        """Write `<stem>.safetensors`."""
        # safetensors writes memory as it lies: a transposed array would come back scrambled
        coef = np.ascontiguousarray(self.coef)
        save_file({"coef": coef, "intercept": self.intercept}, f"{stem}.safetensors")


def fit_linear(sample: Sample, make: Callable[[], Any]) -> tuple[Floats, Floats]:
    """Coefficients `(n_classes, n_features)` and intercepts `(n_classes,)`.

    Args:
        sample: Where its classes are not exclusive, each gets a classifier of its own.
        make: A new linear classifier of scikit-learn.
    """
    if sample.task.exclusive:
        return _fit_rows(make(), sample.X, sample.y, sample.weight, sample.n_classes)
    found = []
    for share in sample.y.T:
        # A soft target is a yes and a no, each with its weight
        row, yes = np.nonzero(np.column_stack([1 - share, share]))
        X = sample.X if len(row) == len(share) else sample.X[row]
        weight = sample.weight[row] * np.where(yes, share[row], 1 - share[row])
        rows, intercepts = _fit_rows(make(), X, yes, weight, 2)
        found.append((rows[1] - rows[0], intercepts[1] - intercepts[0]))
    coef, intercept = zip(*found, strict=True)
    return np.stack(coef), np.array(intercept)


def _fit_rows(
    machine: Any, X: Matrix, y: Indices, weight: Floats, n_classes: int
) -> tuple[Floats, Floats]:
    """As `fit_linear`, from class numbers `y`; a class without rows counts as half a row."""
    present = np.unique(y)
    coef = np.zeros((n_classes, X.shape[1]))
    intercept = np.full(n_classes, -np.log(2 * len(y)))
    if len(present) == 1:
        intercept[present] = 0
        return coef, intercept
    machine.fit(X, y, weight)
    both = len(present) == 2  # scikit-learn keeps one row for two classes
    coef[present] = np.vstack([-machine.coef_, machine.coef_]) / 2 if both else machine.coef_
    b = machine.intercept_
    intercept[present] = np.concatenate([-b, b]) / 2 if both else b
    return coef, intercept
