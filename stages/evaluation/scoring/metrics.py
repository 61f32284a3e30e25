"""What measures are computed from: classes given by thresholds, calibration, scores by class.

All functions work on `(n_rows, n_classes)`. Where classes are exclusive, a row is given its most
probable class; else each class whose probability reaches a threshold. Rare classes never make a
metric NaN: precision, recall and F1 of a class that is never predicted, or never right, are 0, and
one that no row has or is given is left out of their means (as a tie where nobody calls one);
metrics that compare rows of a class with the others leave out classes without both.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.matrices import Floats
from stages.core.tasks import BOUND, Task

Labels: TypeAlias = npt.NDArray[np.bool_]  # which classes each row has

BINS = 15  # as in Guo et al. (2017)
DRAWS = 40  # of labels, to know the noise of a calibration error
HALF = 0.5  # the threshold that needs no choosing


@dataclass(frozen=True)
class Scored:
    """Rows of one part: targets, probabilities, groups, the classes that they have and are given.

    All are `(n_rows, n_classes)` but `group`, `(n_rows,)`.
    """

    task: Task
    targets: Floats
    probabilities: Floats
    group: npt.NDArray[Any]
    actual: Labels
    given: Labels


def scored(
    task: Task,
    targets: Floats,
    probabilities: Floats,
    group: npt.NDArray[Any],
    thresholds: Floats | float,
) -> Scored:
    """Decide with `thresholds`: one for all, one per class, or one per row and class."""
    given = decide(task, probabilities, thresholds)
    return Scored(task, targets, probabilities, group, task.has_classes(targets), given)


def decide(task: Task, probabilities: Floats, thresholds: Floats | float) -> Labels:
    """The classes that a row is given; `thresholds` as in `scored`, unless they are exclusive."""
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


def class_scores(actual: Labels, given: Labels) -> dict[str, Floats]:
    """Precision, recall and F1 of each class, `(n_classes,)`."""
    hits, n_actual, n_given = (x.sum(axis=0) for x in (actual & given, actual, given))
    return {
        "precision": hits / np.maximum(n_given, 1),
        "recall": hits / np.maximum(n_actual, 1),
        "f1": 2 * hits / np.maximum(n_actual + n_given, 1),
    }


def class_aucs(actual: Labels, probabilities: Floats) -> Floats:
    """Area under the ROC curve of each class, `(n_classes,)`; 1/2 without both kinds of rows."""
    from sklearn.metrics import roc_auc_score

    found = np.full(actual.shape[1], HALF)
    for k in np.flatnonzero(two_sided(actual)):
        found[k] = roc_auc_score(actual[:, k], probabilities[:, k])
    return found


def average_precisions(actual: Labels, probabilities: Floats) -> Floats:
    """Average precision of each class, `(n_classes,)`; its share without both kinds of rows."""
    from sklearn.metrics import average_precision_score

    found: Floats = actual.mean(axis=0)
    for k in np.flatnonzero(two_sided(actual)):
        found[k] = average_precision_score(actual[:, k], probabilities[:, k])
    return found


def two_sided(actual: Labels) -> Labels:
    """Which classes some rows have and some have not, `(n_classes,)`."""
    return np.asarray(actual.any(axis=0) & ~actual.all(axis=0))


def _largest(values: Floats) -> Labels:
    largest = np.zeros(values.shape, bool)
    np.put_along_axis(largest, values.argmax(axis=1)[:, None], True, axis=1)
    return largest
