"""Inverse document frequency: the part of tf-idf that is fitted on the rows of a fold."""

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from stages.base.tasks import Block, Floats

ROWS = 4096  # weighed at a time: bounds the memory
WORD = "word "  # prefix of the names of word n-grams; character n-grams have another


def fit_idf(frequencies: Iterable[sparse.csr_matrix]) -> Floats:
    """Idf `(n_terms,)` of the texts in all `frequencies`: ln((1 + n) / (1 + df)) + 1.

    The smoothed form of scikit-learn.
    """
    n = 0
    df: Floats = np.zeros(0)
    for matrix in frequencies:
        n += matrix.shape[0]
        df = np.bincount(matrix.indices, minlength=matrix.shape[1]) + (df if df.size else 0)
    return (np.log((1 + n) / (1 + df)) + 1).astype(np.float32)


def weigh(block: Block, idf: Floats) -> sparse.csr_matrix:
    """tf-idf: term frequencies times `idf`.

    The word part and the character part of each text have length 1 each.
    """
    X, data = block.X, np.empty_like(block.X.data, np.float32)
    is_word = np.array([name.startswith(WORD) for name in block.names])
    for first in range(0, X.shape[0], ROWS):
        starts = X.indptr[first : first + ROWS + 1]
        here = slice(starts[0], starts[-1])
        values = X.data[here] * idf[X.indices[here]]
        part = 2 * np.repeat(np.arange(len(starts) - 1), np.diff(starts)) + is_word[X.indices[here]]
        length = np.sqrt(np.bincount(part, np.square(values, dtype=np.float64)))
        data[here] = values / length[part]
    return sparse.csr_matrix((data, X.indices, X.indptr), shape=X.shape)
