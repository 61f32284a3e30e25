"""Inverse document frequency: the part of tf-idf that is fitted on the rows of a fold."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stages.core.compiled import compiled
from stages.core.matrices import Block, Floats

Indices = npt.NDArray[np.intp]
WORD = "word "  # prefix of the names of word n-grams; character n-grams have another


def fit_idf(frequencies: Iterable[sparse.csr_matrix], rows: Indices | None = None) -> Floats:
    """Idf `(n_terms,)` of the texts in all `frequencies`: ln((1 + n) / (1 + df)) + 1.

    The smoothed form of scikit-learn. Only `rows` count, where they are given.
    """
    n = 0
    df: Floats = np.zeros(0)
    for matrix in frequencies:
        taken = np.arange(matrix.shape[0]) if rows is None else rows
        n += len(taken)
        df = df if df.size else np.zeros(matrix.shape[1])
        compiled(_add_frequencies)(matrix.indptr, matrix.indices, taken, df)
    return (np.log((1 + n) / (1 + df)) + 1).astype(np.float32)


def weigh(block: Block, idf: Floats) -> sparse.csr_matrix:
    """tf-idf: term frequencies times `idf`.

    The word part and the character part of each text have length 1 each.
    """
    X, data = block.X, np.empty_like(block.X.data, np.float32)
    is_word = np.array([name.startswith(WORD) for name in block.names])
    compiled(_weigh)(X.indptr, X.indices, X.data, idf, is_word, data)
    return sparse.csr_matrix((data, X.indices, X.indptr), shape=X.shape)


def _add_frequencies(indptr, indices, rows, df):  # type: ignore[no-untyped-def]
    for row in rows:
        for k in range(indptr[row], indptr[row + 1]):
            df[indices[k]] += 1


def _weigh(indptr, indices, data, idf, is_word, weighed):  # type: ignore[no-untyped-def]
    square = np.empty(2)  # of the characters, of the words
    for row in range(len(indptr) - 1):
        square[:] = 0
        for k in range(indptr[row], indptr[row + 1]):
            value = data[k] * idf[indices[k]]
            weighed[k] = value
            square[int(is_word[indices[k]])] += np.float64(value) * value
        length = np.sqrt(square)
        for k in range(indptr[row], indptr[row + 1]):
            weighed[k] /= length[int(is_word[indices[k]])]
