import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tasks import MultiLabel, Preference
from stages.evaluation import cascade
from tests.given import write_build, write_params
from tests.reporting.report_data import N_TRAIN, write_results


@pytest.fixture
def losses():
    """Confidence, losses of the cheap model and of the dear one; they differ on unsure rows."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.34, 1, 500).round(2)  # with ties
    dear = rng.exponential(1, 500)
    return sure, dear + (1 - sure) * rng.normal(0.3, 1, 500), dear


def test_confidence_is_that_of_the_given_classes():
    one = cascade.confidence(Preference(), np.array([[0.2, 0.7, 0.1]]))
    several = cascade.confidence(MultiLabel(("x", "y")), np.array([[0.2, 0.7]]))
    assert one.tolist() == [0.7]
    assert several.tolist() == [0.75]


@pytest.mark.parametrize("most_lost", [0.0, 0.001, 0.01, 0.1, 10.0])
def test_threshold_is_the_last_that_a_walk_from_above_may_reach(losses, most_lost):
    sure, cheap, dear = losses
    expected = cascade.NEVER
    for threshold in np.unique(sure)[::-1]:
        lost = np.where(sure >= threshold, cheap, dear) - dear
        if lost.mean() + lost.std() / len(lost) ** 0.5 > most_lost:
            break
        expected = threshold
    assert cascade.choose_threshold(sure, cheap, dear, most_lost) == expected


def test_one_row_that_the_ensemble_gets_very_wrong_does_not_pay_for_others():
    sure, cheap, dear = np.linspace(1, 0.4, 60), np.full(60, 0.6), np.full(60, 0.5)
    dear[40] = 9.0
    assert (cheap - dear).mean() < 0
    assert cascade.choose_threshold(sure, cheap, dear, 0.01) > sure[20]


def test_cheap_model_that_is_worse_everywhere_answers_no_row():
    sure, dear = np.linspace(0.4, 1, 50), np.ones(50)
    assert cascade.choose_threshold(sure, dear + 1, dear, 0.001) == cascade.NEVER


def test_threshold_of_a_row_knows_nothing_of_its_fold(losses):
    sure, cheap, dear = losses
    params = cascade.CascadeParams(cheap="svm", threshold=None, most_lost=0.01)
    fold = np.arange(500) % 3
    before = cascade.nested_thresholds(sure, cheap, dear, fold, params)
    spoiled = np.where(fold == 1, 99.0, cheap)
    after = cascade.nested_thresholds(sure, spoiled, dear, fold, params)
    assert (before[fold == 1] == after[fold == 1]).all()
    assert (before[fold == 0] != after[fold == 0]).all()
    given = params.model_copy(update={"threshold": 0.6})
    assert set(cascade.nested_thresholds(sure, cheap, dear, fold, given)) == {0.6}


def test_curve_goes_from_the_ensemble_to_the_cheap_model(losses):
    sure, cheap, dear = losses
    table = cascade.curve("svm", sure, cheap, dear)
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["cheap_share"], last["cheap_share"]) == (0, 1)
    assert (first["log_loss"], last["log_loss"]) == pytest.approx((dear.mean(), cheap.mean()))
    assert table["cheap_share"].is_monotonic_increasing
    for line in table.itertuples():
        own = np.where(sure >= line.threshold, cheap, dear)
        assert line.log_loss == pytest.approx(own.mean())


def test_curve_of_one_confidence_is_all_or_nothing():
    table = cascade.curve("svm", np.full(9, 0.5), np.ones(9), np.zeros(9))
    assert table["cheap_share"].tolist() == [0, 1]


def run_stage(folder, kind, monkeypatch, **params):
    write_results(folder, kind)
    write_build(folder, ["svm", "minilm", "never"])
    section = {"cheap": "svm", "threshold": None, "most_lost": 0.05} | params
    write_params(folder, "mine", cascade=section)
    monkeypatch.chdir(folder)
    cascade.main(dataset="mine")
    layout = Layout("mine")
    return json.loads(layout.cascade.read_text()), pd.read_csv(layout.cascade_curve)


@pytest.mark.parametrize("kind", ["preference", "single_label", "multi_label"])
def test_stage_writes_finite_figures_and_a_curve(tmp_path, monkeypatch, kind):
    found, table = run_stage(tmp_path, kind, monkeypatch)
    loss, lost = found.pop("log_loss"), found.pop("lost")
    values = [*found.values(), *loss.values(), *lost.values()]
    assert all(isinstance(value, float) and np.isfinite(value) for value in values)
    assert found["rows"] == N_TRAIN
    assert loss["ensemble"] == pytest.approx(table["log_loss"].iloc[0])
    assert lost["mean"] == pytest.approx(loss["cascade"] - loss["ensemble"])
    assert list(table) == cascade.COLUMNS
    again = tmp_path / "again"
    again.mkdir()
    run_stage(again, kind, monkeypatch)
    for path in (Layout("mine").cascade, Layout("mine").cascade_curve):
        assert path.read_bytes() == (tmp_path / path).read_bytes()


def test_given_threshold_is_used_as_it_is(tmp_path, monkeypatch):
    found, _ = run_stage(tmp_path, "preference", monkeypatch, threshold=0.0)
    assert (found["threshold"], found["chosen"], found["cheap_share"]) == (0, 0, 1)
    assert found["log_loss"]["cascade"] == pytest.approx(found["log_loss"]["cheap"])


def test_cheap_model_of_one_fold_is_judged_on_parts_of_it(tmp_path, monkeypatch):
    found, _ = run_stage(tmp_path, "preference", monkeypatch, cheap="minilm")
    assert found["rows"] == N_TRAIN / 3


def test_cheap_model_that_predicted_no_row_makes_no_cascade(tmp_path, monkeypatch, caplog):
    found, table = run_stage(tmp_path, "preference", monkeypatch, cheap="never")
    assert found == {"rows": 0}
    assert table.empty
    assert "never predicted no row out of fold" in caplog.text


def test_ensemble_is_no_cheap_model(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"mine\.yaml: cascade\.cheap: got 'ensemble'; expected"):
        run_stage(tmp_path, "preference", monkeypatch, cheap="ensemble")


def test_cheap_model_has_to_be_built(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cascade\.cheap: got 'xgb'; .* \['svm', 'minilm', 'nev"):
        run_stage(tmp_path, "preference", monkeypatch, cheap="xgb")


def test_outputs_know_no_time(tmp_path, monkeypatch):
    run_stage(tmp_path, "preference", monkeypatch)
    paths = (Layout("mine").cascade, Layout("mine").cascade_curve)
    before = [path.read_bytes() for path in paths]
    shutil.rmtree(Layout("mine").cost("svm").parent)
    cascade.main(dataset="mine")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(("key", "value"), [("threshold", -1), ("most_lost", -0.1), ("cheap", 3)])
def test_wrong_params_are_refused(tmp_path, monkeypatch, key, value):
    with pytest.raises(ValueError, match=f"cascade.{key}"):
        run_stage(tmp_path, "preference", monkeypatch, **{key: value})
