"""How little labelled data is enough: a model on nested fractions of the train folds.

In: folds and feature sets. Out: one table for a plot, a row for each fraction, with the measures of
all out-of-fold rows. The rows of a smaller fraction are among those of each larger one (nested),
and each class keeps its share but at least one row (stratified; a row of several labels counts as
one of its rarest). Seeds draw the rows, and what a model draws: figures are means over them, and
`log_loss_seed_deviation` says how far the log loss strays; on all rows (fraction 1) that is the
model's own chance. Folds and params are those of the model's own stage, without its search.
Vocabulary and vectors need no labels: they are those of the whole train part.

    python -m stages.evaluation.learning_curve --dataset demo --model svm
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, Field
from tqdm import tqdm

from stages.core.folds import Folds, Indices, read_folds
from stages.core.layout import Layout
from stages.core.params import Params, each_once, read_params
from stages.core.tables import write_table
from stages.core.tasks import Task, read_task
from stages.evaluation.scoring.measures import LOG_LOSS, columns, measured, standard_errors
from stages.evaluation.scoring.metrics import nested_thresholds, scored
from stages.models.fitting.crossfit import CrossFit, crossfit
from stages.models.fitting.design import FeatureSets
from stages.models.fitting.model import Model, load_model
from stages.models.fitting.sample import rarest
from stages.models.fitting.search import ModelParams
from stages.models.fitting.seeds import with_params
from stages.models.fitting.train import read_sets
from stages.runtime.cli import run

log = logging.getLogger("verdict")

M = TypeVar("M", bound=ModelParams)

MEASURES = [column.measure for column in columns("learning_curve")]  # those that the task has
ERROR, SEEDS, DEVIATION = "log_loss_standard_error", "seeds", "log_loss_seed_deviation"


class LearningCurveParams(Params):
    """Section `learning_curve`: which shares of each fold's training rows to fit on."""

    section = "learning_curve"

    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(min_length=1),
        AfterValidator(each_once),
    ] = (0.01, 0.03, 0.1, 0.3, 1.0)
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(each_once)
    ] = (0,)


@dataclass(frozen=True)
class FewerRows(Folds):
    """Folds whose models see only some of their training rows."""

    chosen: Mapping[int, Indices]

    def train(self, fold: int | None) -> Indices:
        """The chosen rows of a fold's model; None: the whole train part."""
        return super().train(None) if fold is None else self.chosen[fold]


def fewer_rows(folds: Folds, stratum: npt.NDArray[np.intp], fraction: float, seed: int) -> Folds:
    """For each fold the first rows, in one random order, of each stratum of its training rows."""
    order = np.random.default_rng(seed).permutation(len(folds.ids))
    chosen = {}
    for fold in folds.numbers:
        rows = order[np.isin(order, folds.train(fold))]
        own = stratum[rows]
        kept = np.ceil((fraction * np.bincount(own)).round(6))  # of each stratum; 0.1 * 30 is 3
        place = pd.Series(own).groupby(own).cumcount().to_numpy()
        chosen[fold] = np.sort(rows[place < kept[own]])
    return FewerRows(folds.ids, folds.part, folds.fold, folds.group, folds.targets, chosen)


def judge(task: Task, folds: Folds, fitted: CrossFit) -> dict[str, float]:
    """Measures of the out-of-fold rows, labels given as in `score`."""
    actual = task.has_classes(folds.targets)
    thresholds = nested_thresholds(actual, fitted.probabilities, folds.fold)
    rows = scored(task, folds.targets, fitted.probabilities, folds.group, thresholds)
    found = measured(rows, MEASURES)
    loss = found.pop(LOG_LOSS.key)
    return {LOG_LOSS.key: loss, ERROR: standard_errors(rows)[LOG_LOSS.key], **found}


def learning_curve(
    task: Task,
    folds: Folds,
    sets: FeatureSets,
    model: Model[M],
    own: M,
    params: LearningCurveParams,
) -> pd.DataFrame:
    """A row for each fraction; `rows` is the mean number of rows that a model saw.

    Measures are means over the seeds. `folds` and `sets` are of the rows to judge, `own` are the
    params of the model.
    """
    stratum, fit = rarest(task.has_classes(folds.targets)), with_params(model.fit, own)
    fractions = sorted(params.fractions)
    lines = []
    for fraction in tqdm(fractions, desc=f"learning_curve {model.name}", disable=None):
        judged, rows = [], []
        for seed in params.seeds:
            fewer = fewer_rows(folds, stratum, fraction, seed)
            fitted = crossfit(
                task, fewer, sets, own.sources(), fit, balance=own.balance,
                seed=own.seed + seed * len(folds.numbers), runs=model.runs(task, own),
            )  # fmt: skip
            judged.append(judge(task, fewer, fitted))
            rows += [len(fewer.train(fold)) for fold in fewer.numbers]
        found = pd.DataFrame(judged)
        deviation = float(found[LOG_LOSS.key].std(ddof=1)) if len(judged) > 1 else 0.0
        lines.append(
            {"model": model.name, "fraction": fraction, "rows": float(np.mean(rows))}
            | found.mean().to_dict()
            | {SEEDS: len(judged), DEVIATION: deviation}
        )
    return pd.DataFrame(lines)


def main(*, dataset: str, model: str) -> None:
    """Write the learning curve of a model on a dataset."""
    layout, chosen = Layout(dataset), load_model(model)
    params = read_params(LearningCurveParams, layout)
    own = read_params(chosen.params, layout, model)
    task = read_task(layout.labels)
    whole = read_folds(layout.folds, task)
    folds = whole.take(whole.judged)  # no other is to be predicted here
    sets = read_sets(layout, own.sources().keys(), folds.ids)
    table = learning_curve(task, folds, sets, chosen, own, params)
    write_table(table, layout.learning_curve(model))
    log.info("learning_curve: %d points of %s", len(table), model)


if __name__ == "__main__":
    run(main)
