"""Every model on texts: with one class a row, with two classes only, and with several a row."""

from resource import RUSAGE_CHILDREN, getrusage

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from stages.core.folds import DEV, NO_FOLD, TEST, TRAIN, Folds
from stages.core.matrices import Block, Design
from stages.core.tasks import MultiLabel, SingleLabel
from stages.models import forest, logreg, svm
from stages.models._linear import fit_linear, log_count_ratios
from stages.models.fitting import crossfit as module
from stages.models.fitting.crossfit import Recipe, crossfit, crossfits
from stages.models.fitting.model import load_model
from stages.models.fitting.sample import make_sample
from stages.models.fitting.seeds import with_params
from tests.models.small import MODELS, small_params

TASKS = {
    "one of three": SingleLabel(("x", "y", "z")),
    "one of two": SingleLabel(("no", "yes")),
    "several": MultiLabel(("x", "y", "z")),
}
N, N_DEV, N_TEST = 150, 12, 9
every_model = pytest.mark.parametrize("name", MODELS)
every_task = pytest.mark.parametrize("kind", TASKS)


@pytest.fixture(scope="module")
def hidden():
    """What decides on the classes, `(n_rows, 3)`."""
    return np.random.default_rng(5).normal(size=(N + N_DEV + N_TEST, 3))


@pytest.fixture(scope="module")
def sets(hidden):
    rng = np.random.default_rng(6)
    rates = np.exp(np.hstack([hidden, -np.ones((len(hidden), 9))]))
    counts = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    counts.data = 1 + np.log(counts.data)
    dense = np.hstack([hidden, rng.normal(size=(len(hidden), 2))]).astype(np.float32)
    dense_sets = ("style", "word2vec", "lsa", "embed")
    blocks = {name: {"text": Block(dense, tuple("abcde"))} for name in dense_sets}
    names = tuple(f"{'word' if i < 6 else 'char'} t{i}" for i in range(12))
    return {"tfidf": {"text": Block(counts, names)}, **blocks}


def make_folds(task, hidden):
    n_classes = len(task.classes)
    if task.exclusive:
        targets = np.eye(n_classes)[hidden[:, :n_classes].argmax(axis=1)]
    else:
        targets = (hidden > 0.5).astype(float)
        targets[:3] *= 0.75  # annotators that do not agree
    part = np.repeat([TRAIN, DEV, TEST], [N, N_DEV, N_TEST])
    targets[part == TEST] = np.nan
    fold = np.where(part == TRAIN, np.arange(len(part)) % 3, NO_FOLD)
    ids = pd.Series([f"r{i}" for i in range(len(part))])
    return Folds(ids, part, fold, np.arange(len(part)), targets)


def make_params(name, **changes):
    return small_params(name, pairs=False, **changes)


def fit(kind, name, hidden, sets, **changes):
    params = make_params(name, **changes)
    return crossfit(
        TASKS[kind], make_folds(TASKS[kind], hidden), sets, params.sources(),
        with_params(load_model(name).fit, params),
        balance=params.balance, seed=params.seed,
    )  # fmt: skip


@every_task
@every_model
@pytest.mark.parametrize("balance", ["none", "oversampling"])
def test_model_learns_and_predicts_probabilities_for_all_parts(hidden, sets, kind, name, balance):
    task = TASKS[kind]
    folds = make_folds(task, hidden)
    found = fit(kind, name, hidden, sets, balance=balance)
    assert task.fault(found.probabilities) is None
    assert found.probabilities.shape == folds.targets.shape
    np.testing.assert_array_equal(found.swapped, found.probabilities)
    rows = np.flatnonzero(folds.part == TRAIN)
    shares = np.tile(folds.targets[rows].mean(axis=0), (len(rows), 1))
    prior = task.row_losses(folds.targets[rows], shares).mean()
    assert found.row_losses(folds).mean() < prior - (0.05 if balance == "none" else 0.0)
    dev = np.flatnonzero(folds.part == DEV)
    assert task.row_losses(folds.targets[dev], found.probabilities[dev]).mean() < prior


@every_task
@every_model
def test_same_seed_gives_the_same_files_with_any_number_of_workers(
    hidden, sets, kind, name, monkeypatch, tmp_path
):
    for workers in ("1", "2"):
        monkeypatch.setenv("VERDICT_WORKERS", workers)
        fit(kind, name, hidden, sets).save(tmp_path / workers, make_params(name))
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    a_class = kind == "several" and name == "lgbm"  # a booster a class
    assert len(files) == 3 * (3 if a_class else 1) + 3 + 1
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_folds_of_svm_in_processes_are_those_of_threads(hidden, sets, monkeypatch):
    monkeypatch.setenv("VERDICT_WORKERS", "2")
    params = make_params("svm", balance="weights")
    task = TASKS["one of three"]
    recipe = Recipe(params.sources(), with_params(svm.fit, params), "weights", 0)

    def found():
        (fitted,) = crossfits(task, make_folds(task, hidden), sets, [recipe], runs="processes")
        return fitted.probabilities

    threads = found()  # so few rows are not worth processes
    monkeypatch.setattr(module, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(svm, "LIBLINEAR", None)  # a fit in this process would fail
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    np.testing.assert_array_equal(found(), threads)
    assert getrusage(RUSAGE_CHILDREN).ru_utime > before  # so that the cost of a stage has it


@pytest.fixture(scope="module")
def samples(hidden, sets):
    design = Design(sets["lsa"]["text"].X.astype(np.float32), 0)
    found = {}
    for kind, task in TASKS.items():
        folds = make_folds(task, hidden)
        rows = folds.train(None)
        own = Design(design.X[rows], 0)
        found[kind] = make_sample(task, own, folds.targets[rows], folds.group[rows], "weights", 0)
    return found


@pytest.mark.parametrize("kind", ["one of three", "one of two"])
def test_logistic_regression_is_that_of_scikit_learn(samples, kind, monkeypatch):
    monkeypatch.setattr(logreg, "TOLERANCE", 1e-6)
    sample = samples[kind]
    oracle = LogisticRegression(C=2.0, tol=1e-8, max_iter=10_000)
    oracle.fit(sample.X.astype(np.float64), sample.y, sample.weight)
    model = logreg.fit(sample, make_params("logreg", C=2.0), 0)
    np.testing.assert_allclose(
        model.predict(sample.X), oracle.predict_proba(sample.X.astype(np.float64)), atol=1e-3
    )


def test_several_classes_are_as_many_logistic_regressions_of_soft_targets(samples, monkeypatch):
    monkeypatch.setattr(logreg, "TOLERANCE", 1e-6)
    sample = samples["several"]
    model = logreg.fit(sample, make_params("logreg", C=2.0), 0)
    X = np.vstack([sample.X, sample.X]).astype(np.float64)
    for k, target in enumerate(sample.y.T):
        weight = np.concatenate([target, 1 - target]) * np.tile(sample.weight, 2)
        oracle = LogisticRegression(C=2.0, tol=1e-8, max_iter=10_000)
        oracle.fit(X, np.repeat([1, 0], len(target)), weight)
        expected = expit(oracle.decision_function(sample.X.astype(np.float64)))
        np.testing.assert_allclose(model.predict(sample.X)[:, k], expected, atol=1e-3)


@pytest.mark.parametrize("name", ["logreg", "svm"])
@every_task
def test_linear_model_takes_a_sample_that_lacks_classes(samples, name, kind):
    sample = samples[kind]
    lacking = np.flatnonzero(sample.targets[:, -1] < 0.5)
    sample = sample.take(lacking)
    if not sample.task.exclusive:
        sample.y[:, -1] = 0
    model = load_model(name).fit(sample, make_params(name), 0)
    p = model.predict(sample.X)
    assert sample.task.fault(p) is None
    assert 0 < p[:, -1].max() < 0.1


@every_task
def test_forest_takes_a_sample_that_lacks_classes(samples, kind):
    sample = samples[kind]
    sample = sample.take(np.flatnonzero(sample.targets[:, -1] < 0.5))
    if not sample.task.exclusive:
        sample.y[:, -1] = 0
    p = forest.fit(sample, make_params("forest"), 0).predict(sample.X)
    assert sample.task.fault(p) is None
    assert (p > 0).all()
    assert p[:, -1].max() < 0.01


def test_forest_takes_a_single_class():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)).astype(np.float32)
    targets = np.clip(X[:, :1], 0, 1).astype(float)
    design = Design(X, 0)
    sample = make_sample(MultiLabel(("x",)), design, targets, np.arange(60), "none", 0)
    p = forest.fit(sample, make_params("forest"), 0).predict(X)
    assert p.shape == (60, 1)
    assert np.corrcoef(p[:, 0], targets[:, 0])[0, 1] > 0.8


def test_class_without_rows_counts_as_half_a_row(samples):
    sample = samples["one of two"]
    only = sample.take(np.flatnonzero(sample.y == 1))
    coef, intercept = fit_linear(only, LogisticRegression)
    assert not coef.any()
    p = only.task.link(intercept[None])[0, 0]
    assert p == pytest.approx(1 / (1 + 2 * len(only.y)))


def test_count_ratios_are_those_by_hand_and_leave_columns_with_a_sign_alone():
    X = np.array([[2, 0, 1, -1], [1, 0, 1, 1], [0, 3, 1, 1]], np.float32)
    yes, weight = np.array([1, 1, 0]), np.array([1.0, 2.0, 1.0])
    # With one more of each: yes rows have 1 + 3, 1, 1 + 3 and 1 + 3, no rows 1, 2, 2 and 2
    r = np.array([4 / 13, 1 / 13, 4 / 13]) / np.array([1 / 7, 2 / 7, 2 / 7])
    expected = [*np.abs(np.log(r)), 1]
    for given in (X, sparse.csr_matrix(X)):
        np.testing.assert_allclose(log_count_ratios(given, yes, weight), expected, rtol=1e-6)


@every_task
def test_svm_on_scaled_terms_is_a_linear_model_that_learns(hidden, sets, kind):
    plain, scaled = (fit(kind, "svm", hidden, sets, count_ratios=r) for r in (False, True))
    folds = make_folds(TASKS[kind], hidden)
    assert not np.array_equal(plain.probabilities, scaled.probabilities)
    assert scaled.row_losses(folds).mean() < plain.row_losses(folds).mean() + 0.1
