import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer

from stages.core.idf import fit_idf, weigh
from stages.core.matrices import Block


def make_counts(seed):
    X = np.random.default_rng(seed).poisson(0.6, size=(7, 10)).astype(np.float32)
    X[2] = 0  # an empty text
    X[3, :5] = 0  # a text without known words
    return sparse.csr_matrix(X)


def test_idf_and_weights_are_those_of_scikit_learn():
    one, other = make_counts(0), make_counts(1)
    idf = fit_idf([one, other])
    both = sparse.vstack([one, other], format="csr")
    oracle = TfidfTransformer(norm=None).fit(both)
    np.testing.assert_allclose(idf, oracle.idf_, rtol=1e-6)
    assert idf.dtype == np.float32

    names = tuple(f"word {i}" for i in range(10))
    expected = TfidfTransformer().fit(both).transform(one)
    np.testing.assert_allclose(
        weigh(Block(one, names), idf).toarray(), expected.toarray(), atol=1e-6
    )


def test_words_and_characters_of_each_text_have_length_one_each():
    X = make_counts(2)
    names = (*(f"word {i}" for i in range(5)), *(f"char {i}" for i in range(5)))
    before = X.toarray()
    weighed = weigh(Block(X, names), fit_idf([X])).toarray()
    for part in (slice(0, 5), slice(5, 10)):
        known = before[:, part].any(axis=1)
        np.testing.assert_allclose(np.linalg.norm(weighed[:, part], axis=1), known, atol=1e-6)
    np.testing.assert_array_equal(X.toarray(), before)  # the block itself is left alone
