"""The predictions table: the narrow waist between models and everything behind them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.folds import AUGMENTED, TRAIN, Folds
from stages.core.tables import ID, PART
from stages.core.tasks import Floats, Task

OOF = "oof"  # part of the rows that were predicted out of fold


def check_models(names: Iterable[str], folder: Path, param: str) -> None:
    """That each model that a param names has predictions in `folder`.

    Raises:
        InputError: Some have none; it names the `param`.
    """
    known = sorted(path.stem for path in folder.glob("*.parquet"))
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{param}: no predictions in {folder}, got {unknown}; expected some of {known}"
        )


def weights_of(blend: Mapping[str, float]) -> dict[str, float]:
    """The weight of each member, of what the ensemble wrote: their own log losses stand there."""
    return {name: weight for name, weight in blend.items() if f"{name}_log_loss" in blend}


def prediction_table(folds: Folds, task: Task, values: Mapping[str, Floats]) -> pd.DataFrame:
    """Columns `id`, `part` (oof, or the row's own part) and `<prefix><class>`; no copies of rows.

    Args:
        folds: For all rows.
        task: Gives the classes.
        values: Probabilities `(n_rows, n_classes)` by prefix (`p_`, `swapped_p_`).
    """
    frame = pd.DataFrame({ID: folds.ids, PART: np.where(folds.part == TRAIN, OOF, folds.part)})
    for prefix, probabilities in values.items():
        frame[[prefix + name for name in task.classes]] = probabilities
    kept: pd.DataFrame = frame[folds.part != AUGMENTED]
    return kept
