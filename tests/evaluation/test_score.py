import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from stages.core.errors import InputError
from stages.core.layout import PARAMS, Layout
from stages.core.tables import write_json, write_table
from stages.core.tasks import MultiLabel, Preference
from stages.evaluation import score
from stages.evaluation.judging import clustered_mean
from stages.evaluation.scoring.metrics import scored

TASK = Preference()
CLASSES = TASK.classes


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 200)
    y = (probabilities.cumsum(axis=1) < rng.random((200, 1))).sum(axis=1)
    return y, np.eye(3)[y], probabilities


def test_certain_and_wrong_row_has_a_large_but_finite_loss():
    losses = TASK.row_losses(np.eye(3)[[0, 0]], np.eye(3)[[1, 0]])
    assert losses.tolist() == [pytest.approx(-np.log(1e-15)), 0]


def test_soft_targets_are_weighed_by_their_share():
    found = TASK.row_losses(np.array([[0.5, 0.25, 0.25]]), np.array([[0.5, 0.3, 0.2]]))
    assert found[0] == pytest.approx(-0.5 * np.log(0.5) - 0.25 * np.log(0.3) - 0.25 * np.log(0.2))


def test_regret_is_zero_for_the_truth_and_the_divergence_otherwise(values):
    _, _, truth = values
    assert score.regret(TASK, truth, truth)["regret"] == 0
    prior = np.full_like(truth, 1 / 3)
    found = score.regret(TASK, truth, prior)
    assert found["expected_log_loss"] == pytest.approx(np.log(3))
    assert found["best_log_loss"] == pytest.approx(-(truth * np.log(truth)).sum(axis=1).mean())
    assert found["regret"] == pytest.approx(found["expected_log_loss"] - found["best_log_loss"])


def confusion(task, targets, probabilities):
    limits = np.full(len(task.classes), 0.5)
    part = scored(task, targets, probabilities, np.arange(len(targets)), limits)
    return score.confusion(task, part.actual, part.given)


def test_confusion_counts_are_those_of_scikit_learn(values):
    y, targets, probabilities = values
    table = confusion(TASK, targets, probabilities)
    expected = metrics.confusion_matrix(y, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(table["rows"].to_numpy().reshape(3, 3), expected)
    assert table.loc[1, ["actual", "predicted"]].tolist() == ["a", "b"]
    np.testing.assert_allclose(table.groupby("actual")["share"].sum(), 1)


def test_share_of_a_class_without_rows_is_zero():
    table = confusion(TASK, np.eye(3)[[0, 1]], np.eye(3)[[0, 2]])
    assert table.loc[table["actual"] == "tie", "share"].tolist() == [0, 0, 0]


def test_confusion_of_several_labels_says_what_a_missed_label_was_taken_for():
    actual = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    given = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    table = confusion(MultiLabel(("x", "y", "z")), actual, given)
    found = table["rows"].to_numpy().reshape(4, 4)
    assert found.tolist() == [
        [2, 0, 0, 0],
        [0, 0, 1, 1],  # y: once taken for z, once not seen
        [0, 0, 1, 0],
        [0, 1, 0, 0],  # none missed, and y given wrongly
    ]
    assert table["predicted"].tolist()[:4] == ["x", "y", "z", "(none)"]
    assert table["share"].tolist()[4:8] == [0, 0, 0.5, 0.5]


def test_reliability_means_stand_in_their_bins(values):
    _, targets, probabilities = values
    group = np.arange(200) // 2
    table = score.reliability(targets, probabilities, CLASSES, group)
    assert table.groupby("class")["rows"].sum().tolist() == [200, 200, 200]
    for number, name in enumerate(CLASSES):
        own = table[table["class"] == name]
        low = probabilities[:, number] < 1 / 15
        assert own["rows"].iloc[0] == low.sum()
        assert own["predicted"].iloc[0] == pytest.approx(probabilities[low, number].mean())
        assert own["actual"].iloc[0] == pytest.approx(targets[low, number].mean())
        _, error = clustered_mean(targets[low, number], group[low])
        assert own["error"].iloc[0] == pytest.approx(error)


def make_predictions(probabilities, swapped):
    frame = pd.DataFrame(probabilities, columns=["p_a", "p_b", "p_tie"])
    return frame.assign(
        swapped_p_a=swapped[:, 0], swapped_p_b=swapped[:, 1], swapped_p_tie=swapped[:, 2]
    )


def test_swap_error_is_the_largest_difference(values):
    probabilities = values[2]
    exact = make_predictions(probabilities, probabilities[:, [1, 0, 2]])
    assert score.swap_error(Preference(), exact) == 0
    wrong = probabilities[:, [1, 0, 2]].copy()
    wrong[7, 0] += 0.25
    assert score.swap_error(Preference(), make_predictions(probabilities, wrong)) == pytest.approx(
        0.25
    )


@pytest.fixture
def inputs(tmp_path, folds, monkeypatch):
    """Files as the stage reads them; the predictions in another order than the folds."""
    monkeypatch.chdir(tmp_path)
    layout = Layout("tiny")
    n = len(folds.ids)
    truth = np.random.default_rng(0).dirichlet([2, 2, 2], n)
    frame = pd.DataFrame({"id": folds.ids, "part": folds.part, "fold": folds.fold})
    frame["group"] = folds.group
    frame[["y_a", "y_b", "y_tie"]] = folds.targets
    write_table(frame, layout.folds)
    rows = pd.DataFrame({"id": folds.ids})
    rows[["truth_a", "truth_b", "truth_tie"]] = truth
    write_table(rows, layout.rows)
    table = make_predictions(truth, truth[:, [1, 0, 2]])
    table.insert(0, "id", folds.ids)
    table.insert(1, "part", np.where(folds.part == "train", "oof", "test"))
    write_table(table.sample(frac=1, random_state=0), layout.predictions("svm"))
    write_json({"kind": "preference", "classes": list(CLASSES)}, layout.labels)
    return layout


def run_stage(layout, model="svm", others=(), ensemble="svm"):
    """Score models, and as the ensemble the predictions of one; the metrics of `model`."""
    shutil.copy(layout.predictions(ensemble), layout.predictions("ensemble"))
    groups = {"linear": [model, *others], "dense": [], "latent": [], "backbones": []}
    curves = {"datasets": [], "models": []}
    write_json({"datasets": ["tiny"], "build": groups, "learning_curves": curves}, PARAMS)
    score.main(dataset="tiny")
    return json.loads(layout.scores(model).read_text())


def numbers(found):
    """All numbers of nested metrics."""
    for value in found.values():
        yield from numbers(value) if isinstance(value, dict) else [value]


def test_stage_joins_by_id_and_writes_finite_metrics(inputs, folds):
    found = run_stage(inputs)
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers(found))
    assert set(found) == {"oof", "test"}
    assert found["oof"]["rows"] == len(folds.train(None))
    regrets = [found[part]["known_judge"]["regret"] for part in ("oof", "test")]
    assert [*regrets, found["oof"]["swap_error"]] == [0, 0, 0]
    assert {"log_loss", "accuracy"} <= set(found["oof"]["standard_error"])
    assert "at_half" not in found["oof"]
    truth = np.random.default_rng(0).dirichlet([2, 2, 2], len(folds.ids))
    y = folds.targets.argmax(axis=1)
    for fold in (0, 1, 2):
        own = folds.held(fold)
        expected = -np.log(truth[own, y[own]]).mean()
        assert found["oof"]["fold_log_loss"][str(fold)] == pytest.approx(expected)
    assert json.loads(inputs.thresholds("svm").read_text()) == {}
    assert list(pd.read_csv(inputs.confusion("svm"))) == [
        "actual",
        "predicted",
        "rows",
        "share",
    ]
    assert list(pd.read_csv(inputs.reliability("svm"))) == [
        "class",
        "predicted",
        "actual",
        "rows",
        "error",
    ]


def test_loss_of_each_out_of_fold_row_is_kept_with_its_id_and_group(inputs, folds):
    found = run_stage(inputs)
    table = pd.read_parquet(inputs.losses("svm"))
    assert table.dtypes.astype(str).to_dict() == {"id": "str", "group": "int64", "loss": "float32"}
    assert set(table["id"]) == set(folds.ids[folds.judged])
    group = dict(zip(folds.ids, folds.group, strict=True))
    assert table["group"].tolist() == [group[row] for row in table["id"]]
    assert table["loss"].mean() == pytest.approx(found["oof"]["log_loss"])
    first = inputs.losses("svm").read_bytes()
    run_stage(inputs)
    assert inputs.losses("svm").read_bytes() == first


def test_known_judge_without_a_test_part_gives_the_regret_of_the_train_part(inputs):
    table = pd.read_parquet(inputs.predictions("svm"))
    write_table(table[table["part"] == "oof"], inputs.predictions("svm"))
    found = run_stage(inputs)
    assert "regret" in found["oof"]["known_judge"]
    assert set(found) == {"oof"}


def test_predictions_of_strangers_are_refused(inputs):
    table = pd.read_parquet(inputs.predictions("svm"))
    write_table(table.assign(id=table["id"] + "?"), inputs.predictions("other"))
    with pytest.raises(InputError, match=r"other\.parquet: got 72 out-of-fold rows; expected ids"):
        run_stage(inputs, "other")


def test_predictions_without_rows_are_scored_as_none_and_the_others_as_before(inputs):
    alone = run_stage(inputs)
    write_table(pd.read_parquet(inputs.predictions("svm")).iloc[:0], inputs.predictions("none"))
    assert run_stage(inputs, "none", ["svm"]) == {"oof": {"rows": 0}}
    for path in (inputs.classes, inputs.confusion, inputs.reliability):
        assert pd.read_csv(path("none")).empty
    assert pd.read_parquet(inputs.losses("none")).empty
    assert json.loads(inputs.scores("svm").read_text()) == alone


def test_ensemble_is_scored_with_the_models_though_it_lies_elsewhere(inputs):
    alone = run_stage(inputs)
    assert inputs.predictions("ensemble").parent != inputs.predictions("svm").parent
    assert json.loads(inputs.scores("ensemble").read_text()) == alone


@pytest.fixture
def several(tmp_path, monkeypatch):
    """Rows of three folds, a labelled and an unlabelled dev row, and one of the test part."""
    monkeypatch.chdir(tmp_path)
    layout = Layout("tiny")
    rng = np.random.default_rng(0)
    part = np.array(["train"] * 90 + ["dev"] * 11 + ["test"])
    probabilities = rng.beta(0.5, 2, (len(part), 3))
    targets = (rng.random(probabilities.shape) < probabilities).astype(float)
    targets[-2:] = np.nan
    frame = pd.DataFrame({"id": [f"row {i}" for i in range(len(part))], "part": part})
    folds = frame.assign(fold=np.where(part == "train", np.arange(len(part)) % 3, -1))
    folds["group"] = np.arange(len(part))
    folds[["y_x", "y_y", "y_z"]] = targets
    write_table(folds, layout.folds)
    write_table(frame, layout.rows)
    table = frame.assign(part=np.where(part == "train", "oof", part))
    table[["p_x", "p_y", "p_z"]] = probabilities
    write_table(table, layout.predictions("svm"))
    write_json({"kind": "multi_label", "classes": ["x", "y", "z"]}, layout.labels)
    return layout, targets, probabilities


def test_dev_part_is_judged_apart_with_the_thresholds_of_all_out_of_fold_rows(several):
    layout, targets, probabilities = several
    found = run_stage(layout)
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers(found))
    assert (found["oof"]["rows"], found["dev"]["rows"]) == (90, 10)
    dev = slice(90, 100)
    thresholds = list(json.loads(layout.thresholds("svm").read_text()).values())
    expected = metrics.f1_score(targets[dev], probabilities[dev] >= thresholds, average="macro")
    assert found["dev"]["macro_f1"] == pytest.approx(expected)
    expected = metrics.f1_score(targets[dev], probabilities[dev] >= 0.5, average="macro")
    assert found["dev"]["at_half"]["macro_f1"] == pytest.approx(expected)
    # as text: pandas below 3.1 loses the last bit of a number
    report = pd.read_csv(layout.classes("svm"), dtype={"threshold": str})
    assert report["part"].tolist() == ["oof"] * 3 + ["dev"] * 3
    assert list(map(float, report["threshold"])) == thresholds * 2
    assert report.loc[report["part"] == "dev", "f1"].mean() == pytest.approx(
        found["dev"]["macro_f1"]
    )


def test_out_of_fold_rows_are_not_judged_with_thresholds_that_saw_them(several):
    layout, targets, probabilities = several
    found = run_stage(layout)
    thresholds = list(json.loads(layout.thresholds("svm").read_text()).values())
    seen = metrics.f1_score(targets[:90], probabilities[:90] >= thresholds, average="macro")
    assert found["oof"]["macro_f1"] < seen


def test_thresholds_of_one_predicted_fold_are_chosen_on_its_parts(several):
    layout, _, _ = several
    table = pd.read_parquet(layout.predictions("svm"))
    fold = pd.read_parquet(layout.folds)["fold"]
    write_table(table[fold.isin([1, -1])], layout.predictions("one"))
    found = run_stage(layout, "one")
    assert found["oof"]["rows"] == 30
    # with no other rows to choose on, all thresholds would be one half
    assert found["oof"]["macro_f1"] != found["oof"]["at_half"]["macro_f1"]
