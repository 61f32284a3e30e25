"""Every number that is reported of a model: its key, its label, how it is computed and shown.

This is the only list. To add a metric, add one `Measure` (and its function): `score` then writes
it, and the leaderboard, the page, the learning curve and the model card show it where `shown` says
so. Costs are measures too, which the training stages take while they run.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
BOARD: tuple[Place, ...] = ("leaderboard",)
TABLES: tuple[Place, ...] = ("leaderboard", "page", "learning_curve")
EVERYWHERE: tuple[Place, ...] = (*TABLES, "plot")
BOTH = (OOF, DEV)


@dataclass(frozen=True)
class Measure:
    """A number: `value` computes it, or `by_row` gives values `(n_rows,)` whose mean it is.

    Only a mean over rows has a standard error.
    """

    key: str  # in metrics files and tables
    label: str  # for people
    about: str
    form: str  # of the number, as Python formats it
    higher: bool | None  # whether higher is better; None: neither is
    shown: tuple[Place, ...] = ()
    parts: tuple[str, ...] = (OOF,)  # of the rows, for which it is shown
    value: Callable[[Scored], float] | None = None
    by_row: Callable[[Scored], Floats] | None = None
    several: bool = False  # exists only where a row can have several classes
    duplicate: bool = False  # the accuracy, where classes are exclusive: the page leaves it out
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
        return format(value, self.form).replace("-", "−")


@dataclass(frozen=True)
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


def _averages(
    kind: str,
    about: str,
    average: Callable[[str, Scored], float],
    shown_f1: tuple[Place, ...],
    shown_others: tuple[Place, ...],
    *,
    duplicate: bool = False,
) -> Iterator[Measure]:
    """Precision, recall and F1, averaged in one way."""
    for what in ("precision", "recall", "f1"):
        is_f1 = what == "f1"
        yield Measure(
            f"{kind}_{what}", f"{kind}-F1" if is_f1 else f"{kind} {what}",
            about.format("F1" if is_f1 else what), ".3f", True,
            shown_f1 if is_f1 else shown_others,
            BOTH if is_f1 and kind != "weighted" else (OOF,),
            value=partial(average, what), duplicate=duplicate and is_f1,
        )  # fmt: skip


ROWS = Measure(
    "rows", "rows", "judged rows", ",.0f", None, BOARD, value=lambda rows: len(rows.targets)
)
LOG_LOSS = Measure(
    "log_loss", "log loss", "mean log loss", ".4f", False, EVERYWHERE, BOTH, by_row=_row_losses
)
DECISIONS = (  # of the classes that rows are given: thresholds change them
    Measure(
        "accuracy", "accuracy", "share of right decisions", ".1%", True, EVERYWHERE, BOTH,
        by_row=_accuracy,
    ),
    Measure(
        "balanced_accuracy", "balanced accuracy", "mean recall of the classes", ".1%", True,
        ("leaderboard", "learning_curve"), value=_balanced_accuracy,
    ),
    Measure(
        "subset_accuracy", "subset accuracy", "share of rows all right", ".1%", True, TABLES,
        by_row=_subset_accuracy, several=True,
    ),
    *_averages("macro", "mean {} of the classes", _macro, EVERYWHERE, BOARD),
    *_averages("micro", "{} of all decisions together", _micro, EVERYWHERE, (), duplicate=True),
    *_averages("weighted", "mean {} of the classes, weighted by their rows", _weighted, BOARD, ()),
)  # fmt: skip
OTHERS = (
    Measure(
        "mean_average_precision", "mAP", "mean average precision", ".3f", True, TABLES,
        value=_mean_average_precision, several=True,
    ),
    Measure(
        "brier", "Brier", "mean squared error of the probabilities", ".4f", False,
        ("leaderboard", "page"), by_row=_brier,
    ),
    Measure(
        "expected_calibration_error", "ECE", "expected calibration error", ".4f", False,
        ("leaderboard", "page"),
        value=lambda rows: calibration_error(rows.task, rows.targets, rows.probabilities),
    ),
    Measure(
        "class_calibration_error", "class-wise ECE",
        "expected calibration error, mean over the classes", ".4f", False,
        value=lambda rows: class_calibration_error(rows.targets, rows.probabilities),
    ),
    Measure(
        "macro_auc", "AUC", "mean area under the ROC curve", ".3f", True, TABLES, value=_macro_auc
    ),
)  # fmt: skip
QUALITY = (LOG_LOSS, *DECISIONS, *OTHERS)  # in the order of the columns
REGRET = Measure(  # computed by `score`, from the true probabilities
    "regret", "regret", "log loss beyond the best possible", ".4f", False, ("page",), (OOF, TEST),
    inside=KNOWN_JUDGE,
)  # fmt: skip
COSTS = (
    Cost("wall_seconds", "wall s", "seconds to train and predict, all folds", ",.1f"),
    Cost("cpu_seconds", "CPU s", "CPU seconds to train and predict, all folds", ",.1f"),
    Cost("peak_memory_mb", "memory MB", "peak memory of training, MB", ",.0f", total=max),
    Cost("fitted_size_mb", "size MB", "size of the fitted models, MB", ",.2f", to_predict=True),
    Cost(
        "predict_ms_per_row", "ms per row", "milliseconds to predict a row", ",.3f",
        to_predict=True,
    ),
)  # fmt: skip
MEASURES: Mapping[str, Measure] = {
    measure.key: measure for measure in (ROWS, *QUALITY, REGRET, *COSTS)
}
