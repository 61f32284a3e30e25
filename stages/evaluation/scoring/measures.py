"""Every number that is reported of a model: its key, its label, how it is computed and shown.

This is the only list. To add a metric, add one `Measure` (and its function): `score` then writes
it, and the leaderboard, the page, the learning curve and the model card show it where `shown` says
so. Costs are measures too, which the training stages take while they run.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from stages.core.folds import DEV, TEST
from stages.core.matrices import Floats
from stages.core.predictions import OOF
from stages.evaluation.judging import clustered_mean
from stages.evaluation.scoring.metrics import (
    HALF,
    Scored,
    average_precisions,
    calibration_error,
    class_aucs,
    class_calibration_error,
    class_scores,
    two_sided,
)

Place: TypeAlias = Literal["leaderboard", "page", "plot", "learning_curve"]
Scores: TypeAlias = Mapping[str, Any]  # metrics/scores/<dataset>/<model>.json: by part of the rows

PARTS = (OOF, TEST, DEV)  # in the order in which they are shown
KNOWN_JUDGE = "known_judge"  # what is measured against true probabilities (the demo has them)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number: `value` computes it, or `by_row` gives values `(n_rows,)` whose mean it is.

    Only a mean over rows has a standard error.
    """

    key: str  # in metrics files and tables
    label: str  # for people
    about: str
    digits: int
    higher: bool | None  # whether higher is better; None: neither is
    percent: bool = False
    shown: tuple[Place, ...] = ()
    parts: tuple[str, ...] = (OOF,)  # of the rows, for which it is shown
    value: Callable[[Scored], float] | None = None
    by_row: Callable[[Scored], Floats] | None = None
    several: bool = False  # exists only where a row can have several classes
    duplicate: bool = (
        False  # where classes are exclusive it is the accuracy: the page leaves it out
    )
    inside: str | None = None  # the map that holds it in the metrics of a part

    def compute(self, rows: Scored) -> float:
        """Its value for rows of one part."""
        if self.value is not None:
            return float(self.value(rows))
        if self.by_row is None:
            raise ValueError(f"{self.key}: is not computed from predictions")
        return float(self.by_row(rows).mean())

    def text(self, value: float) -> str:
        """The value as people read it."""
        if self.percent:
            return f"{100 * value:.{self.digits}f}%".replace("-", "−")
        return f"{value:,.{self.digits}f}".replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Cost(Measure):
    """What a model takes; `total` says what a blend takes with its members."""

    higher: bool | None = False
    shown: tuple[Place, ...] = ("leaderboard", "page", "plot")
    total: Callable[[Iterable[float]], float] = sum
    to_predict: bool = False  # counts only members that have a weight; others are only trained


@dataclass(frozen=True)
class Column:
    """A measure of one part of the rows, as a column of a table."""

    measure: Measure
    part: str

    @property
    def key(self) -> str:
        """The name of the column; out-of-fold rows go without saying."""
        return self.measure.key if self.part == OOF else f"{self.part}_{self.measure.key}"

    @property
    def label(self) -> str:
        """The name for people."""
        return self.measure.label if self.part == OOF else f"{self.part} {self.measure.label}"

    @property
    def about(self) -> str:
        """What the column says."""
        where = "out of fold" if self.part == OOF else f"on the {self.part} part"
        return f"{self.measure.about}, {where}"

    def read(self, scores: Scores) -> float | None:
        """Its value in the metrics of a model; None where it has none."""
        found = scores.get(self.part, {})
        if self.measure.inside is not None:
            found = found.get(self.measure.inside, {})
        value: float | None = found.get(self.measure.key)
        return value


def measured(rows: Scored, measures: Iterable[Measure]) -> dict[str, float]:
    """The measures that the task has, by their keys."""
    return {
        measure.key: measure.compute(rows)
        for measure in measures
        if not (measure.several and rows.task.exclusive)
    }


def standard_errors(rows: Scored) -> dict[str, float]:
    """Of each measure that is a mean over rows, clustered by group; 0 of a single group."""
    return {
        measure.key: float(np.nan_to_num(clustered_mean(measure.by_row(rows), rows.group)[1]))
        for measure in QUALITY
        if measure.by_row is not None and not (measure.several and rows.task.exclusive)
    }


def columns(place: Place) -> list[Column]:
    """The measures of quality that are shown at a place, out-of-fold ones first."""
    return [
        Column(measure, part)
        for part in PARTS
        for measure in (ROWS, *QUALITY, REGRET)
        if place in measure.shown and part in measure.parts
    ]


def _row_losses(rows: Scored) -> Floats:
    return rows.task.row_losses(rows.targets, rows.probabilities)


def _brier(rows: Scored) -> Floats:
    squares = np.square(rows.targets - rows.probabilities)
    found: Floats = squares.sum(axis=1) if rows.task.exclusive else squares.mean(axis=1)
    return found


def _macro_auc(rows: Scored) -> float:
    return _mean(class_aucs(rows.actual, rows.probabilities)[two_sided(rows.actual)], HALF)


def _mean_average_precision(rows: Scored) -> float:
    precision = average_precisions(rows.actual, rows.probabilities)
    return _mean(precision[rows.actual.any(axis=0)], 0.0)


def _accuracy(rows: Scored) -> Floats:
    """Whether a row is right; of several labels the share of right decisions."""
    right = rows.actual == rows.given
    found: Floats = right.all(axis=1).astype(float) if rows.task.exclusive else right.mean(axis=1)
    return found


def _subset_accuracy(rows: Scored) -> Floats:
    found: Floats = (rows.actual == rows.given).all(axis=1).astype(float)
    return found


def _balanced_accuracy(rows: Scored) -> float:
    """Mean recall of the classes; of several labels also of not having a class."""
    actual, given = rows.actual, rows.given
    recall = class_scores(actual, given)["recall"]
    if rows.task.exclusive:
        return _mean(recall[actual.any(axis=0)], 0.0)
    both = (recall + class_scores(~actual, ~given)["recall"]) / 2
    return _mean(both[two_sided(actual)], HALF)


def _macro(what: str, rows: Scored) -> float:
    """The mean over the classes that some row has or is given."""
    occurs = (rows.actual | rows.given).any(axis=0)
    return _mean(class_scores(rows.actual, rows.given)[what][occurs], 0.0)


def _micro(what: str, rows: Scored) -> float:
    """Of all decisions together."""
    pooled = class_scores(rows.actual.reshape(-1, 1), rows.given.reshape(-1, 1))
    return float(pooled[what][0])


def _weighted(what: str, rows: Scored) -> float:
    """The mean over the classes, weighted by their rows."""
    weights = rows.actual.sum(axis=0) / max(rows.actual.sum(), 1)
    return float(class_scores(rows.actual, rows.given)[what] @ weights)


def _mean(values: Floats, otherwise: float) -> float:
    return float(values.mean()) if len(values) else otherwise


ROWS = Measure(
    key="rows", label="rows", about="judged rows", digits=0, higher=None, shown=("leaderboard",),
    value=lambda rows: len(rows.targets),
)  # fmt: skip
LOG_LOSS = Measure(
    key="log_loss", label="log loss", about="mean log loss", digits=4, higher=False,
    shown=("leaderboard", "page", "plot", "learning_curve"), parts=(OOF, DEV),
    by_row=_row_losses,
)  # fmt: skip
DECISIONS = (  # of the classes that rows are given: thresholds change them
    Measure(
        key="accuracy", label="accuracy", about="share of right decisions", digits=1, percent=True,
        higher=True, shown=("leaderboard", "page", "plot", "learning_curve"), parts=(OOF, DEV),
        by_row=_accuracy,
    ),
    Measure(
        key="balanced_accuracy", label="balanced accuracy", about="mean recall of the classes",
        digits=1, percent=True, higher=True, shown=("leaderboard", "learning_curve"),
        value=_balanced_accuracy,
    ),
    Measure(
        key="subset_accuracy", label="subset accuracy", about="share of rows all right", digits=1,
        percent=True, higher=True, shown=("leaderboard", "page", "learning_curve"), several=True,
        by_row=_subset_accuracy,
    ),
    Measure(
        key="macro_precision", label="macro precision", about="mean precision of the classes",
        digits=3, higher=True, shown=("leaderboard",), value=partial(_macro, "precision"),
    ),
    Measure(
        key="macro_recall", label="macro recall", about="mean recall of the classes", digits=3,
        higher=True, shown=("leaderboard",), value=partial(_macro, "recall"),
    ),
    Measure(
        key="macro_f1", label="macro-F1", about="mean F1 of the classes", digits=3, higher=True,
        shown=("leaderboard", "page", "plot", "learning_curve"), parts=(OOF, DEV),
        value=partial(_macro, "f1"),
    ),
    Measure(
        key="micro_precision", label="micro precision", about="precision of all decisions",
        digits=3, higher=True, value=partial(_micro, "precision"),
    ),
    Measure(
        key="micro_recall", label="micro recall", about="recall of all decisions", digits=3,
        higher=True, value=partial(_micro, "recall"),
    ),
    Measure(
        key="micro_f1", label="micro-F1", about="F1 of all decisions together", digits=3,
        higher=True, shown=("leaderboard", "page", "plot", "learning_curve"), parts=(OOF, DEV),
        duplicate=True, value=partial(_micro, "f1"),
    ),
    Measure(
        key="weighted_precision", label="weighted precision", digits=3, higher=True,
        about="mean precision of the classes, weighted by their rows",
        value=partial(_weighted, "precision"),
    ),
    Measure(
        key="weighted_recall", label="weighted recall", digits=3, higher=True,
        about="mean recall of the classes, weighted by their rows",
        value=partial(_weighted, "recall"),
    ),
    Measure(
        key="weighted_f1", label="weighted F1", digits=3, higher=True, shown=("leaderboard",),
        about="mean F1 of the classes, weighted by their rows", value=partial(_weighted, "f1"),
    ),
)  # fmt: skip
OTHERS = (
    Measure(
        key="mean_average_precision", label="mAP", about="mean average precision", digits=3,
        higher=True, shown=("leaderboard", "page", "learning_curve"), several=True,
        value=_mean_average_precision,
    ),
    Measure(
        key="brier", label="Brier", about="mean squared error of the probabilities", digits=4,
        higher=False, shown=("leaderboard", "page"), by_row=_brier,
    ),
    Measure(
        key="expected_calibration_error", label="ECE", about="expected calibration error",
        digits=4, higher=False, shown=("leaderboard", "page"),
        value=lambda rows: calibration_error(rows.task, rows.targets, rows.probabilities),
    ),
    Measure(
        key="class_calibration_error", label="class-wise ECE", digits=4, higher=False,
        about="expected calibration error, mean over the classes",
        value=lambda rows: class_calibration_error(rows.targets, rows.probabilities),
    ),
    Measure(
        key="macro_auc", label="AUC", about="mean area under the ROC curve", digits=3, higher=True,
        shown=("leaderboard", "page", "learning_curve"), value=_macro_auc,
    ),
)  # fmt: skip
QUALITY = (LOG_LOSS, *DECISIONS, *OTHERS)  # in the order of the columns
# Computed by `score`, from the true probabilities.
REGRET = Measure(
    key="regret", label="regret", about="log loss beyond the best possible", digits=4,
    higher=False, shown=("page",), parts=(OOF, TEST), inside=KNOWN_JUDGE,
)  # fmt: skip
COSTS = (
    Cost(
        key="wall_seconds", label="wall s", digits=1,
        about="seconds to train and predict, all folds",
    ),
    Cost(
        key="cpu_seconds", label="CPU s", digits=1,
        about="CPU seconds to train and predict, all folds",
    ),
    Cost(
        key="peak_memory_mb", label="memory MB", about="peak memory of training, MB", digits=0,
        total=max,
    ),
    Cost(
        key="fitted_size_mb", label="size MB", about="size of the fitted models, MB", digits=2,
        to_predict=True,
    ),
    Cost(
        key="predict_ms_per_row", label="ms per row", about="milliseconds to predict a row",
        digits=3, to_predict=True,
    ),
)  # fmt: skip
MEASURES: Mapping[str, Measure] = {
    measure.key: measure for measure in (ROWS, *QUALITY, REGRET, *COSTS)
}
