import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from stages.core.tasks import MultiLabel, SingleLabel
from stages.evaluation.scoring import metrics as _metrics
from stages.evaluation.scoring.measures import (
    COSTS,
    DECISIONS,
    LOG_LOSS,
    MEASURES,
    OTHERS,
    QUALITY,
    REGRET,
    ROWS,
    columns,
    measured,
    standard_errors,
)

CLASSES = ("joy", "grief", "anger", "none of them")
ONE, SEVERAL = SingleLabel(CLASSES), MultiLabel(CLASSES)
AVERAGES = ("macro", "micro", "weighted")


@pytest.fixture
def one():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1] * 4, 300)
    y = (probabilities.cumsum(axis=1) < rng.random((300, 1))).sum(axis=1)
    return y, np.eye(4)[y], probabilities


@pytest.fixture
def several():
    rng = np.random.default_rng(1)
    probabilities = rng.beta(0.5, 2, (300, 4)).round(2)  # with ties
    return (rng.random((300, 4)) < probabilities).astype(float), probabilities


def averages(actual, given):
    return {
        f"{average}_{name}": function(actual, given, average=average, zero_division=0)
        for average in AVERAGES
        for name, function in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        )
    }


def test_metrics_of_one_label_are_those_of_scikit_learn(one):
    y, targets, probabilities = one
    top = probabilities.argmax(axis=1)
    rows = _metrics.scored(ONE, targets, probabilities, np.arange(len(targets)), 0.5)
    found = measured(rows, DECISIONS)
    assert found == pytest.approx(
        averages(y, top)
        | {
            "accuracy": metrics.accuracy_score(y, top),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, top),
        }
    )
    losses = -np.log(probabilities[np.arange(300), y])
    found = measured(rows, (ROWS, LOG_LOSS, *OTHERS))
    assert found.pop("expected_calibration_error") > 0  # by hand below
    assert found.pop("class_calibration_error") > 0  # by hand below
    assert standard_errors(rows)["log_loss"] == pytest.approx(losses.std(ddof=1) / np.sqrt(300))
    assert found == pytest.approx(
        {
            "rows": 300,
            "log_loss": metrics.log_loss(y, probabilities),
            "brier": np.square(probabilities - np.eye(4)[y]).sum() / 300,
            "macro_auc": metrics.roc_auc_score(y, probabilities, multi_class="ovr"),
        }
    )


def test_metrics_of_several_labels_are_those_of_scikit_learn(several):
    targets, probabilities = several
    given = probabilities >= 0.3
    columns = list(zip(targets.T, given.T, probabilities.T, strict=True))
    rows = _metrics.scored(SEVERAL, targets, probabilities, np.arange(len(targets)), 0.3)
    found = measured(rows, DECISIONS)
    assert found == pytest.approx(
        averages(targets, given)
        | {
            "accuracy": 1 - metrics.hamming_loss(targets, given),
            "subset_accuracy": metrics.accuracy_score(targets, given),
            "balanced_accuracy": np.mean(
                [metrics.balanced_accuracy_score(y, g) for y, g, _ in columns]
            ),
        }
    )
    found = measured(rows, (LOG_LOSS, *OTHERS))
    losses = [metrics.log_loss(y, p.clip(1e-15, 1 - 1e-15), labels=[0, 1]) for y, _, p in columns]
    assert found["log_loss"] == pytest.approx(np.mean(losses))
    assert found["brier"] == pytest.approx(
        np.mean([metrics.brier_score_loss(y, p) for y, _, p in columns])
    )
    assert found["macro_auc"] == pytest.approx(metrics.roc_auc_score(targets, probabilities))
    assert found["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(targets, probabilities)
    )


@pytest.mark.parametrize("task", [ONE, SEVERAL])
@pytest.mark.parametrize("rows", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_class_without_rows_or_predictions_leaves_every_metric_finite(task, rows):
    targets = np.eye(4)[rows]
    probabilities = np.array([[0.8, 0.1, 0.1, 0], [0.7, 0.2, 0.1, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    actual = task.has_classes(targets)
    thresholds = _metrics.choose_thresholds(actual, probabilities)
    rows = _metrics.scored(task, targets, probabilities, np.arange(len(targets)), thresholds)
    found = measured(rows, (ROWS, *QUALITY))
    values = [*found.values(), *standard_errors(rows).values()]
    assert np.isfinite(values).all()
    assert all(value >= 0 for value in values)


def test_only_means_over_rows_have_a_standard_error(one, several):
    group = np.arange(300)
    exclusive = _metrics.scored(ONE, *one[1:], group, 0.5)
    assert set(standard_errors(exclusive)) == {"log_loss", "accuracy", "brier"}
    some = _metrics.scored(SEVERAL, *several, group, 0.5)
    assert set(standard_errors(some)) == {"log_loss", "accuracy", "subset_accuracy", "brier"}
    error = (some.actual == some.given).mean(axis=1).std(ddof=1) / np.sqrt(300)
    assert standard_errors(some)["accuracy"] == pytest.approx(error)


def test_measures_have_keys_of_their_own_and_costs_are_not_computed():
    assert len(MEASURES) == len([ROWS, *QUALITY, REGRET, *COSTS])
    with pytest.raises(ValueError, match="wall_seconds: is not computed from predictions"):
        MEASURES["wall_seconds"].compute(None)


def test_values_are_shown_with_their_digits():
    assert MEASURES["accuracy"].text(0.4903) == "49.0%"
    assert MEASURES["log_loss"].text(1.00446) == "1.0045"
    assert MEASURES["regret"].text(-0.5) == "−0.5000"
    assert MEASURES["rows"].text(6000.0) == "6,000"


def test_column_reads_its_part_of_the_scores():
    scores = {"oof": {"log_loss": 1.0}, "test": {"known_judge": {"regret": 0.2}}}
    found = {column.key: column.read(scores) for column in columns("page")}
    assert {key: value for key, value in found.items() if value is not None} == {
        "log_loss": 1.0, "test_regret": 0.2,
    }  # fmt: skip


def test_precision_and_recall_of_a_class_that_is_never_right_are_zero():
    actual = ONE.has_classes(np.eye(4)[[0, 1, 0, 1]])
    found = _metrics.class_scores(actual, np.eye(4, dtype=bool)[[0, 0, 0, 2]])
    np.testing.assert_allclose(found["precision"], [2 / 3, 0, 0, 0])
    np.testing.assert_allclose(found["recall"], [1, 0, 0, 0])


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_class_that_no_row_has_or_is_given_is_left_out_of_the_means(task):
    y, given = [0, 1, 2, 1, 0], [0, 1, 1, 1, 2]
    actual, chosen = (np.eye(4, dtype=bool)[x] for x in (y, given))
    found = measured(_metrics.Scored(task, actual, chosen, np.arange(5), actual, chosen), DECISIONS)
    expected = {name: value for name, value in averages(y, given).items() if "macro" in name}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_soft_targets_count_as_their_largest_class_or_as_all_of_one_half():
    targets = np.array([[0.3, 0.4, 0.2, 0.1], [0.5, 0.5, 0, 0]])
    assert ONE.has_classes(targets).tolist() == [
        [False, True, False, False], [True, False, False, False],
    ]  # fmt: skip
    assert SEVERAL.has_classes(targets).tolist() == [
        [False] * 4, [True, True, False, False],
    ]  # fmt: skip


def test_thresholds_are_the_best_that_a_search_finds_pulled_to_one_half_by_a_row(several):
    targets, probabilities = several
    actual = targets > 0
    chosen = _metrics.choose_thresholds(actual, probabilities)
    for y, p, threshold in zip(actual.T, probabilities.T, chosen, strict=True):
        tried = {t: metrics.f1_score(y, p >= t, zero_division=0) for t in np.unique(p)}
        best = max(t for t in tried if tried[t] > max(tried.values()) - 1e-12)
        log_odds = y.sum() / (y.sum() + 1) * logit(best)
        assert threshold == pytest.approx(expit(log_odds))


def test_threshold_of_a_rare_class_stays_nearer_to_one_half_than_its_rows():
    p = np.array([[0.9], [0.001], [0.002], [0.01]])
    rare = np.array([[False], [False], [True], [False]])
    (once,) = _metrics.choose_thresholds(rare, p)
    (often,) = _metrics.choose_thresholds(np.tile(rare, (99, 1)), np.tile(p, (99, 1)))
    assert 0.002 < often < 0.0022 < 0.04 < once


def test_class_without_rows_keeps_one_half():
    actual = np.array([[True, False], [True, False]])
    chosen = _metrics.choose_thresholds(actual, np.array([[0.2, 0.9], [0.4, 0.1]]))
    assert chosen.tolist() == [pytest.approx(expit(2 / 3 * logit(0.2))), 0.5]


def test_thresholds_of_a_row_know_nothing_of_its_fold(several):
    targets, probabilities = several
    fold = np.arange(len(targets)) % 3
    before = _metrics.nested_thresholds(targets > 0, probabilities, fold)
    turned = np.where((fold == 1)[:, None], 1 - targets, targets) > 0
    after = _metrics.nested_thresholds(turned, probabilities, fold)
    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert (before[fold != 1] != after[fold != 1]).any()
    others = fold != 2
    expected = _metrics.choose_thresholds(targets[others] > 0, probabilities[others])
    np.testing.assert_array_equal(before[fold == 2], np.tile(expected, (100, 1)))


def test_calibration_error_of_the_most_probable_class_by_hand():
    task = SingleLabel(("a", "b", "c"))
    probabilities = np.array([[0.9, 0.1, 0], [0.91, 0.05, 0.04], [0.5, 0.3, 0.2], [0, 1, 0]])
    targets = np.eye(3)[[0, 1, 0, 1]]
    # bins: {0.9, 0.91} says 0.905 and hits a half; {0.5} says 0.5 and hits; {1} is right
    expected = (abs(0.9 + 0.91 - 1) + abs(0.5 - 1) + 0) / 4
    assert _metrics.calibration_error(task, targets, probabilities) == pytest.approx(expected)


def test_calibration_error_of_several_labels_looks_at_each_class():
    task = MultiLabel(("a", "b"))
    targets, probabilities = np.array([[1.0, 0], [0, 1]]), np.array([[0.9, 0.1], [0.2, 0.2]])
    expected = (abs(0.9 - 1) + abs(0.1 - 0) + abs(0.4 - 1)) / 4
    assert _metrics.calibration_error(task, targets, probabilities) == pytest.approx(expected)


def test_class_calibration_error_by_hand():
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    # both classes: a bin of two rows, right in half of them, and a row that is 0.1 too low
    found = _metrics.class_calibration_error(targets, probabilities)
    assert found == pytest.approx(0.1 / 3)


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_calibrated_probabilities_err_as_chance_does_and_sure_ones_beyond_it(task):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1] * 4, 2000) if task.exclusive else rng.beta(0.5, 2, (2000, 4))
    targets = _metrics._draw(task, p, np.random.default_rng(9))
    mean, bound = _metrics.calibration_noise(task, p)
    assert 0 < mean < bound
    assert abs(_metrics.class_calibration_error(targets, p) - mean) < 2.5 * (bound - mean)
    sure = task.sharpen(p, 0.3)
    _, bound = _metrics.calibration_noise(task, sure)
    assert _metrics.class_calibration_error(targets, sure) > 2 * bound


def test_labels_are_drawn_as_often_as_probabilities_say():
    p = np.tile([0.5, 0.0, 0.2, 0.3], (20_000, 1))
    for task in (ONE, SEVERAL):
        drawn = _metrics._draw(task, p, np.random.default_rng(0))
        np.testing.assert_allclose(drawn.mean(axis=0), p[0], atol=0.01)
    assert (_metrics._draw(ONE, p, np.random.default_rng(0)).sum(axis=1) == 1).all()


@pytest.mark.parametrize("task", [ONE, SEVERAL])
def test_calibration_of_one_row_and_of_certainty_is_finite(task):
    certain = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert _metrics.calibration_noise(task, certain) == (0.0, 0.0)
    assert _metrics.class_calibration_error(certain, certain) == 0
