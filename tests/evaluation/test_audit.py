import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.folds import Folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Block
from stages.core.tables import write_json, write_table
from stages.core.tasks import Preference
from stages.evaluation import _audit_models as models
from stages.evaluation import audit
from stages.evaluation.judging import clustered_mean
from stages.evaluation.scoring.oof import OofPredictions
from stages.reporting import _audits as shown
from tests.given import write_build, write_params
from tests.reporting.report_data import MODELS, N_TEST, N_TRAIN, write_results

SOURCE = {"parts": ["difference", "magnitude"], "scale": "standard", "weight": 1.0}
LOGREG = {
    "C": 1.0, "tfidf": SOURCE, "style": SOURCE, "balance": "none", "seed": 0, "search": None,
    "embed": None,
}  # fmt: skip
NAMES = np.array([f"model {k}" for k in range(9)])


def made_up(n=600, seed=0):
    """Folds and names: two rows a prompt; the model of the smaller number is preferred."""
    rng = np.random.default_rng(seed)
    numbers = np.array([rng.choice(9, 2, replace=False) for _ in range(n)])
    targets = np.eye(3)[np.where(numbers[:, 0] < numbers[:, 1], 0, 1)]
    group = np.arange(n) // 2
    ids = pd.Series([f"row {i}" for i in range(n)])
    folds = Folds(ids, np.full(n, "train"), group % 3, group, targets)
    names = pd.DataFrame(NAMES[numbers], columns=["model_a", "model_b"], dtype=object)
    return folds, names, numbers


def regression(folds, blocks):
    params = audit.LogregParams.model_validate_json(json.dumps(LOGREG))
    return audit.Regression(Preference(), folds, {"style": blocks}, {"style": params.style}, params)


# --- errors


def test_clustered_error_of_groups_of_one_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=50)
    mean, error = clustered_mean(values, np.arange(50))
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(50)))


def test_copies_of_rows_in_their_groups_make_no_mean_more_certain():
    values = np.append(np.random.default_rng(0).normal(size=50), np.nan)
    once = clustered_mean(values, np.arange(51))
    again = clustered_mean(np.tile(values, 3), np.tile(np.arange(51), 3))
    assert again == pytest.approx(once)


def test_error_of_one_group_and_mean_of_nothing_are_not_known():
    assert np.isnan(clustered_mean(np.array([1.0, 2.0, np.nan]), np.array([0, 0, 1]))[1])
    assert np.isnan(clustered_mean(np.array([np.nan]), np.array([0]))).all()


# --- models that were not seen


def test_groups_of_models_hold_each_model_once_and_about_as_many_answers():
    _, names, _ = made_up()
    groups = models.group_models(names, 3)
    both = pd.DataFrame({"name": names.to_numpy().ravel(), "group": groups.to_numpy().ravel()})
    assert both.groupby("name")["group"].nunique().max() == 1
    sizes = both["group"].value_counts()
    assert sizes.max() - sizes.min() < 0.1 * len(both)


def test_no_trial_trains_on_a_model_or_a_prompt_that_it_holds_out():
    folds, names, _ = made_up()
    held = []
    for trial in models.trials(names, folds.group, 4, seed=0):
        out = set(names.iloc[trial.held].to_numpy().ravel())
        assert not out & set(names.iloc[trial.unseen].to_numpy().ravel())
        assert out & set(names.iloc[trial.control].to_numpy().ravel())
        for train in (trial.unseen, trial.control):
            assert not set(folds.group[trial.held]) & set(folds.group[train])
        assert len(trial.unseen) == len(set(trial.control.tolist()))
        held += trial.held.tolist()
    assert sorted(held) == list(range(len(names)))


def test_features_that_know_the_model_fail_on_models_that_they_never_saw():
    folds, names, numbers = made_up()
    blocks = {
        column: Block(np.eye(9, dtype=np.float32)[numbers[:, k]], tuple(NAMES))
        for k, column in enumerate(("response_a", "response_b"))
    }
    unseen, control, size = models.shift(
        names, folds, regression(folds, blocks).fitted_on, n=4, seed=0
    )
    assert np.isfinite(unseen).all()
    assert 20 < size < len(names)
    assert control.mean() < 0.4
    assert unseen.mean() > 0.6  # it can only guess


def test_features_that_say_what_counts_fare_alike_on_all_models():
    folds, names, numbers = made_up()
    blocks = {
        column: Block(numbers[:, [k]].astype(np.float32), ("quality",))
        for k, column in enumerate(("response_a", "response_b"))
    }
    unseen, control, _ = models.shift(
        names, folds, regression(folds, blocks).fitted_on, n=4, seed=0
    )
    assert abs(unseen.mean() - control.mean()) < 0.05


def test_rows_without_both_names_are_neither_judged_nor_trained_on():
    folds, names, _ = made_up()
    names.iloc[:50, 0] = None
    names.iloc[50:90] = None
    seen = []

    def losses(train, held):
        seen.extend([*train, *held])
        return np.zeros(len(held))

    unseen, _, _ = models.shift(names, folds, losses, n=4, seed=0)
    assert np.isnan(unseen[:90]).all()
    assert not np.isnan(unseen[90:]).any()
    assert min(seen) == 90


@pytest.mark.parametrize("kept", [0, 1])
def test_too_few_models_are_no_shift(kept):
    folds, names, _ = made_up()
    names.iloc[kept:] = None
    unseen, _, size = models.shift(names, folds, lambda *_: np.zeros(1), n=4, seed=0)
    assert np.isnan(unseen).all()
    assert size == 0


def test_feature_that_was_told_the_model_tells_it_and_noise_does_not():
    folds, names, numbers = made_up()
    rng = np.random.default_rng(0)
    told = tuple(
        Block((np.eye(9)[numbers[:, k]] + 0.1 * rng.normal(size=(600, 9))), tuple(NAMES))
        for k in (0, 1)
    )
    noise = tuple(Block(rng.normal(size=(600, 4)), tuple("wxyz")) for _ in range(2))
    assert models.tell_apart(names, folds, told)["right"] > 0.95
    found = models.tell_apart(names, folds, noise)
    assert found["right"] < found["right_by_chance"] + 0.05
    assert models.tell_apart(names.iloc[:4], folds.take(np.arange(4)), noise) == {}


# --- folds and truth


def test_fold_that_is_harder_is_not_chance():
    folds, _, _ = made_up()
    draws = np.random.default_rng(0).normal(1, 0.3, size=(300, 600))
    chances = np.array([audit.audit_folds(losses, folds)["chance"] for losses in draws])
    assert 0.02 < (chances < 0.05).mean() < 0.08
    harder = audit.audit_folds(draws[0] + 0.2 * (folds.fold == 1), folds)
    assert harder["chance"] < 1e-6
    assert harder["spread"] > 0.15


def test_fold_spread_of_one_judged_fold_is_not_told():
    folds, _, _ = made_up()
    losses = np.where(folds.fold == 1, 1.0, np.nan)
    assert audit.audit_folds(losses, folds) == {"judged": 1}


def test_loss_far_below_what_the_truth_expects_shows_a_leak():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([2, 2, 2], 600)
    targets = np.eye(3)[[rng.choice(3, p=p) for p in truth]]
    folds, _, _ = made_up()
    leak = 0.5 * truth + 0.5 * targets
    p = {"honest": truth, "leaky": leak}
    judged = OofPredictions(Preference(), folds.ids, folds.group, targets, p, p)
    found = audit.audit_truth(judged, truth, folds)
    away, error = found["honest"]["mean"], found["honest"]["standard_error"]
    assert abs(away) < 3 * error
    assert found["leaky"]["mean"] < -10 * error


# --- the stage


def run_stage(folder, kind, monkeypatch, strata=True):
    write_results(folder, kind)
    layout = Layout("mine", folder)
    n = N_TRAIN + N_TEST
    ids = pd.read_parquet(layout.rows)["id"]
    rng = np.random.default_rng(0)
    columns = {f"response_{k}.x{i}": rng.normal(size=n) for k in "ab" for i in range(3)}
    write_table(pd.DataFrame({"id": ids} | columns), layout.features("style"))
    names = NAMES[[rng.choice(9, 2, replace=False) for _ in range(n)]]
    table = pd.DataFrame({"id": ids, "model_a": names[:, 0], "model_b": names[:, 1]})
    write_table(table.iloc[: N_TRAIN - 30 if strata else 0], layout.strata)
    write_json(dict.fromkeys(audit.DUPLICATES, 0), layout.split)
    write_build(folder, [name for name in MODELS if name != ENSEMBLE])
    write_params(folder, "mine", audit={"model_groups": 4, "seed": 0}, logreg=LOGREG)
    monkeypatch.chdir(folder)
    audit.main(dataset="mine")
    return json.loads(layout.audit.read_text())


def figures(found):
    """All figures of nested metrics."""
    for value in found.values():
        yield from figures(value) if isinstance(value, dict) else [value]


CALIBRATION = (
    "class_calibration_error",
    "class_calibration_noise",
    "class_calibration_noise_bound",
)
SCORES = {"oof": dict.fromkeys(CALIBRATION, 0.1)}


@pytest.mark.parametrize("kind", ["preference", "single_label", "multi_label"])
def test_figures_are_finite_and_the_page_has_a_sentence_for_each_audit(tmp_path, monkeypatch, kind):
    found = run_stage(tmp_path, kind, monkeypatch)
    assert all(isinstance(value, float) and np.isfinite(value) for value in figures(found))
    lines = shown.findings(found, SCORES, "ensemble")
    assert len({line.name for line in lines}) == len(lines)
    assert len(lines) == (10 if kind == "preference" else 3)
    assert not any("nan" in line.text or "\n" in line.text for line in lines)
    first = Layout("mine").audit.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    run_stage(other, kind, monkeypatch)
    assert Layout("mine", other).audit.read_bytes() == first


def test_gains_are_paired_on_the_rows_that_a_model_judged(tmp_path, monkeypatch):
    found = run_stage(tmp_path, "preference", monkeypatch)
    assert found["names"]["rows_with_names"] == N_TRAIN - 30
    assert found["names"]["rows_without_names"] == 30
    scores = json.loads(Layout("mine").scores(ENSEMBLE).read_text())["oof"]
    longer = found["baselines"]["longer"]
    gain = longer["log_loss"]["mean"] - scores["log_loss"]
    assert longer["gain"]["ensemble"]["mean"] == pytest.approx(gain)
    assert set(longer["gain"]) == {"svm", "minilm", "ensemble"}
    assert set(shown.gains(found)["model"]) == {"svm", "minilm", "ensemble"}


def test_dataset_without_names_has_no_shift_and_says_so(tmp_path, monkeypatch):
    found = run_stage(tmp_path, "preference", monkeypatch, strata=False)
    assert found["names"]["rows_with_names"] == 0
    assert "shift" not in found["names"]
    verdicts = {line.name: line.verdict for line in shown.findings(found, SCORES, "ensemble")}
    assert verdicts["New models"] == "not measured"
    assert verdicts["Model names"] == "ok"


def test_dataset_without_a_tie_has_no_verdict_on_ties(tmp_path, monkeypatch):
    def untied(path, task):
        folds = read(path, task)
        targets = folds.targets.copy()
        targets[targets[:, 2] == 1] = [1.0, 0.0, 0.0]
        return replace(folds, targets=targets)

    read = audit.read_folds
    monkeypatch.setattr(audit, "read_folds", untied)
    found = run_stage(tmp_path, "preference", monkeypatch)
    assert found["outcomes"]["tie"]["rows"] == 0
    verdicts = {line.name: line.verdict for line in shown.findings(found, SCORES, "ensemble")}
    assert verdicts["Ties"] == "not measured"


def test_rows_with_a_column_that_could_tell_the_model_are_refused(tmp_path, monkeypatch):
    def spoil(path, task):
        return ["model_a"] if path else []

    monkeypatch.setattr(audit, "unknown_columns", spoil)
    with pytest.raises(InputError, match=r"rows\.parquet: got columns \['model_a'\]; expected"):
        run_stage(tmp_path, "preference", monkeypatch)


def test_column_beside_texts_targets_and_truth_is_unknown(tmp_path):
    columns = ["id", "part", "prompt", "response_a", "response_b", "y_a", "truth_tie", "model_a"]
    write_table(pd.DataFrame({name: ["x"] for name in columns}), tmp_path / "rows.parquet")
    assert audit.unknown_columns(tmp_path / "rows.parquet", Preference()) == ["model_a"]


def test_final_model_without_predictions_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "ENSEMBLE", "never")
    with pytest.raises(InputError, match=r"never\.parquet: got no row predicted out of fold"):
        run_stage(tmp_path, "single_label", monkeypatch)


# --- verdicts


def changed(found, path, value):
    """The figures with a new value at a path of keys with slashes."""
    found = deepcopy(found)
    *parents, last = path.split("/")
    inside = found
    for key in parents:
        inside = inside[key]
    assert last in inside
    inside[last] = value
    return found


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("Duplicates", "duplicates/between_folds", 1),
        ("Duplicates", "duplicates/leak_share", 0.03),
        ("Model names", "names/told_by_style/right", 0.9),
        ("Pick the longer", "baselines/longer/gain/ensemble/mean", 0.0),
        ("Style alone", "baselines/style/gain/ensemble/mean", -0.1),
        ("Ties", "outcomes/tie/gain_over_class_shares/mean", -1.0),
        ("Length bias", "length/longer_preferred/final/mean", 0.99),
        ("Position", "position/swap_error/svm", 1e-3),
        ("New models", "names/shift/lost/mean", 1.0),
        ("Folds", "folds/chance", 0.001),
    ],
)
def test_what_is_not_as_it_should_be_is_to_be_looked_at(tmp_path, monkeypatch, name, path, value):
    good = run_stage(tmp_path, "preference", monkeypatch)
    for key, fine in {
        "baselines/longer/gain/ensemble/mean": 1.0,
        "baselines/style/gain/ensemble/mean": 1.0,
        "names/shift/lost/mean": 0.0,
        "outcomes/tie/gain_over_class_shares/mean": 0.0,
        "folds/chance": 0.5,
        "length/longer_preferred/final/mean": 0.5,
        "length/longer_preferred/people/mean": 0.5,
    }.items():
        good = changed(good, key, fine)
    before, after = (
        {line.name: line.verdict for line in shown.findings(found, SCORES, "ensemble")}
        for found in (good, changed(good, path, value))
    )
    assert set(before.values()) == {"ok"}
    assert {key for key, verdict in after.items() if verdict != "ok"} == {name}


def test_calibration_beyond_chance_is_to_be_looked_at():
    scores = {"oof": SCORES["oof"] | {"class_calibration_error": 0.2}}
    found = {"duplicates": dict.fromkeys(audit.DUPLICATES, 0.0), "folds": {"judged": 1.0}}
    assert [line.verdict for line in shown.findings(found, scores, "svm")] == ["ok", "look"]


def test_seeds_are_told_where_a_curve_has_several():
    curve = pd.DataFrame(
        {
            "model": ["svm", "lgbm", "lgbm"], "fraction": [1.0, 1.0, 0.1], "seeds": [1, 3, 3],
            "log_loss": 1.02, "log_loss_seed_deviation": [0.0, 0.001, 0.9],
            "log_loss_standard_error": 0.008,
        }
    )  # fmt: skip
    (found,) = shown.seeds(curve)
    assert (found.verdict, "lgbm 1.0200 ± 0.0010" in found.text) == ("ok", True)
    assert "svm" not in found.text
    (noisy,) = shown.seeds(curve.assign(log_loss_seed_deviation=0.02))
    assert noisy.verdict == "look"
    assert shown.seeds(curve.iloc[:1]) == shown.seeds(pd.DataFrame()) == []
