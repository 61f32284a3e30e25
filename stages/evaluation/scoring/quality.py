"""Models side by side: quality, cost, and which models are worth their cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.predictions import OOF
from stages.evaluation.judging import clustered_mean
from stages.evaluation.scoring.measures import (
    COSTS,
    LOG_LOSS,
    ROWS,
    Column,
    Place,
    Scores,
    columns,
)
from stages.evaluation.scoring.oof import OofPredictions, differences

Numbers = Mapping[str, float]

CHEAPEST = 1e-3  # that a logarithmic axis shows


def known_columns(place: Place, scores: Mapping[str, Scores], *, exclusive: bool) -> list[Column]:
    """The columns of a place that all models have a value for."""
    return [
        column
        for column in columns(place)
        if not (exclusive and column.measure.duplicate)
        and all(column.read(found) is not None for found in scores.values())
    ]


def plotted(scores: Mapping[str, Scores], *, exclusive: bool) -> list[Column]:
    """The columns that are plotted against cost."""
    return [
        column
        for column in known_columns("plot", scores, exclusive=exclusive)
        if column.part == OOF
    ]


def log_loss(scores: Scores) -> float:
    """Log loss of the out-of-fold rows."""
    loss: float = scores[OOF][LOG_LOSS.key]
    return loss


def total_cost(
    cost: Mapping[str, Numbers], weights: Mapping[str, Any], final: str
) -> dict[str, dict[str, float]]:
    """What each model costs in all: the blend `final` with its members.

    All members must be trained to learn `weights`, which the stage `ensemble` wrote; only those
    with a weight are needed to predict.
    """
    total = {model: dict(spent) for model, spent in cost.items()}
    members = {name: weight for name, weight in weights["weight"].items() if name in cost}
    weighed = [name for name, weight in members.items() if weight > 0]
    for measure in COSTS:
        needed = weighed if measure.to_predict else members
        values = [cost[final][measure.key], *(cost[name][measure.key] for name in needed)]
        total[final][measure.key] = measure.total(values)
    return total


def front(cost: npt.NDArray[np.floating], loss: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which points `(n,)` no other point beats: as cheap and as good, and better in one."""
    beaten = [
        bool((((cost <= c) & (loss <= q)) & ((cost < c) | (loss < q))).any())
        for c, q in zip(cost, loss, strict=True)
    ]
    return ~np.array(beaten, bool)


def worth(
    scores: Mapping[str, Scores], cost: Mapping[str, Numbers], *, exclusive: bool
) -> pd.DataFrame:
    """A row for each measure of quality, measure of cost, and model: both values, and the front.

    Models that were judged on fewer rows than others are no part of a front. `low` and `high` are
    one standard error apart from the quality where that is known.
    """
    names = list(scores)
    rows = np.array([scores[name][OOF][ROWS.key] for name in names])
    whole = rows == rows.max()
    tables = []
    for column in plotted(scores, exclusive=exclusive):
        value = np.array([column.read(scores[name]) for name in names], float)
        error = np.array([scores[name][OOF]["standard_error"].get(column.key, 0) for name in names])
        for price in COSTS:
            spent = np.array([max(cost[name][price.key], CHEAPEST) for name in names])
            loss = -value if column.measure.higher else value
            on_front = np.zeros(len(names), bool)
            on_front[whole] = front(spent[whole], loss[whole])
            tables.append(
                pd.DataFrame(
                    {
                        "model": names, "quality": column.key, "cost": price.key, "spent": spent,
                        "value": value, "low": value - error, "high": value + error,
                        "front": on_front, "rows": rows.astype(int), "whole": whole,
                    }
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Standing:
    """A model on the leaderboard, with its mean difference to the best on the rows of both."""

    model: str
    scores: Scores
    cost: Numbers
    difference: float
    error: float

    @property
    def undecided(self) -> bool:
        """Whether the difference to the best may be chance: within two standard errors."""
        return abs(self.difference) <= 2 * self.error


def standings(
    judged: OofPredictions, scores: Mapping[str, Scores], cost: Mapping[str, Numbers]
) -> list[Standing]:
    """The models, best log loss first; those judged on all rows before the others."""
    rows = {name: found[OOF][ROWS.key] for name, found in scores.items()}
    full = max(rows.values())
    order = sorted(scores, key=lambda name: (rows[name] < full, log_loss(scores[name]), name))
    apart = differences(judged, order[0])
    return [Standing(name, scores[name], cost[name], *apart[name]) for name in order]


def gain(judged: OofPredictions, model: str) -> tuple[float, float]:
    """How much better a model's log loss is than that of the class shares, and its error."""
    return clustered_mean(judged.base_losses() - judged.losses()[model], judged.group)


def base_loss(judged: OofPredictions, model: str) -> float:
    """Mean log loss of the class shares, on the rows that the model predicted."""
    return float(judged.base_losses()[~np.isnan(judged.losses()[model])].mean())
