"""A cascade: a cheap model answers the rows that it is sure of, the ensemble the rest.

In: out-of-fold predictions of the cheap model and the ensemble, and folds. Out: how good the
cascade is at its threshold, and a curve of log loss against the share of rows that the cheap model
answers. It answers a row where its confidence (the largest probability; where classes do not
exclude each other the mean over classes of the larger of yes and no) reaches the threshold. The
threshold is given, or it is the lowest at which the log loss is at most `most_lost` above the
ensemble's. In that case it is judged nested: each fold's threshold is chosen on the other folds,
and `predict --cascade` uses the one that was chosen on all rows.

The stage knows no times, so the same predictions give the same outputs on every machine. The page
computes milliseconds from the shares.

    python -m stages.evaluation.cascade --dataset demo
"""

import logging
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from stages.core.build import built_models
from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Floats
from stages.core.params import Params, read_params
from stages.core.tables import write_json, write_table
from stages.core.tasks import Task, read_task
from stages.evaluation.judging import clustered_mean, judging_folds
from stages.evaluation.scoring.oof import read_oof
from stages.runtime.cli import run

log = logging.getLogger("verdict")

NEVER = 2.0  # a threshold that no confidence reaches
POINTS = 21  # of the curve: shares of the rows from none to all
COLUMNS = ["cheap", "threshold", "cheap_share", "log_loss"]


class CascadeParams(Params):
    """Section `cascade`: the cheap model, and its threshold or what may be lost by it.

    `most_lost` is a log loss; it is used where `threshold` is null.
    """

    section = "cascade"

    cheap: str = "logreg"
    threshold: Annotated[float, Field(ge=0)] | None = None
    most_lost: Annotated[float, Field(ge=0)] = 0.002


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
    thresholds above: a single row that the ensemble gets very wrong must not outweigh many. `sure`
    is the confidence of the cheap model, `cheap` and `dear` are both losses, all `(n_rows,)`.
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


def curve(name: str, sure: Floats, cheap: Floats, dear: Floats) -> pd.DataFrame:
    """Log loss at thresholds that give the cheap model ever more of the rows."""
    thresholds = [NEVER, *np.quantile(sure, np.linspace(1, 0, POINTS)[1:], method="lower")]
    lines = []
    for threshold in dict.fromkeys(thresholds):
        answered = sure >= threshold
        loss = float(np.where(answered, cheap, dear).mean())
        lines.append((name, float(threshold), float(answered.mean()), loss))
    return pd.DataFrame(lines, columns=COLUMNS)


def main(*, dataset: str) -> None:
    """Measure the cascade of one dataset."""
    layout = Layout(dataset)
    params = read_params(CascadeParams, layout)
    built = built_models(layout)
    if params.cheap not in built:
        raise InputError(
            f"{layout.params}: cascade.cheap: got {params.cheap!r}; expected a model to ask before "
            f"the ensemble, one of {built}"
        )
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    judged = read_oof(task, folds, layout, [params.cheap, ENSEMBLE])
    losses = judged.losses()
    unknown = np.full(len(judged.ids), np.nan)
    both = [losses.get(name, unknown) for name in (params.cheap, ENSEMBLE)]
    rows = ~np.isnan(both).any(axis=0)
    if not rows.any():  # a backbone that is not tuned on this dataset
        log.warning("cascade: %s predicted no row out of fold, so none is measured", params.cheap)
        write_json({"rows": 0}, layout.cascade)
        write_table(pd.DataFrame(columns=COLUMNS), layout.cascade_curve)
        return
    place = np.zeros(len(folds.ids), bool)
    place[folds.judged[rows]] = True
    fold = judging_folds(folds, place).fold[place]
    cheap, dear = (values[rows] for values in both)
    sure = confidence(task, judged.probabilities[params.cheap][rows])
    answered = sure >= nested_thresholds(sure, cheap, dear, fold, params)
    own = np.where(answered, cheap, dear)
    lost, error = np.nan_to_num(clustered_mean(own - dear, judged.group[rows])).tolist()
    threshold = params.threshold
    if threshold is None:
        threshold = choose_threshold(sure, cheap, dear, params.most_lost)
    loss = {
        "cascade": float(own.mean()), "cheap": float(cheap.mean()), "ensemble": float(dear.mean())
    }  # fmt: skip
    found = {
        "rows": float(rows.sum()),
        "threshold": threshold,
        "chosen": float(params.threshold is None),
        "cheap_share": float(answered.mean()),
        "log_loss": loss,
        "lost": {"mean": lost, "standard_error": error},
    }
    write_json(found, layout.cascade)
    write_table(curve(params.cheap, sure, cheap, dear), layout.cascade_curve)
    log.info(
        "cascade: %s answers %.0f%% of the rows, log loss %.4f (ensemble %.4f)",
        params.cheap, 100 * answered.mean(), loss["cascade"], loss["ensemble"],
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
