"""The predictions table: all that the later stages know of a model."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.core.folds import TRAIN, Folds
from stages.core.matrices import Floats
from stages.core.tables import ID, PART
from stages.core.tasks import Task

OOF = "oof"  # part of the rows that were predicted out of fold


def prediction_table(folds: Folds, task: Task, values: Mapping[str, Floats]) -> pd.DataFrame:
    """Columns `id`, `part` (oof, or the row's own part) and `<prefix><class>`.

    `values` are probabilities `(n_rows, n_classes)` by prefix (`p_`, `swapped_p_`).
    """
    frame = pd.DataFrame({ID: folds.ids, PART: np.where(folds.part == TRAIN, OOF, folds.part)})
    for prefix, probabilities in values.items():
        frame[[prefix + name for name in task.classes]] = probabilities
    return frame
