"""The stage that all models share: from feature sets and folds to models and predictions.

A search is judged nested: the out-of-fold predictions of a fold's rows are those of the trial that
is best on the other folds, so that the best of many trials looks no better than it is. Models and
the predictions of all other rows are of the trial that is best on all folds.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.blocks import read_blocks, read_columns
from stages.core.errors import InputError
from stages.core.folds import Indices, read_folds
from stages.core.predictions import prediction_table
from stages.core.tables import PREDICTION, SWAPPED, write_table
from stages.core.tasks import Floats, Task, read_task
from stages.models.fitting.crossfit import CrossFit, Recipe, crossfits
from stages.models.fitting.design import FeatureSets
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams, search, space_faults
from stages.models.fitting.seeds import Model, with_params
from stages.runtime.cost import Cost
from stages.runtime.tracking import Mirror

log = logging.getLogger("verdict")

M = TypeVar("M", bound=ModelParams)


def read_sets(paths: Mapping[str, Path], needed: Collection[str], ids: pd.Series) -> FeatureSets:
    """The `needed` feature sets, rows in the order of `ids`.

    One may be empty (`embed` without a backbone): the model goes without it.

    Raises:
        InputError: One is damaged or lacks an id, or all are empty.
    """
    sets = {}
    for name, path in paths.items():
        if name in needed:
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
            task.keys(source.parts)
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


def train(
    params: M,
    fit: Callable[[Sample, M, int], Model],
    *,
    dataset: str,
    labels: Path,
    folds: Path,
    sets: Mapping[str, Path],
    model: Path,
    predictions: Path,
    trials: Path,
    cost: Path,
    spread: bool = False,
    processes: bool = False,
) -> None:
    """Cross-fit the model with the given params, or with the best that a search finds.

    Args:
        params: The model's section; its `SourceParams` name the feature sets.
        fit: Fits one model: `(sample, params, seed) -> model`.
        dataset: Its name.
        labels: labels.json.
        folds: folds.parquet.
        sets: Where the feature sets are: folders of blocks, or tables with a column a feature. Only
            those that the params name are read.
        model: Out: the folder of fitted models.
        predictions: Out: predictions of all rows, those of the train part out of fold.
        trials: Out: a CSV with a row for each trial of the search, its own loss in it.
        cost: Out: what it cost, JSON.
        spread: Each fit is spread over the cluster itself.
        processes: Fits hold a lock of their process: folds get a process each.
    """
    clock, mirror = Cost(), Mirror(model.name, dataset, [labels, folds])
    task = read_task(labels)
    if faults := [*part_faults(task, params), *space_faults(params)]:
        listed = [f"{model.name}.{fault}" for fault in faults]
        raise InputError.listing(f"params/{dataset}.yaml: {len(faults)} fault(s)", listed)
    stored = read_folds(folds, task)
    features = read_sets(sets, params.sources().keys(), stored.ids)
    rows = stored.judged
    best: list[tuple[float, M, CrossFit]] = []
    tried: list[tuple[Floats, Floats, Floats]] = []  # of the judged rows: losses, both predictions

    def evaluate(batch: Sequence[M]) -> Iterator[float]:
        recipes = [
            Recipe(each.sources(), with_params(fit, each), each.balance, each.seed)
            for each in batch
        ]
        fits = crossfits(task, stored, features, recipes, spread=spread, processes=processes)
        for each, fitted in zip(batch, fits, strict=True):
            losses = fitted.row_losses(stored)
            tried.append((losses, fitted.probabilities[rows], fitted.swapped[rows]))
            loss = float(losses.mean())
            if not best or loss < best[0][0]:
                best[:] = [(loss, each, fitted)]
            yield loss

    table = search(params, evaluate)
    _, chosen, fitted = best[0]
    fitted.save(model, chosen)
    losses, probabilities, swapped = (np.stack(values) for values in zip(*tried, strict=True))
    nested = (best_elsewhere(losses, stored.fold[rows]), np.arange(len(rows)))
    fitted.probabilities[rows] = probabilities[nested]
    fitted.swapped[rows] = swapped[nested]
    loss = float(losses[nested].mean())
    values = {PREDICTION: fitted.probabilities}
    if task.symmetric:
        values[SWAPPED] = fitted.swapped
    write_table(prediction_table(stored, task, values), predictions)
    write_table(table, trials)
    spent = clock.write(cost, fitted=model, predict_ms_per_row=fitted.predict_ms_per_row)
    mirror.finish(
        params=chosen.model_dump(mode="json"),
        metrics={"out_of_fold_log_loss": loss, **spent},
        tables={"trials": trials},
    )
    log.info(
        "%s: %d rows in %d folds, out-of-fold log loss %.4f",
        model.name,
        len(stored.judged),
        len(fitted.fits),
        loss,
    )
