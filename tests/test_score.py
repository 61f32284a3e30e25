import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from stages import score
from stages.base.errors import InputError
from stages.base.tables import write_json, write_table
from stages.base.tasks import Preference

CLASSES = ("a", "b", "tie")


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 200)
    y = (probabilities.cumsum(axis=1) < rng.random((200, 1))).sum(axis=1)
    return y, np.eye(3)[y], probabilities


def test_metrics_are_those_of_scikit_learn(values):
    y, targets, probabilities = values
    found = score.score(targets, probabilities)
    top = probabilities.argmax(axis=1)
    losses = -np.log(probabilities[np.arange(200), y])
    expected = {
        "rows": 200,
        "log_loss": metrics.log_loss(y, probabilities),
        "log_loss_standard_error": losses.std(ddof=1) / np.sqrt(200),
        "accuracy": metrics.accuracy_score(y, top),
        "macro_precision": metrics.precision_score(y, top, average="macro"),
        "macro_recall": metrics.recall_score(y, top, average="macro"),
        "macro_f1": metrics.f1_score(y, top, average="macro"),
        "macro_auc": metrics.roc_auc_score(y, probabilities, multi_class="ovr"),
        "brier": sum((probabilities[i, k] - (y[i] == k)) ** 2 for i in range(200) for k in range(3))
        / 200,
    }
    assert found.keys() == expected.keys() | {"expected_calibration_error"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_class_without_rows_or_predictions_leaves_every_metric_finite():
    targets = np.eye(3)[[0, 1, 0, 1]]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [1, 0, 0], [0.9, 0.1, 0]])
    found = score.score(targets, probabilities)
    assert np.isfinite(list(found.values())).all()
    assert found["macro_precision"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["macro_recall"] == pytest.approx((1 + 0 + 0) / 3)

    found = score.score(np.eye(3)[[0, 0, 0, 0]], probabilities)
    assert np.isfinite(list(found.values())).all()
    assert found["macro_auc"] == 0.5


def test_certain_and_wrong_row_has_a_large_but_finite_loss():
    losses = score.row_losses(np.eye(3)[[0, 0]], np.eye(3)[[1, 0]])
    assert losses.tolist() == [pytest.approx(-np.log(1e-15)), 0]


def test_soft_targets_are_weighed_by_their_share():
    found = score.row_losses(np.array([[0.5, 0.25, 0.25]]), np.array([[0.5, 0.3, 0.2]]))
    assert found[0] == pytest.approx(-0.5 * np.log(0.5) - 0.25 * np.log(0.3) - 0.25 * np.log(0.2))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.91, 0.05, 0.04], [0.5, 0.3, 0.2], [0, 1, 0]])
    targets = np.eye(3)[[0, 1, 0, 1]]
    # bins: {0.9, 0.91} says 0.905 and hits a half; {0.5} says 0.5 and hits; {1} is right
    expected = (abs(0.9 + 0.91 - 1) + abs(0.5 - 1) + 0) / 4
    assert score.calibration_error(targets, probabilities) == pytest.approx(expected)


def test_regret_is_zero_for_the_truth_and_the_divergence_otherwise(values):
    _, _, truth = values
    assert score.regret(truth, truth)["regret"] == 0
    prior = np.full_like(truth, 1 / 3)
    found = score.regret(truth, prior)
    assert found["expected_log_loss"] == pytest.approx(np.log(3))
    assert found["best_log_loss"] == pytest.approx(-(truth * np.log(truth)).sum(axis=1).mean())
    assert found["regret"] == pytest.approx(found["expected_log_loss"] - found["best_log_loss"])


def test_confusion_counts_are_those_of_scikit_learn(values):
    y, targets, probabilities = values
    table = score.confusion(targets, probabilities, CLASSES)
    expected = metrics.confusion_matrix(y, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(table["rows"].to_numpy().reshape(3, 3), expected)
    assert table.loc[1, ["actual", "predicted"]].tolist() == ["a", "b"]
    np.testing.assert_allclose(table.groupby("actual")["share"].sum(), 1)


def test_share_of_a_class_without_rows_is_zero():
    table = score.confusion(np.eye(3)[[0, 1]], np.eye(3)[[0, 2]], CLASSES)
    assert table.loc[table["actual"] == "tie", "share"].tolist() == [0, 0, 0]


def test_reliability_means_stand_in_their_bins(values):
    _, targets, probabilities = values
    table = score.reliability(targets, probabilities, CLASSES)
    assert table.groupby("class")["rows"].sum().tolist() == [200, 200, 200]
    for number, name in enumerate(CLASSES):
        own = table[table["class"] == name]
        low = probabilities[:, number] < 1 / 15
        assert own["rows"].iloc[0] == low.sum()
        assert own["predicted"].iloc[0] == pytest.approx(probabilities[low, number].mean())
        assert own["actual"].iloc[0] == pytest.approx(targets[low, number].mean())


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
def inputs(tmp_path, folds):
    """Files as the stage reads them; the predictions in another order than the folds."""
    n = len(folds.ids)
    truth = np.random.default_rng(0).dirichlet([2, 2, 2], n)
    frame = pd.DataFrame({"id": folds.ids, "part": folds.part, "fold": folds.fold})
    frame["group"] = folds.group
    frame[["y_a", "y_b", "y_tie"]] = folds.targets
    write_table(frame, tmp_path / "folds.parquet")
    rows = pd.DataFrame({"id": folds.ids})
    rows[["truth_a", "truth_b", "truth_tie"]] = truth
    write_table(rows, tmp_path / "rows.parquet")
    table = make_predictions(truth, truth[:, [1, 0, 2]])
    table.insert(0, "id", folds.ids)
    table.insert(1, "part", np.where(folds.part == "train", "oof", "test"))
    write_table(table.sample(frac=1, random_state=0), tmp_path / "svm.parquet")
    write_json({"kind": "preference", "classes": list(CLASSES)}, tmp_path / "labels.json")
    return tmp_path


def run_stage(folder, predictions="svm.parquet"):
    score.main(
        dataset="tiny", labels=folder / "labels.json", folds=folder / "folds.parquet",
        rows=folder / "rows.parquet", predictions=folder / predictions,
        metrics=folder / "m.json", confusion_out=folder / "c.csv",
        reliability_out=folder / "r.csv",
    )  # fmt: skip
    return json.loads((folder / "m.json").read_text())


def test_stage_joins_by_id_and_writes_flat_finite_metrics(inputs, folds):
    found = run_stage(inputs)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    assert found["rows"] == len(folds.train(None))
    assert found["regret"] == found["test_regret"] == found["swap_error"] == 0
    truth = np.random.default_rng(0).dirichlet([2, 2, 2], len(folds.ids))
    y = folds.targets.argmax(axis=1)
    for fold in (0, 1, 2):
        own = folds.held(fold)
        expected = -np.log(truth[own, y[own]]).mean()
        assert found[f"log_loss_fold{fold}"] == pytest.approx(expected)
    assert list(pd.read_csv(inputs / "c.csv")) == ["actual", "predicted", "rows", "share"]
    assert list(pd.read_csv(inputs / "r.csv")) == ["class", "predicted", "actual", "rows"]


def test_predictions_of_strangers_are_refused(inputs):
    table = pd.read_parquet(inputs / "svm.parquet")
    write_table(table.assign(id=table["id"] + "?"), inputs / "other.parquet")
    with pytest.raises(InputError, match=r"other\.parquet: got 72 out-of-fold rows; expected ids"):
        run_stage(inputs, "other.parquet")
