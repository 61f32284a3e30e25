"""Matrices of features, dense or sparse, and what stands side by side in a design."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Matrix: TypeAlias = Any  # a dense array or a CSR matrix; scipy.sparse has no types


@dataclass(frozen=True)
class Block:
    """Features of one text column: a matrix `(n_rows, n_features)` and the names of its columns."""

    X: Matrix
    names: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """A design matrix `(n_rows, n_odd + n_even)`: the odd columns first."""

    X: Matrix
    n_odd: int

    def join(self, other: "Design") -> "Design":
        """Both designs side by side, odd columns first again."""
        left, right = self.n_odd, other.n_odd
        blocks = [self.X, other.X]
        if right and left < self.X.shape[1]:
            blocks = [self.X[:, :left], other.X[:, :right], self.X[:, left:], other.X[:, right:]]
        return Design(hstack(blocks), left + right)


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosine of the rows of two matrices `(n_rows, size)`: `(n_rows,)`, 0 where a vector is 0."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Floats = np.zeros_like(lengths)
    np.divide(np.einsum("ij,ij->i", a, b), lengths, out=cosines, where=lengths > 0)
    return cosines


def is_sparse(X: Matrix) -> bool:
    """Whether a matrix is no dense array (a stage that has none need not import scipy)."""
    return not isinstance(X, np.ndarray)


def n_bytes(X: Matrix) -> int:
    """The memory that the values of a matrix take, with their places where it is sparse (CSR)."""
    parts = (X.data, X.indices, X.indptr) if is_sparse(X) else (X,)
    return sum(int(part.nbytes) for part in parts)


def hstack(blocks: list[Matrix]) -> Matrix:
    """Matrices side by side; sparse (CSR) if any of them is."""
    if len(blocks) == 1:
        return blocks[0]
    if any(is_sparse(block) for block in blocks):
        from scipy import sparse

        # With a dense block among them, hstack would go through triplets: twice the memory
        return sparse.hstack([sparse.csr_matrix(block) for block in blocks], format="csr")
    return np.hstack(blocks)


def grow(first: Matrix, others: Iterable[Matrix]) -> Matrix:
    """Matrices one upon the other, each let go before the next one is made."""
    if not is_sparse(first):
        return np.vstack([first, *others])
    from scipy import sparse

    data, indices, lengths = first.data.copy(), first.indices.copy(), [np.diff(first.indptr)]
    for X in others:
        n = len(data)
        for array, more in ((data, X.data), (indices, X.indices)):
            array.resize(n + X.nnz, refcheck=False)  # moves pages, copies none
            array[n:] = more
        lengths.append(np.diff(X.indptr))
    starts = np.append(0, np.cumsum(np.concatenate(lengths), dtype=np.int64))
    return sparse.csr_matrix((data, indices, starts), shape=(len(starts) - 1, first.shape[1]))


def vstack(blocks: list[Matrix]) -> Matrix:
    """Matrices one upon the other; sparse (CSR) if any of them is."""
    if any(is_sparse(block) for block in blocks):
        from scipy import sparse

        return sparse.vstack(blocks, format="csr")
    return np.vstack(blocks)
