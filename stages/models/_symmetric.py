"""Linear models of a symmetric task: fitted on both orders of each row, which is held once.

Under the swap the odd columns of a row change their sign and the even ones stay. So the product
with the odd columns and the product with the even ones say all of both orders, and a fit needs
half the rows. The matrix stays in float32 and is never copied; sums are in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse
from scipy.linalg import cholesky, solve_triangular

from stages.core.compiled import compiled
from stages.core.folds import Indices
from stages.core.matrices import Floats, Matrix

WHOLE = 512  # columns of which the curvature is known whole: all of style, common words


class OddEven:
    """Some rows of a design matrix, and their products with odd and even columns apart."""

    def __init__(self, X: Matrix, n_odd: int, rows: Indices) -> None:
        self.X = X if sparse.issparse(X) else sparse.csr_matrix(X)
        self.n_odd, self.rows = n_odd, rows
        self._arrays = (self.X.indptr, self.X.indices, self.X.data, rows, n_odd)

    def dot(self, coef: Floats) -> tuple[Floats, Floats]:
        """Products of the odd and of the even columns with `coef`, `(n_rows,)` each."""
        odd, even = np.empty(len(self.rows)), np.empty(len(self.rows))
        compiled(_dot)(*self._arrays, coef, odd, even)
        return odd, even

    def slopes(self, by_odd: Floats, by_even: Floats) -> Floats:
        """Slopes by the coefficients, `(n_features,)`, from those by the products of `dot`."""
        found = np.zeros(self.X.shape[1])
        compiled(_transposed_dot)(*self._arrays, by_odd, by_even, found)
        return found

    def squares(self, weight: Floats) -> Floats:
        """Weighted sum of the squares of each column, `(n_features,)`."""
        found = np.zeros(self.X.shape[1])
        compiled(_squares)(*self._arrays[:4], weight, found)
        return found


@dataclass(frozen=True)
class Curvature:
    """About how a mean loss bends in the coefficients and in the intercept, which comes last.

    Columns that are rare or nearly independent have only `diagonal`, `(n_features + 1,)`; the
    others are `columns`, and `root` is the lower Cholesky factor of their part of the Hessian.
    In variables in which all of it is 1, a descent takes a fourth of the steps.
    """

    diagonal: Floats
    columns: Indices
    root: Floats

    @classmethod
    def of(cls, X: OddEven, weight: Floats, bend: tuple[float, float], ridge: Floats) -> Self:
        """That of a loss with the second derivatives `bend` by the odd and by the even product.

        Args:
            X: The design.
            weight: Of the rows, `(n_rows,)`, so that the loss is a mean.
            bend: See above.
            ridge: Second derivative of the penalty, `(n_features + 1,)`.
        """
        by_column = np.where(np.arange(X.X.shape[1]) < X.n_odd, *bend)
        loss = by_column * X.squares(weight)
        n_whole = min(WHOLE, len(loss))
        columns = np.sort(np.argsort(-loss / ridge[:-1], kind="stable")[:n_whole])
        part = X.X[:, columns].toarray()[X.rows]
        hessian = np.diag(ridge[columns]).astype(np.float64)
        is_odd = columns < X.n_odd
        for own, bends in zip((is_odd, ~is_odd), bend, strict=True):
            rows = part[:, own] * np.sqrt(bends * weight[:, None]).astype(np.float32)
            hessian[np.ix_(own, own)] += rows.T @ rows
        intercept = bend[1] * weight.sum()
        return cls(np.append(loss, intercept) + ridge, columns, cholesky(hessian, lower=True))

    def to_coef(self, x: Floats) -> Floats:
        """The coefficients behind the variables in which the loss bends by 1."""
        coef = x / np.sqrt(self.diagonal)
        coef[self.columns] = solve_triangular(self.root, x[self.columns], lower=True, trans="T")
        return coef

    def from_coef(self, coef: Floats) -> Floats:
        """The variables of which `to_coef` makes `coef`."""
        x = coef * np.sqrt(self.diagonal)
        x[self.columns] = self.root.T @ coef[self.columns]
        return x

    def slopes(self, by_coef: Floats) -> Floats:
        """Slopes by these variables."""
        found = by_coef / np.sqrt(self.diagonal)
        found[self.columns] = solve_triangular(self.root, by_coef[self.columns], lower=True)
        return found


def descend(
    objective: Callable[[Floats], tuple[float, Floats]],
    curvature: Curvature,
    tolerance: float,
    start: Floats | None = None,
) -> Floats:
    """The coefficients and the intercept of the least `objective`, by L-BFGS.

    Args:
        objective: A convex mean loss, and its slopes.
        curvature: Of that loss.
        tolerance: Largest slope at the end, in variables in which the loss bends by about 1.
        start: Coefficients and intercept to begin with; None for 0.
    """
    from scipy.optimize import minimize

    def turned(x: Floats) -> tuple[float, Floats]:
        value, slopes = objective(curvature.to_coef(x))
        return value, curvature.slopes(slopes)

    options = {"maxiter": 1000, "gtol": tolerance, "ftol": 1e-13}
    x = np.zeros(len(curvature.diagonal)) if start is None else curvature.from_coef(start)
    found: Any = minimize(turned, x, jac=True, method="L-BFGS-B", options=options)
    return curvature.to_coef(found.x)


def _dot(indptr, indices, data, rows, n_odd, coef, odd, even):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        u = v = 0.0
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            column = indices[k]
            if column < n_odd:
                u += data[k] * coef[column]
            else:
                v += data[k] * coef[column]
        odd[i] = u
        even[i] = v


def _transposed_dot(  # type: ignore[no-untyped-def]
    indptr, indices, data, rows, n_odd, by_odd, by_even, found
):
    for i in range(len(rows)):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            column = indices[k]
            found[column] += data[k] * (by_odd[i] if column < n_odd else by_even[i])


def _squares(  # type: ignore[no-untyped-def]
    indptr, indices, data, rows, weight, found
):
    for i in range(len(rows)):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            found[indices[k]] += weight[i] * data[k] * data[k]
