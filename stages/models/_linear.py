"""Linear classifiers as plain arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.special import softmax

from stages.base.tasks import Floats, Matrix


@dataclass(frozen=True)
class Linear:
    """Probabilities are softmax(X @ coef.T + intercept): `coef` is `(n_classes, n_features)`."""

    coef: Floats
    intercept: Floats

    def scores(self, X: Matrix) -> Floats:
        """Scores `(n_rows, n_classes)`, in float64."""
        return np.asarray(X @ self.coef.T.astype(np.float64)) + self.intercept

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        return np.asarray(softmax(self.scores(X), axis=1))

    def save(self, stem: Path) -> None:
        """Write `<stem>.safetensors`."""
        # safetensors writes memory as it lies: a transposed array would come back scrambled
        coef = np.ascontiguousarray(self.coef)
        save_file({"coef": coef, "intercept": self.intercept}, f"{stem}.safetensors")
