"""Linear classifiers as plain arrays, and what of scikit-learn fits them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from stages.core.folds import Indices
from stages.core.matrices import Floats, Matrix
from stages.core.tasks import Task
from stages.models.fitting.sample import Sample


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

    @classmethod
    def load(cls, stem: Path, task: Task) -> "Linear":
        """Read what `save` wrote."""
        return cls(task, **load_file(f"{stem}.safetensors"))


def fit_linear(
    sample: Sample, make: Callable[[], Any], *, count_ratios: bool = False
) -> tuple[Floats, Floats]:
    """Coefficients `(n_classes, n_features)` and intercepts `(n_classes,)`.

    Args:
        sample: Where its classes are not exclusive, each gets a classifier of its own.
        make: A new linear classifier of scikit-learn.
        count_ratios: Scale the columns for each class by its log-count ratios. Each class gets a
            classifier of its own then.
    """
    if sample.task.exclusive and not count_ratios:
        return _fit_rows(make(), sample.X, sample.y, sample.weight, sample.n_classes)
    found = []
    for share in sample.targets.T:
        # A soft target is a yes and a no, each with its weight
        row, yes = np.nonzero(np.column_stack([1 - share, share]))
        X = sample.X if len(row) == len(share) else sample.X[row]
        weight = sample.weight[row] * np.where(yes, share[row], 1 - share[row])
        ratio = log_count_ratios(X, yes, weight) if count_ratios else np.ones(1, np.float32)
        if count_ratios:
            X = (X @ sparse.diags_array(ratio)).tocsr() if sparse.issparse(X) else X * ratio
        rows, intercepts = _fit_rows(make(), X, yes, weight, 2)
        found.append(((rows[1] - rows[0]) * ratio, intercepts[1] - intercepts[0]))
    coef, intercept = zip(*found, strict=True)
    return np.stack(coef), np.array(intercept)


def log_count_ratios(X: Matrix, yes: Indices, weight: Floats) -> Floats:
    """|log r| of each column, `(n_features,)`, r the ratio of its shares among yes and no rows.

    Wang and Manning (Baselines and bigrams, 2012): a term that is as frequent in both tells nothing
    and is shrunk. Counted are the rows that have the term, with one more of each. Columns with
    negative values are no terms and keep their scale.
    """
    has = X != 0
    counts = [1 + np.asarray((weight * (yes == answer)) @ has).ravel() for answer in (1, 0)]
    r = (counts[0] / counts[0].sum()) / (counts[1] / counts[1].sum())
    lowest = X.min(axis=0)
    lowest = lowest.toarray().ravel() if sparse.issparse(lowest) else np.asarray(lowest)
    ratios: Floats = np.where(lowest < 0, 1, np.abs(np.log(r))).astype(np.float32)
    return ratios


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
