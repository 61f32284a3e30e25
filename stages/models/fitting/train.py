"""The stage that all models share: from feature sets and folds to models and predictions.

A search is judged nested: the out-of-fold predictions of a fold's rows are those of the trial that
is best on the other folds, so that the best of many trials looks no better than it is. Models and
the predictions of all other rows are of the trial that is best on all folds.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.blocks import read_blocks, read_columns
from stages.core.errors import InputError
from stages.core.folds import Indices, read_folds
from stages.core.layout import Layout
from stages.core.matrices import Floats
from stages.core.params import read_params
from stages.core.predictions import prediction_table
from stages.core.tables import PREDICTION, SWAPPED, write_table
from stages.core.tasks import Task, read_task
from stages.models.fitting.crossfit import CrossFit, Recipe, crossfits
from stages.models.fitting.design import FeatureSets
from stages.models.fitting.model import Model
from stages.models.fitting.search import ModelParams, search, space_faults
from stages.models.fitting.seeds import with_params
from stages.runtime.cost import Cost

log = logging.getLogger("verdict")

M = TypeVar("M", bound=ModelParams)


def read_sets(layout: Layout, needed: Collection[str], ids: pd.Series) -> FeatureSets:
    """The `needed` feature sets, rows in the order of `ids`.

    One may be empty (`embed` without a backbone): the model goes without it.

    Raises:
        InputError: One is damaged or lacks an id, or all are empty.
    """
    sets = {}
    for name in needed:
        path = layout.features(name)
        sets[name] = (read_blocks if path.is_dir() else read_columns)(path, ids)
        if not sets[name]:
            log.warning("%s: is empty, so the model goes without it", path)
    if needed and not any(sets.values()):
        raise InputError(f"{', '.join(needed)}: got empty feature sets; expected features in one")
    return sets


def part_faults(task: Task, params: ModelParams) -> list[str]:
    """Feature sets of which the params want parts that the task has not."""
    faults = []
    for name, source in params.sources().items():
        try:
            task.keys(source.parts_of(task))
        except InputError as error:
            faults.append(f"{name}.{error}")
    return faults


def best_elsewhere(losses: Floats, fold: npt.NDArray[np.integer]) -> Indices:
    """For each row the trial with the lowest mean loss on the rows of the other folds.

    Args:
        losses: `(n_trials, n_rows)`.
        fold: `(n_rows,)`.
    """
    found = np.empty(len(fold), np.intp)
    for number in np.unique(fold):
        held = fold == number
        found[held] = losses[:, ~held].mean(axis=1).argmin()
    return found


def training_stage(model: Model[M]) -> Callable[..., None]:
    """The stage of a model: its `main`, which `python -m` and the tests run."""

    def main(*, dataset: str) -> None:
        """Cross-fit the model on a dataset."""
        train(model, Layout(dataset))

    return main


def train(model: Model[M], layout: Layout) -> None:
    """Cross-fit the model with the given params, or with the best that a search finds.

    Reads labels, folds and the feature sets that the params name. Writes the fitted models, the
    predictions of all rows (those of the train part out of fold), the trials of the search with
    their own losses, and what it all cost.

    Raises:
        InputError: The params do not fit the task, or the search the params; lists every fault.
    """
    clock = Cost()
    params = read_params(model.params, layout, model.name)
    task = read_task(layout.labels)
    if faults := [*part_faults(task, params), *space_faults(params)]:
        listed = [f"{model.name}.{fault}" for fault in faults]
        raise InputError.listing(f"{layout.params}: {len(faults)} fault(s)", listed)
    folds = read_folds(layout.folds, task)
    features = read_sets(layout, params.sources().keys(), folds.ids)
    rows = folds.judged
    best: list[tuple[float, M, CrossFit]] = []
    tried: list[tuple[Floats, Floats, Floats]] = []  # of the judged rows: losses, both predictions

    def evaluate(batch: Sequence[M]) -> Iterator[float]:
        recipes = [
            Recipe(each.sources(), with_params(model.fit, each), each.balance, each.seed)
            for each in batch
        ]
        fits = crossfits(task, folds, features, recipes, runs=model.runs(task, params))
        for each, fitted in zip(batch, fits, strict=True):
            losses = fitted.row_losses(folds)
            tried.append((losses, fitted.probabilities[rows], fitted.swapped[rows]))
            loss = float(losses.mean())
            if not best or loss < best[0][0]:
                best[:] = [(loss, each, fitted)]
            yield loss

    table = search(params, evaluate)
    _, chosen, fitted = best[0]
    fitted.save(layout.model(model.name), chosen)
    losses, probabilities, swapped = (np.stack(values) for values in zip(*tried, strict=True))
    nested = (best_elsewhere(losses, folds.fold[rows]), np.arange(len(rows)))
    fitted.probabilities[rows] = probabilities[nested]
    fitted.swapped[rows] = swapped[nested]
    values = {PREDICTION: fitted.probabilities}
    if task.symmetric:
        values[SWAPPED] = fitted.swapped
    write_table(prediction_table(folds, task, values), layout.predictions(model.name))
    write_table(table, layout.trials(model.name))
    clock.write(
        layout.cost(model.name),
        fitted=layout.model(model.name),
        predict_ms_per_row=fitted.predict_ms_per_row,
    )
    log.info(
        "%s: %d rows in %d folds, out-of-fold log loss %.4f",
        model.name, len(rows), len(fitted.fits), float(losses[nested].mean()),
    )  # fmt: skip
