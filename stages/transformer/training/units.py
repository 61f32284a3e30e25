"""The models to train, one per fold and perhaps one on all rows, and their joint outputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.folds import Folds, Indices, parts_of_groups
from stages.core.matrices import Floats
from stages.core.predictions import prediction_table
from stages.core.seeds import nth_name, nth_seed
from stages.core.stopping import StoppingParams
from stages.core.tables import PREDICTION, SWAPPED, atomic
from stages.core.tasks import Task
from stages.transformer.network.backbones import load_tokenizer
from stages.transformer.network.params import BackboneParams, FinetuneParams
from stages.transformer.network.predict import probabilities
from stages.transformer.training.checkpoint import Finished
from stages.transformer.training.progress import ROW

REFIT, TOKENIZER = "refit", "tokenizer"


@dataclass(frozen=True, eq=False)
class Unit:
    """One model: trained on all train rows but those of `fold` (None: on all), predicts `rows`."""

    name: str
    fold: int | None
    rows: Indices
    seed: int


def units(folds: Folds, params: FinetuneParams) -> list[Unit]:
    """The models to train.

    Raises:
        InputError: `folds` names a fold that is not stored, or the same one twice.
    """
    numbers = folds.numbers if params.folds is None else list(params.folds)
    if not set(numbers) <= set(folds.numbers) or len(set(numbers)) < len(numbers):
        raise InputError(f"folds: got {numbers}; expected some of {folds.numbers}, each once")
    refit = params.test == "refit"
    nothing = np.zeros(0, np.intp)
    found = [
        Unit(
            f"fold{number}",
            number,
            np.concatenate([folds.held(number), nothing if refit else folds.unseen]),
            params.seed + number,
        )
        for number in numbers
    ]
    if refit and numbers:
        found.append(Unit(REFIT, None, folds.unseen, params.seed + max(folds.numbers) + 1))
    if params.seeds == 1:
        return found
    return [
        replace(unit, name=nth_name(unit.name, number), seed=nth_seed(unit.seed, number))
        for unit in found
        for number in range(params.seeds)
    ]


def hold_out(
    folds: Folds, rows: Indices, stopping: StoppingParams | None, seed: int
) -> tuple[Indices, Indices | None]:
    """Rows to train on, and rows for early stopping: whole groups.

    Raises:
        InputError: There are too few groups to hold some out.
    """
    if stopping is None:
        return rows, None
    held = parts_of_groups(folds.group[rows], stopping.holdout_parts, seed) == 0
    if held.all() or not held.any():
        n_groups = len(np.unique(folds.group[rows]))
        raise InputError(
            f"stopping.holdout_parts: got {stopping.holdout_parts} for {n_groups} groups of "
            "rows; expected at least one group to train on and one to hold out"
        )
    return rows[~held], rows[held]


def gather(folds: Folds, task: Task, found: Mapping[Unit, Finished]) -> tuple[pd.DataFrame, Floats]:
    """The table of predictions, and the losses of the out-of-fold rows.

    Rows of folds that did not run are left out; unseen rows get the mean over the models.
    """
    shape = folds.targets.shape
    total, swapped, count = np.zeros(shape), np.zeros(shape), np.zeros(shape[0])
    for unit, finished in found.items():
        straight, turned = probabilities(task, finished.scores)
        total[unit.rows] += straight
        swapped[unit.rows] += turned
        count[unit.rows] += 1
    seen = count > 0
    total[seen] /= count[seen, None]
    swapped[seen] /= count[seen, None]
    values = {PREDICTION: total} | ({SWAPPED: swapped} if task.symmetric else {})
    table = prediction_table(folds, task, values)
    judged = folds.judged[seen[folds.judged]]
    return table[seen[table.index]], task.row_losses(folds.targets[judged], total[judged])


def write_models(
    folder: Path, found: Mapping[Unit, Finished], backbone: BackboneParams | None
) -> None:
    """Write a folder for each model, and one for their tokenizer, if there are any models."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        if found and backbone is not None:
            load_tokenizer(backbone).save_pretrained(temporary / TOKENIZER)
        for unit, finished in found.items():
            shutil.copytree(finished.model, temporary / unit.name)


def curves(found: Mapping[Unit, Finished]) -> pd.DataFrame:
    """The loss curves of all models, one below the other."""
    rows = [{"model": unit.name, **row} for unit, done in found.items() for row in done.curve]
    return pd.DataFrame(rows, columns=["model", *ROW])
