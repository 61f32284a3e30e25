r"""A cascade: a cheap model answers the rows that it is sure of, the ensemble the rest.

In: out-of-fold predictions of the cheap model and the ensemble, their cost, and folds. Out: a curve
of log loss against cost over the thresholds, and flat metrics. A row is the cheap model's where its
confidence (the largest probability; where classes do not exclude each other the mean over classes
of the larger of yes and no) reaches the threshold. The threshold is given, or it is the lowest at
which the log loss is at most `most_lost` above the ensemble's; then it is judged nested: that of a
fold's rows is chosen on the other folds. `stages.serving.predict --cascade` uses the one of all rows.

Milliseconds are those of `metrics/cost`: all folds' models, features at hand. What the cheap model
found is not computed again for an ensemble that it is a member of. The choice knows no time, so the
threshold is the same on every machine.

    python -m stages.evaluation.cascade --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --predictions data/demo/predictions \
        --ensemble ensemble --weights metrics/weights/demo.json --cost metrics/cost/demo \
        --metrics metrics/cascade/demo.json --curve-out metrics/cascade_curves/demo.csv
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.params import Params, read_params
from stages.core.predictions import check_models, weights_of
from stages.core.tables import read_json, write_json, write_table
from stages.core.tasks import Floats, Task, read_task
from stages.evaluation.judged import read_judged
from stages.evaluation.judging import judging_folds, mean_and_error
from stages.evaluation.quality import total_cost
from stages.runtime.cli import run

log = logging.getLogger("verdict")

NEVER = 2.0  # a threshold that no confidence reaches
POINTS = 21  # of the curve: shares of the rows from none to all
COLUMNS = ["cheap", "threshold", "cheap_share", "log_loss", "predict_ms_per_row"]
PRICE = "predict_ms_per_row"


class CascadeParams(Params):
    """Section `cascade`: the cheap model, and its threshold or what may be lost by it.

    `most_lost` is a log loss; it is used where `threshold` is null.
    """

    cheap: str
    threshold: Annotated[float, Field(ge=0)] | None
    most_lost: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Prices:
    """Milliseconds a row: of the cheap model, of the ensemble alone, of the ensemble after it."""

    cheap: float
    dear: float
    rest: float

    def of(self, cheap_share: float) -> float:
        """The mean over rows; where the cheap model answers none, it is not asked."""
        return self.cheap + (1 - cheap_share) * self.rest if cheap_share else self.dear


def confidence(task: Task, probabilities: Floats) -> Floats:
    """How sure a model is of each row, `(n_rows,)`."""
    if task.exclusive:
        largest: Floats = probabilities.max(axis=1)
        return largest
    sure: Floats = np.maximum(probabilities, 1 - probabilities).mean(axis=1)
    return sure


def choose_threshold(sure: Floats, cheap: Floats, dear: Floats, most_lost: float) -> float:
    """The lowest threshold that surely loses at most `most_lost` against the ensemble.

    What is lost on these rows and one standard error of it stay within that there, and at all
    thresholds above: a single row that the ensemble gets very wrong must not outweigh many.

    Args:
        sure: Confidence of the cheap model, `(n_rows,)`.
        cheap: Losses of the cheap model.
        dear: Losses of the ensemble.
        most_lost: Mean over all rows.
    """
    order = np.argsort(-sure, kind="stable")
    reached, difference = sure[order], (cheap - dear)[order]
    n = len(sure)
    lost = difference.cumsum() / n
    error = np.sqrt(np.maximum(np.square(difference).cumsum() / n - lost**2, 0) / n)
    last = np.append(reached[:-1] > reached[1:], True)  # rows of equal confidence go together
    allowed = np.logical_and.accumulate((lost + error <= most_lost)[last])
    return float(reached[last][allowed][-1]) if allowed.any() else NEVER


def nested_thresholds(
    sure: Floats, cheap: Floats, dear: Floats, fold: npt.NDArray[np.integer], params: CascadeParams
) -> Floats:
    """The threshold of each row, `(n_rows,)`: that of the params, or chosen on the other folds."""
    if params.threshold is not None:
        return np.full(len(sure), params.threshold)
    found = np.empty(len(sure))
    for number in np.unique(fold):
        other = fold != number
        found[~other] = choose_threshold(sure[other], cheap[other], dear[other], params.most_lost)
    return found


def curve(name: str, sure: Floats, cheap: Floats, dear: Floats, prices: Prices) -> pd.DataFrame:
    """Log loss and cost at thresholds that give the cheap model ever more of the rows."""
    thresholds = [NEVER, *np.quantile(sure, np.linspace(1, 0, POINTS)[1:], method="lower")]
    lines = []
    for threshold in dict.fromkeys(thresholds):
        answered = sure >= threshold
        share = float(answered.mean())
        loss = float(np.where(answered, cheap, dear).mean())
        lines.append((name, float(threshold), share, loss, prices.of(share)))
    return pd.DataFrame(lines, columns=COLUMNS)


def prices_of(
    cheap: str, ensemble: str, cost: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]
) -> Prices:
    """What the parts of the cascade cost; the ensemble with the members that have a weight."""
    total = total_cost({name: dict(spent) for name, spent in cost.items()}, weights, ensemble)
    own, dear = cost[cheap][PRICE], total[ensemble][PRICE]
    is_member = weights_of(weights).get(cheap, 0) > 0
    return Prices(own, dear, dear - own if is_member else dear)


def main(
    *,
    dataset: str,
    labels: Path,
    folds: Path,
    predictions: Path,
    ensemble: str,
    weights: Path,
    cost: Path,
    metrics: Path,
    curve_out: Path,
) -> None:
    """Measure the cascade of one dataset."""
    params = read_params(CascadeParams, dataset, "cascade")
    param = f"params/{dataset}.yaml: cascade.cheap"
    if params.cheap == ensemble:
        raise InputError(f"{param}: got {ensemble!r}; expected a model to ask before it")
    check_models([params.cheap], predictions, param)
    task = read_task(labels)
    stored = read_folds(folds, task)
    judged = read_judged(task, stored, predictions, [params.cheap, ensemble])
    losses = judged.losses()
    unknown = np.full(len(judged.ids), np.nan)
    both = [losses.get(name, unknown) for name in (params.cheap, ensemble)]
    rows = ~np.isnan(both).any(axis=0)
    if not rows.any():  # a backbone that is not tuned on this dataset
        log.warning("cascade: %s predicted no row out of fold, so none is measured", params.cheap)
        write_json({"rows": 0}, metrics)
        write_table(pd.DataFrame(columns=COLUMNS), curve_out)
        return
    blend = read_json(weights)
    members = dict.fromkeys([*weights_of(blend), params.cheap, ensemble])
    prices = prices_of(
        params.cheap, ensemble, {name: read_json(cost / f"{name}.json") for name in members}, blend
    )
    place = np.zeros(len(stored.ids), bool)
    place[stored.judged[rows]] = True
    fold = judging_folds(stored, place).fold[place]
    cheap, dear = (values[rows] for values in both)
    sure = confidence(task, judged.probabilities[params.cheap][rows])
    answered = sure >= nested_thresholds(sure, cheap, dear, fold, params)
    own = np.where(answered, cheap, dear)
    lost, error = np.nan_to_num(mean_and_error(own - dear, judged.group[rows])).tolist()
    threshold = params.threshold
    if threshold is None:
        threshold = choose_threshold(sure, cheap, dear, params.most_lost)
    share = float(answered.mean())
    found = {
        "rows": float(rows.sum()),
        "threshold": threshold,
        "chosen": float(params.threshold is None),
        "cheap_share": share,
        "log_loss": float(own.mean()),
        "log_loss_lost": lost,
        "log_loss_lost_standard_error": error,
        "cheap_log_loss": float(cheap.mean()),
        "ensemble_log_loss": float(dear.mean()),
        PRICE: prices.of(share),
        f"cheap_{PRICE}": prices.cheap,
        f"ensemble_{PRICE}": prices.dear,
    }
    write_json(found, metrics)
    write_table(curve(params.cheap, sure, cheap, dear, prices), curve_out)
    log.info(
        "cascade: %s answers %.0f%% of the rows, log loss %.4f (ensemble %.4f), %.3g of %.3g ms",
        params.cheap, 100 * share, found["log_loss"], found["ensemble_log_loss"],
        found[PRICE], prices.dear,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
