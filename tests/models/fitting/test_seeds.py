"""The mean over seeds, with models that only know theirs."""

import json

import numpy as np
import pytest

from stages.models.fitting.crossfit import FoldModels, crossfit
from stages.models.fitting.design import SourceParams
from stages.models.fitting.model import Model
from stages.models.fitting.seeds import SeededParams, mean_of, with_params


class Drawn:
    """Probabilities that the seed alone decides."""

    def __init__(self, seed):
        self.seed = seed

    def predict(self, X):
        return np.tile(np.random.default_rng(self.seed).dirichlet([2, 2, 2]), (X.shape[0], 1))

    def save(self, stem):
        (stem.parent / f"{stem.name}.txt").write_text(str(self.seed))

    @classmethod
    def load(cls, stem, task):
        return cls(int((stem.parent / f"{stem.name}.txt").read_text()))


class Section(SeededParams):
    style: SourceParams


def make_params(seeds):
    return Section(
        balance="none", seed=3, search=None, embed=None, seeds=seeds,
        style=SourceParams(parts=("difference",), scale="none", weight=1.0),
    )  # fmt: skip


def fit(sample, params, seed):
    return mean_of([Drawn(seed) for seed in params.all_seeds(seed)])


def test_probabilities_are_the_mean_over_seeds_that_no_two_folds_share():
    folds = [fit(None, make_params(4), seed) for seed in range(5)]
    seeds = [model.seed for fold in folds for model in fold.models]
    assert len(set(seeds)) == 20
    X = np.zeros((2, 1))
    expected = sum(Drawn(model.seed).predict(X) for model in folds[1].models) / 4
    np.testing.assert_allclose(folds[1].predict(X), expected)


def test_one_model_stays_as_it_is():
    assert fit(None, make_params(1), 3).seed == 3


@pytest.mark.parametrize("seeds", [1, 3])
def test_models_of_all_seeds_are_read_back(task, folds, sets, tmp_path, seeds):
    params = make_params(seeds)
    found = crossfit(
        task, folds, sets, params.sources(), with_params(fit, params), balance="none", seed=3
    )
    found.save(tmp_path / "model", params)
    read = FoldModels.load(tmp_path / "model", task, Model("drawn", Section, fit, Drawn.load))
    np.testing.assert_allclose(
        read.predict(sets)[folds.unseen], found.probabilities[folds.unseen], atol=1e-12
    )
    assert json.loads((tmp_path / "model" / "params.json").read_text())["seeds"] == seeds
