from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from stages.core.idf import fit_idf
from stages.core.matrices import Block
from stages.models.fitting.design import Encoder, SourceParams

EVEN = ("magnitude", "sum", "prompt")


def source(*parts, scale="none", weight=1.0):
    return SourceParams(parts=parts, scale=scale, weight=weight)


def test_standard_scale_gives_variance_one_and_keeps_the_sign_of_odd_columns(
    task, sets, folds, monkeypatch
):
    sources = {"style": source("difference", *EVEN, scale="standard")}
    rows = folds.train(0)
    monkeypatch.setattr("stages.models.fitting.design.LARGEST", np.inf)
    design = Encoder.fit(task, sources, sets, rows)(sets, rows)
    odd, even = design.X[:, : design.n_odd], design.X[:, design.n_odd :]
    np.testing.assert_allclose(np.square(odd).mean(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(even.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(even.std(axis=0), 1, rtol=1e-4)
    a, b = (sets["style"][key].X[rows] for key in ("response_a", "response_b"))
    np.testing.assert_array_equal(np.sign(odd), np.sign(a - b))


def test_standard_scale_pulls_outliers_in(task, sets, folds):
    rows = folds.train(0)
    encoder = Encoder.fit(task, {"style": source("difference", scale="standard")}, sets, rows)
    far = {key: Block(block.X * 1e3, block.names) for key, block in sets["style"].items()}
    assert np.abs(encoder({"style": far}, rows).X).max() == 3


@pytest.mark.parametrize("name", ["tfidf", "style", "word2vec", "lsa"])
def test_encoded_swap_is_the_swap_of_the_encoded(task, sets, folds, name):
    sources = {name: source("difference", *EVEN, scale="standard", weight=0.5)}
    encoder = Encoder.fit(task, sources, sets, folds.train(1))
    exchanged = {name: task.swap_blocks(sets[name])}
    rows = folds.held(1)
    design = encoder(sets, rows)
    np.testing.assert_allclose(
        dense(encoder(exchanged, rows).X),
        dense(task.swap_design(design.X, design.n_odd)),
        atol=1e-6,
    )


def test_token_that_only_a_held_fold_has_is_not_weighed(task, sets, folds):
    term, held = 5, folds.held(0)
    changed = {}
    for key, block in sets["tfidf"].items():
        X = block.X.tolil()
        X[:, term] = 0
        X[held, term] = 1
        changed[key] = Block(X.tocsr(), block.names)
    sources = {"tfidf": source("difference")}
    encoder = Encoder.fit(task, sources, {"tfidf": changed}, folds.train(0))
    n_texts = 3 * len(folds.train(0))
    assert encoder.state["tfidf.idf"][term] == pytest.approx(np.log(1 + n_texts) + 1)
    expected = fit_idf(block.X[folds.train(0)] for block in changed.values())
    np.testing.assert_array_equal(encoder.state["tfidf.idf"], expected)


def test_what_is_fitted_does_not_see_other_rows(task, sets, folds):
    rows, others = folds.train(2), np.concatenate([folds.held(2), folds.unseen])
    sources = {"tfidf": source("difference", "sum", scale="standard"),
               "style": source(*EVEN, scale="standard")}  # fmt: skip
    changed = {
        name: {key: replace(block, X=spoiled(block.X, others)) for key, block in blocks.items()}
        for name, blocks in sets.items()
    }
    before, after = (Encoder.fit(task, sources, s, rows).state for s in (sets, changed))
    assert set(before) == {"tfidf.idf", "tfidf.mean", "tfidf.scale", "style.mean", "style.scale"}
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_weight_multiplies_and_constant_columns_stay_finite(task, folds):
    constant = {
        key: Block(np.full((len(folds.ids), 1), 3, np.float32), ("n",)) for key in task.text_columns
    }
    rows = folds.train(None)
    sources = {"style": source("difference", "sum", scale="standard", weight=2.0)}
    standard = Encoder.fit(task, sources, {"style": constant}, rows)({"style": constant}, rows)
    np.testing.assert_array_equal(standard.X, 0)
    sources = {"style": source("sum", weight=2.0)}
    plain = Encoder.fit(task, sources, {"style": constant}, rows)({"style": constant}, rows)
    np.testing.assert_array_equal(plain.X, 12)
    assert plain.X.dtype == np.float32


def test_design_is_sparse_only_where_a_set_is(task, sets, folds):
    rows = folds.train(None)
    sources = {"tfidf": source("difference"), "style": source("difference", "sum")}
    design = Encoder.fit(task, sources, sets, rows)(sets, rows)
    assert sparse.issparse(design.X)
    assert design.X.dtype == np.float32
    alone = {"style": sources["style"]}
    assert isinstance(Encoder.fit(task, alone, sets, rows)(sets, rows).X, np.ndarray)


def dense(X):
    return X.toarray() if sparse.issparse(X) else X


def spoiled(X, rows):
    changed = X.tolil() if sparse.issparse(X) else X.copy()
    changed[rows] = 7
    return changed.tocsr() if sparse.issparse(X) else changed
