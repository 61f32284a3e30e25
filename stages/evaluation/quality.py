"""The report's leaderboard: quality, cost, and which models are worth their cost."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.predictions import weights_of
from stages.evaluation.judged import Judged, differences
from stages.evaluation.judging import mean_and_error

Numbers = Mapping[str, float]

BEST_SHOWN = 1e-3  # the cheapest that a logarithmic axis shows


@dataclass(frozen=True)
class Measure:
    """A number of the leaderboard: its key, its name for people, digits, and what is better."""

    key: str
    name: str
    digits: int
    higher: bool | None = None
    percent: bool = False
    about: str = ""


QUALITY = (  # those that a task has are shown
    Measure("accuracy", "accuracy", 1, True, True, "share of right decisions"),
    Measure("subset_accuracy", "subset accuracy", 1, True, True, "share of rows all right"),
    Measure("macro_f1", "macro-F1", 3, True, about="mean F1 of the classes"),
    Measure("micro_f1", "micro-F1", 3, True, about="F1 of all decisions together"),
    Measure("mean_average_precision", "mAP", 3, True, about="mean average precision"),
    Measure("macro_auc", "AUC", 3, True, about="mean area under the ROC curve"),
    Measure("brier", "Brier", 4, False, about="mean squared error of the probabilities"),
    Measure("expected_calibration_error", "ECE", 4, False, about="expected calibration error"),
    Measure("regret", "regret", 4, False, about="log loss beyond the best possible, out of fold"),
    Measure("test_regret", "test regret", 4, False, about="the same on the test part"),
    Measure("dev_log_loss", "dev log loss", 4, False, about="on the dev part"),
    Measure("dev_accuracy", "dev accuracy", 1, True, True, "on the dev part"),
    Measure("dev_macro_f1", "dev macro-F1", 3, True, about="on the dev part"),
)
COST = (
    Measure("cpu_seconds", "CPU s", 1, False, about="CPU seconds to train and predict, all folds"),
    Measure("wall_seconds", "wall s", 1, False, about="seconds to train and predict, all folds"),
    Measure("predict_ms_per_row", "ms a row", 3, False, about="milliseconds to predict a row"),
    Measure("peak_memory_mb", "memory MB", 0, False, about="peak memory of training, MB"),
    Measure("fitted_size_mb", "size MB", 2, False, about="size of the fitted models, MB"),
)
LOSS = Measure("log_loss", "log loss", 4, False)
PLOTTED = ("log_loss", "accuracy", "macro_f1", "micro_f1")
REDUNDANT = ("micro_f1",)  # where classes are exclusive it is the accuracy
USED_TO_PREDICT = ("predict_ms_per_row", "fitted_size_mb")


def quality_of(scores: Mapping[str, Numbers], *, exclusive: bool) -> list[Measure]:
    """The measures that all models have."""
    return [
        measure
        for measure in QUALITY
        if all(measure.key in found for found in scores.values())
        and not (exclusive and measure.key in REDUNDANT)
    ]


def plotted(scores: Mapping[str, Numbers], *, exclusive: bool) -> list[Measure]:
    """The measures that can be set against cost."""
    known = (LOSS, *quality_of(scores, exclusive=exclusive))
    return [measure for measure in known if measure.key in PLOTTED]


def total_cost(
    cost: Mapping[str, Numbers], weights: Numbers, final: str
) -> dict[str, dict[str, float]]:
    """What each model costs in all: the blend `final` with its members.

    All members must be trained to learn the weights; only those with a weight are needed to
    predict.
    """
    total = {model: dict(spent) for model, spent in cost.items()}
    members = {name: each for name, each in weights_of(weights).items() if name in cost}
    weighed = [name for name, each in members.items() if each > 0]
    for measure in COST:
        needed = weighed if measure.key in USED_TO_PREDICT else members
        values = [cost[final][measure.key], *(cost[name][measure.key] for name in needed)]
        join = max if measure.key == "peak_memory_mb" else sum
        total[final][measure.key] = join(values)
    return total


def front(cost: npt.NDArray[np.floating], loss: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which points no other point beats: none is as cheap and as good, and better in one.

    Args:
        cost: `(n,)`, lower is better.
        loss: `(n,)`, lower is better.
    """
    beaten = [
        bool((((cost <= c) & (loss <= q)) & ((cost < c) | (loss < q))).any())
        for c, q in zip(cost, loss, strict=True)
    ]
    return ~np.array(beaten, bool)


def worth(
    scores: Mapping[str, Numbers], cost: Mapping[str, Numbers], *, exclusive: bool
) -> pd.DataFrame:
    """A row for each measure of quality, measure of cost, and model: both values, and the front.

    Models that were judged on fewer rows than others are no part of a front. `low` and `high` are
    one standard error apart from the quality where that is known.
    """
    full = max(found["rows"] for found in scores.values())
    names = list(scores)
    whole = np.array([scores[name]["rows"] == full for name in names])
    tables = []
    for measure in plotted(scores, exclusive=exclusive):
        value = np.array([scores[name][measure.key] for name in names])
        error = np.array([_error(scores[name], measure, exclusive) for name in names])
        for price in COST:
            spent = np.array([max(cost[name][price.key], BEST_SHOWN) for name in names])
            on_front = np.zeros(len(names), bool)
            on_front[whole] = front(spent[whole], (-value if measure.higher else value)[whole])
            tables.append(
                pd.DataFrame(
                    {
                        "model": names, "quality": measure.key, "cost": price.key, "spent": spent,
                        "value": value, "low": value - error, "high": value + error,
                        "front": on_front, "rows": [int(scores[name]["rows"]) for name in names],
                        "whole": whole,
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _error(found: Numbers, measure: Measure, exclusive: bool) -> float:
    """Standard error of a measure; 0 where it is not known."""
    if measure.key == "log_loss":
        return found["log_loss_standard_error"]
    if measure.key == "accuracy" and exclusive:
        return found["accuracy_standard_error"]
    return 0.0


@dataclass(frozen=True)
class Standing:
    """A model on the leaderboard, with its mean difference to the best on the rows of both."""

    model: str
    scores: Numbers
    cost: Numbers
    difference: float
    error: float

    @property
    def undecided(self) -> bool:
        """Whether the difference to the best may be chance: within two standard errors."""
        return abs(self.difference) <= 2 * self.error


def standings(
    judged: Judged, scores: Mapping[str, Numbers], cost: Mapping[str, Numbers]
) -> list[Standing]:
    """The models, best log loss first; those judged on all rows before the others."""
    full = max(found["rows"] for found in scores.values())
    order = sorted(
        scores, key=lambda name: (scores[name]["rows"] < full, scores[name]["log_loss"], name)
    )
    apart = differences(judged, order[0])
    return [Standing(name, scores[name], cost[name], *apart[name]) for name in order]


def gain(judged: Judged, model: str) -> tuple[float, float]:
    """How much better a model's log loss is than that of the class shares, and its error."""
    return mean_and_error(judged.base_losses() - judged.losses()[model], judged.group)


def base_loss(judged: Judged, model: str) -> float:
    """Mean log loss of the class shares, on the rows that the model predicted."""
    return float(judged.base_losses()[~np.isnan(judged.losses()[model])].mean())
