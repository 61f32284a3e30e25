"""Inverse document frequency: the part of tf-idf that is fitted on the rows of a fold."""

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from stages.base.tasks import Block, Floats

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
    X = block.X.copy()
    X.data = X.data * idf[X.indices]
    is_word = np.array([name.startswith(WORD) for name in block.names])
    part = 2 * np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)) + is_word[X.indices]
    length = np.sqrt(np.bincount(part, np.square(X.data, dtype=np.float64)))
    X.data /= length[part].astype(np.float32)
    return X
