"""Who is trained on, and who is predicted; with models that only keep notes."""

from dataclasses import replace

import numpy as np
import pytest

from stages.core.matrices import Block
from stages.models._stopping import StoppingParams, fit_rounds
from stages.models.fitting.crossfit import at_once, crossfit
from stages.models.fitting.design import SourceParams

SOURCES = {"style": SourceParams(parts=("difference", "sum"), scale="standard", weight=1.0)}


class Constant:
    """Predicts the class shares of its sample, leaning to a by the first (odd) column."""

    def __init__(self, sample):
        self.sample = sample
        self.shares = np.bincount(sample.y, sample.weight, minlength=3) / sample.weight.sum()

    def predict(self, X):
        lean = np.tanh(X[:, :1]) / 10
        return self.shares + lean * [[1, -0.5, -0.5]]

    def save(self, stem):
        stem.with_suffix(".txt").write_text(repr(self.shares))


@pytest.fixture
def fitted(task, folds, sets):
    return run(task, folds, sets)


def run(task, folds, sets, fit=lambda sample, seed: Constant(sample), **options):
    return crossfit(task, folds, sets, SOURCES, fit, **({"balance": "none", "seed": 0} | options))


def test_row_is_predicted_by_a_model_that_never_saw_its_group(fitted, folds):
    assert sorted(fitted.fits) == [0, 1, 2]
    predicted = []
    for number, fit in fitted.fits.items():
        own = [row for row in fit.rows if folds.part[row] == "train"]
        assert own == folds.held(number).tolist()
        seen = set(fit.model.sample.group.tolist())
        assert not seen & set(folds.group[fit.rows].tolist())
        assert seen == set(folds.group[folds.train(number)].tolist())
        predicted += own
    assert sorted(predicted) == folds.train(None).tolist()


def test_holdout_of_early_stopping_never_contains_the_held_fold(task, folds, sets):
    held = []

    def fit(sample, seed):
        def notes(part, rounds, holdout, seed):
            held.append(set(part.group) | set(holdout.group if holdout else []))
            return Constant(part), rounds

        return fit_rounds(sample, StoppingParams(patience=1, holdout_parts=3), 5, [seed], notes)

    fitted = run(task, folds, sets, fit)
    assert len(held) == 6
    for number in fitted.fits:
        allowed = set(folds.group[folds.train(number)])
        assert sum(groups == allowed for groups in held) == 2


def test_test_rows_get_the_mean_of_all_folds(fitted, folds):
    n = len(folds.unseen)
    assert all(fit.rows[-n:].tolist() == folds.unseen.tolist() for fit in fitted.fits.values())
    expected = np.mean([fit.probabilities[-n:] for fit in fitted.fits.values()], axis=0)
    np.testing.assert_allclose(fitted.probabilities[folds.unseen], expected, atol=1e-12)
    np.testing.assert_allclose(fitted.probabilities.sum(axis=1), 1)


def test_even_a_crooked_model_obeys_the_swap(fitted, task):
    np.testing.assert_allclose(task.swap_classes(fitted.swapped), fitted.probabilities, atol=1e-6)


def test_targets_of_a_fold_do_not_reach_its_own_predictions(task, folds, sets, fitted):
    targets = folds.targets.copy()
    targets[folds.held(1)] = [0.0, 0.0, 1.0]
    changed = run(task, replace(folds, targets=targets), sets)
    for fold, same in ((0, False), (1, True), (2, False)):
        rows = folds.held(fold)
        equal = np.array_equal(changed.probabilities[rows], fitted.probabilities[rows])
        assert equal is same


def test_features_of_a_fold_do_not_reach_its_own_model(task, folds, sets, fitted):
    held = folds.held(1)
    style = {key: Block(block.X.copy(), block.names) for key, block in sets["style"].items()}
    for block in style.values():
        block.X[held] *= 100
    changed = run(task, folds, {"style": style})
    for name, values in fitted.fits[1].encoder.state.items():
        np.testing.assert_array_equal(changed.fits[1].encoder.state[name], values)
        assert not np.array_equal(changed.fits[0].encoder.state[name], values)
    one, other = (found.fits[1].model.sample.X for found in (fitted, changed))
    np.testing.assert_array_equal(one, other)


def test_losses_are_those_of_the_out_of_fold_rows(fitted, folds):
    rows = folds.train(None)
    given = (fitted.probabilities[rows] * folds.targets[rows]).sum(axis=1)
    assert fitted.row_losses(folds) == pytest.approx(-np.log(given))


def test_each_fold_has_a_seed_of_its_own(task, folds, sets):
    seeds = []
    run(task, folds, sets, lambda sample, seed: seeds.append(seed) or Constant(sample), seed=40)
    assert sorted(seeds) == [40, 41, 42]


def test_saved_folder_holds_params_models_and_encoders(fitted, tmp_path):
    fitted.save(tmp_path / "model", SOURCES["style"])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("fold0.encoder.safetensors", "fold0.txt", "fold1.encoder.safetensors", "fold1.txt"),
        *("fold2.encoder.safetensors", "fold2.txt", "params.json"),
    ]


def test_folds_run_side_by_side_as_far_as_an_eighth_of_the_memory_holds_them(sets, monkeypatch):
    sets = {name: sets[name] for name in ("word2vec", "tfidf")}
    dense, counted = (blocks.values() for blocks in sets.values())
    stored = sum(block.X.nbytes for block in dense) + sum(
        8 * block.X.nnz + 4 * (block.X.shape[0] + 1) for block in counted
    )
    for pages, expected in ((16 * 3 * stored, 3), (stored, 1)):
        memory = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": pages}
        monkeypatch.setattr("os.sysconf", memory.__getitem__)
        assert at_once(sets) == expected
