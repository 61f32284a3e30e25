"""Metrics of probabilities under (soft) targets, and the thresholds that make labels of them.

All functions work on `(n_rows, n_classes)`. Where classes are exclusive, a row is given its most
probable class; else each class whose probability reaches a threshold. Rare classes never make a
metric NaN: precision, recall and F1 of a class that is never predicted, or never right, are 0, and
one that no row has or is given is left out of their means (as a tie where nobody calls one);
metrics that compare rows of a class with the others leave out classes without both.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.tasks import BOUND, Floats, Task
from stages.evaluation.judging import mean_and_error

Labels: TypeAlias = npt.NDArray[np.bool_]  # which classes each row has

BINS = 15  # as in Guo et al. (2017)
DRAWS = 40  # of labels, to know the noise of a calibration error
HALF = 0.5  # the threshold that needs no choosing


def actual_labels(task: Task, targets: Floats) -> Labels:
    """The classes of (soft) targets: the most probable one, or all of one half and more."""
    return _largest(targets) if task.exclusive else targets >= HALF


def decide(task: Task, probabilities: Floats, thresholds: Floats | float) -> Labels:
    """The classes that a row is given.

    Args:
        task: Exclusive classes have no use for `thresholds`.
        probabilities: `(n_rows, n_classes)`.
        thresholds: One for all, one a class, or one a row and class.
    """
    return _largest(probabilities) if task.exclusive else probabilities >= thresholds


def choose_thresholds(actual: Labels, probabilities: Floats) -> Floats:
    """For each class about the threshold of the largest F1 on these rows, `(n_classes,)`.

    Macro-F1 is the mean of the classes' F1, so each class is chosen for on its own; of equal ones
    the highest threshold is taken. Two rows of a class tell little of it: its log-odds are pulled
    to one half as if one row more were known, and that one's threshold were there. Of no row more,
    1, 3 and 10 that is the best (docs/log.md). A class without rows keeps one half.
    """
    chosen = np.full(actual.shape[1], HALF)
    for k in np.flatnonzero(actual.any(axis=0)):
        order = np.argsort(-probabilities[:, k], kind="stable")
        p, hits = probabilities[order, k], actual[order, k].cumsum()
        f1 = 2 * hits / (np.arange(1, len(p) + 1) + hits[-1])
        f1[:-1][p[:-1] == p[1:]] = 0  # rows of equal probability are taken together
        best = np.clip(p[f1.argmax()], BOUND, 1 - BOUND)
        log_odds = np.log(best / (1 - best)) * hits[-1] / (hits[-1] + 1)
        chosen[k] = 1 / (1 + np.exp(-log_odds))
    return chosen


def nested_thresholds(actual: Labels, probabilities: Floats, fold: npt.NDArray[Any]) -> Floats:
    """Thresholds for each row, `(n_rows, n_classes)`, chosen on the rows of the other folds."""
    chosen = np.empty(probabilities.shape)
    for number in np.unique(fold):
        held = fold == number
        chosen[held] = choose_thresholds(actual[~held], probabilities[~held])
    return chosen


def calibration_error(task: Task, targets: Floats, probabilities: Floats) -> float:
    """Expected calibration error, 15 bins of equal width.

    Of the most probable class of each row, or, where classes do not exclude each other, of all.
    """
    judged = _largest(probabilities) if task.exclusive else np.ones(targets.shape, bool)
    confidence, hit = probabilities[judged], targets[judged]
    gap = np.bincount(bins(confidence), confidence - hit, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))


def class_calibration_error(targets: Floats, probabilities: Floats) -> float:
    """Class-wise expected calibration error (Kull et al. 2019): the mean over all classes, 15 bins.

    Every probability counts here, where `calibration_error` looks at the most probable class alone.
    """
    return float(_class_gaps(bins(probabilities), probabilities - targets).mean())


def calibration_noise(task: Task, probabilities: Floats, seed: int = 0) -> tuple[float, float]:
    """What `class_calibration_error` is by chance, were these the true probabilities.

    Labels are drawn from them. Soft targets scatter less than labels: for them it is too large.

    Returns:
        Mean, and the value that 19 of 20 draws stay below (mean + 1.645 standard deviations).
    """
    rng = np.random.default_rng(seed)
    bin_of, errors = bins(probabilities), []
    for _ in range(DRAWS):
        drawn = _draw(task, probabilities, rng)
        errors.append(_class_gaps(bin_of, probabilities - drawn).mean())
    return float(np.mean(errors)), float(np.mean(errors) + 1.645 * np.std(errors, ddof=1))


def _class_gaps(bin_of: npt.NDArray[np.intp], differences: Floats) -> Floats:
    """For each class the sum over bins of the absolute mean difference, `(n_classes,)`."""
    n_rows, n_classes = differences.shape
    place = bin_of + BINS * np.arange(n_classes)
    sums = np.bincount(place.ravel(), differences.ravel(), minlength=BINS * n_classes)
    gaps: Floats = np.abs(sums).reshape(n_classes, BINS).sum(axis=1) / n_rows
    return gaps


def _draw(task: Task, probabilities: Floats, rng: np.random.Generator) -> Floats:
    """Labels `(n_rows, n_classes)` that these probabilities would bring about."""
    if not task.exclusive:
        return (rng.random(probabilities.shape) < probabilities).astype(np.float64)
    chance = rng.random(len(probabilities))[:, None] * probabilities.sum(axis=1, keepdims=True)
    # the last class takes what rounding leaves
    number = (probabilities[:, :-1].cumsum(axis=1) <= chance).sum(axis=1)
    drawn: Floats = np.eye(probabilities.shape[1])[number]
    return drawn


def bins(probabilities: Floats) -> npt.NDArray[np.intp]:
    """The bin of each probability, from 0 to 14."""
    return np.minimum((probabilities * BINS).astype(np.intp), BINS - 1)


def probability_metrics(
    task: Task, targets: Floats, probabilities: Floats, group: npt.NDArray[Any]
) -> dict[str, float]:
    """What can be said without decisions: log loss, Brier score, calibration, ranking.

    The standard error of the log loss is clustered by `group`, `(n_rows,)`, and 0 of one group.
    """
    actual = actual_labels(task, targets)
    losses = task.row_losses(targets, probabilities)
    squares = np.square(targets - probabilities)
    auc, precision = ranking(actual, probabilities)
    loss, error = mean_and_error(losses, group)
    found = {
        "rows": float(len(targets)),
        "log_loss": loss,
        "log_loss_standard_error": float(np.nan_to_num(error)),
        "brier": float((squares.sum(axis=1) if task.exclusive else squares.mean(axis=1)).mean()),
        "expected_calibration_error": calibration_error(task, targets, probabilities),
        "macro_auc": _mean(auc[two_sided(actual)], HALF),
    }
    if not task.exclusive:
        found["mean_average_precision"] = _mean(precision[actual.any(axis=0)], 0.0)
    return found


def decision_metrics(task: Task, actual: Labels, given: Labels) -> dict[str, float]:
    """What can be said of labels: accuracies, precision, recall and F1.

    Where classes do not exclude each other, `accuracy` is the share of right decisions of all
    (row, class), `subset_accuracy` that of rows with no wrong one, and `balanced_accuracy` the mean
    over classes of the mean recall of having and of not having it.
    """
    right = actual == given
    found = {"accuracy": float(right.all(axis=1).mean())}
    recall = _recall(actual, given)
    if task.exclusive:
        found["balanced_accuracy"] = _mean(recall[actual.any(axis=0)], 0.0)
    else:
        found = {"accuracy": float(right.mean()), "subset_accuracy": found["accuracy"]}
        both = (recall + _recall(~actual, ~given)) / 2
        found["balanced_accuracy"] = _mean(both[two_sided(actual)], HALF)
    scores = class_scores(actual, given)
    weights = actual.sum(axis=0) / max(actual.sum(), 1)
    pooled = class_scores(actual.reshape(-1, 1), given.reshape(-1, 1))
    occurs = (actual | given).any(axis=0)
    for name, values in scores.items():
        found[f"macro_{name}"] = _mean(values[occurs], 0.0)
        found[f"micro_{name}"] = float(pooled[name][0])
        found[f"weighted_{name}"] = float(values @ weights)
    return found


def class_scores(actual: Labels, given: Labels) -> dict[str, Floats]:
    """Precision, recall and F1 of each class, `(n_classes,)`."""
    hits, n_actual, n_given = (x.sum(axis=0) for x in (actual & given, actual, given))
    return {
        "precision": hits / np.maximum(n_given, 1),
        "recall": hits / np.maximum(n_actual, 1),
        "f1": 2 * hits / np.maximum(n_actual + n_given, 1),
    }


def ranking(actual: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve, and average precision, of each class, `(n_classes,)`.

    A class without both kinds of rows has 1/2 and its share of the rows: those of a random order.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    auc, precision = np.full(actual.shape[1], HALF), actual.mean(axis=0)
    for k in np.flatnonzero(two_sided(actual)):
        auc[k] = roc_auc_score(actual[:, k], probabilities[:, k])
        precision[k] = average_precision_score(actual[:, k], probabilities[:, k])
    return auc, precision


def two_sided(actual: Labels) -> Labels:
    """Which classes some rows have and some have not, `(n_classes,)`."""
    return np.asarray(actual.any(axis=0) & ~actual.all(axis=0))


def _largest(values: Floats) -> Labels:
    largest = np.zeros(values.shape, bool)
    np.put_along_axis(largest, values.argmax(axis=1)[:, None], True, axis=1)
    return largest


def _recall(actual: Labels, given: Labels) -> Floats:
    return class_scores(actual, given)["recall"]


def _mean(values: Floats, otherwise: float) -> float:
    return float(values.mean()) if len(values) else otherwise
