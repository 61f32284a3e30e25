from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.folds import Folds, read_folds
from stages.core.layout import Layout
from stages.core.params import Params
from stages.core.tasks import MultiLabel, Preference, SingleLabel
from stages.evaluation import learning_curve as lc
from stages.models.fitting.design import SourceParams
from stages.models.fitting.model import Model, load_model
from stages.models.fitting.search import ModelParams
from tests.given import write_params

FRACTIONS = (0.01, 0.1, 0.3, 1.0)
CLASSES = ("joy", "grief", "anger")


class PriorParams(ModelParams):
    style: SourceParams


@dataclass(frozen=True)
class Prior:
    """Class shares of the rows that it saw."""

    shares: np.ndarray

    def predict(self, X):
        return np.tile(self.shares, (X.shape[0], 1))


def a_model(params, fit):
    """A model that is never stored, of this name."""
    return Model("svm", params, fit, load=None)


def fit_prior(sample, params, seed):
    return Prior(np.bincount(sample.y, minlength=sample.n_classes) / len(sample.y))


@pytest.fixture
def folds_of_texts():
    """120 rows in three folds: 100 joy, 17 anger, 3 grief (one a fold)."""
    y = np.repeat([0, 2, 1], [100, 17, 3])
    return Folds(
        ids=pd.Series([f"row {i}" for i in range(120)]), part=np.full(120, "train"),
        fold=np.arange(120) % 3, group=np.arange(120), targets=np.eye(3)[y],
    )  # fmt: skip


def taken(folds, task, seed=0):
    stratum = lc.rarest(task.has_classes(folds.targets))
    return {f: lc.fewer_rows(folds, stratum, f, seed) for f in FRACTIONS}


def test_fractions_are_nested_and_end_with_all_rows(folds_of_texts):
    found = taken(folds_of_texts, SingleLabel(CLASSES))
    for fold in (0, 1, 2):
        smaller = set()
        for fraction in FRACTIONS:
            rows = set(found[fraction].train(fold).tolist())
            assert smaller <= rows <= set(folds_of_texts.train(fold).tolist())
            smaller = rows
        np.testing.assert_array_equal(found[1.0].train(fold), folds_of_texts.train(fold))


def test_each_class_keeps_its_share_but_at_least_one_row(folds_of_texts):
    found = taken(folds_of_texts, SingleLabel(CLASSES))
    for fold in (0, 1, 2):
        whole = folds_of_texts.targets[folds_of_texts.train(fold)].sum(axis=0)
        for fraction in FRACTIONS:
            kept = folds_of_texts.targets[found[fraction].train(fold)].sum(axis=0)
            np.testing.assert_array_equal(kept, np.ceil((fraction * whole).round(6)))


def test_seed_draws_the_rows(folds_of_texts):
    first, same, other = (taken(folds_of_texts, SingleLabel(CLASSES), s)[0.1] for s in (0, 0, 1))
    np.testing.assert_array_equal(first.train(0), same.train(0))
    assert first.train(0).tolist() != other.train(0).tolist()


def test_row_of_several_labels_counts_as_its_rarest(folds_of_texts):
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]] * 2, float)
    folds = Folds(pd.Series(range(10)), *np.zeros((3, 10), int), targets)
    task = MultiLabel(CLASSES)
    assert lc.rarest(task.has_classes(folds.targets)).tolist() == [0, 0, 1, 2, 3] * 2


def test_table_has_a_row_for_each_fraction(task, folds, sets):
    source = SourceParams(parts=("difference",), scale="none", weight=1.0)
    prior = PriorParams(balance="none", seed=0, search=None, embed=None, style=source)
    params = lc.LearningCurveParams(fractions=(1.0, 0.3), seeds=(0,))
    rows = folds.train(None)
    part = folds.take(folds.judged)
    own = {
        name: {k: type(b)(b.X[rows], b.names) for k, b in blocks.items()}
        for name, blocks in sets.items()
    }
    table = lc.learning_curve(task, part, own, a_model(PriorParams, fit_prior), prior, params)
    assert list(table)[:5] == ["model", "fraction", "rows", "log_loss", "log_loss_standard_error"]
    assert table["model"].tolist() == ["svm", "svm"]
    assert table["fraction"].tolist() == [0.3, 1.0]
    assert table["rows"].iloc[1] == np.mean([len(folds.train(fold)) for fold in folds.numbers])
    whole = table.iloc[1]
    shares = np.array([folds.targets[folds.train(fold)].mean(axis=0) for fold in (0, 1, 2)])
    shares = (shares + shares[:, [1, 0, 2]]) / 2  # both orders
    losses = -np.log(shares[part.fold, part.targets.argmax(axis=1)])
    assert whole["log_loss"] == pytest.approx(losses.mean())
    assert np.isfinite(table.drop(columns="model").to_numpy(float)).all()


def test_fits_that_share_the_cluster_run_one_after_the_other(task, folds, sets, monkeypatch):
    found = []

    def crossfit(*_, runs, **__):
        found.append(runs)
        raise KeyError

    monkeypatch.setattr(lc, "crossfit", crossfit)
    params = lc.LearningCurveParams(fractions=(1.0,), seeds=(0,))
    for workers in (1, 2):
        own = SimpleNamespace(sources=dict, balance="none", seed=0, workers=workers)
        with pytest.raises(KeyError):
            lc.learning_curve(task, folds, sets, load_model("xgb"), own, params)
    assert found == ["threads", "spread"]


def test_unknown_model_is_refused():
    assert issubclass(lc.LearningCurveParams, Params)
    with pytest.raises(InputError, match=r"unknown model, got 'gpt'; expected one of .*'logreg'"):
        lc.main(dataset="demo", model="gpt")


@pytest.mark.parametrize("twice", [{"seeds": (3, 3)}, {"fractions": (1.0, 1.0)}])
def test_what_stands_twice_is_refused(twice):
    section = {"fractions": (1.0,), "seeds": (0,)}
    with pytest.raises(ValueError, match="duplicate value"):
        lc.LearningCurveParams(**section | twice)


def test_seeds_reach_the_draws_of_the_model_and_metrics_are_their_means(task, folds, sets):
    """What the model predicts is drawn from its seed alone."""

    def fit(_sample, _params, seed):
        return Prior(np.random.default_rng(seed).dirichlet([5, 5, 5]))

    source = SourceParams(parts=("difference",), scale="none", weight=1.0)
    given = PriorParams(balance="none", seed=0, search=None, embed=None, style=source)
    model = a_model(PriorParams, fit)
    stored = folds.take(folds.judged)

    def curve(*seeds):
        params = lc.LearningCurveParams(fractions=(1.0,), seeds=seeds)
        return lc.learning_curve(task, stored, sets, model, given, params).iloc[0]

    each = [curve(seed)["log_loss"] for seed in (0, 1, 2)]
    both = curve(0, 1, 2)
    assert len(set(each)) == 3
    assert both["log_loss"] == pytest.approx(np.mean(each))
    assert both["log_loss_seed_deviation"] == pytest.approx(np.std(each, ddof=1))
    assert (curve(0)["seeds"], curve(0)["log_loss_seed_deviation"]) == (1, 0)


@pytest.mark.parametrize("model", ["logreg", "xgb"])
def test_stage_at_all_rows_has_the_loss_of_the_models_own_stage(
    trained, tmp_path, monkeypatch, model
):
    root = trained("demo")
    params = YAML(typ="safe").load(root / "params" / "demo.yaml")
    params["learning_curve"] = {"fractions": [0.3, 1.0], "seeds": [0]}
    write_params(tmp_path, "demo", **params)
    (tmp_path / "data").symlink_to(root / "data")
    monkeypatch.chdir(tmp_path)
    layout = Layout("demo")
    lc.main(dataset="demo", model=model)
    table = pd.read_csv(layout.learning_curve(model)).set_index(["model", "fraction"])
    assert len(table) == 2
    stored = read_folds(layout.folds, Preference())
    folds = stored.take(stored.judged)
    own = pd.read_parquet(layout.predictions(model)).set_index("id")
    found = own.loc[folds.ids, [f"p_{name}" for name in Preference().classes]]
    expected = Preference().row_losses(folds.targets, found.to_numpy()).mean()
    assert table.loc[(model, 1.0), "log_loss"] == pytest.approx(expected, abs=1e-9)
    assert table.loc[(model, 0.3), "rows"] < table.loc[(model, 1.0), "rows"]
    assert table.loc[(model, 0.3), "log_loss"] != table.loc[(model, 1.0), "log_loss"]
