"""Write the file to upload.

In: predictions of the test part, rejects, folds, thresholds, raw data. Out: a CSV with the
competition's own columns, each test id once, in the order of the sample submission, or without one
in that of the test file, ids of rejects at the end. It holds the probability of each class, or the
label in the raw file's own words: the likeliest class or, where classes do not exclude each other,
all that reach their threshold. A test row that was rejected at the door gets the class shares of
the train part.

    python -m stages.evaluation.submit --dataset arena
"""

import logging
from itertools import compress
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from stages.core.errors import InputError
from stages.core.folds import TEST, read_folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Floats
from stages.core.params import Params, read_params
from stages.core.tables import ID, PART, PREDICTION, read_json, read_table, write_table
from stages.core.tasks import Task, read_task
from stages.evaluation.scoring.metrics import decide
from stages.runtime.cli import run

log = logging.getLogger("verdict")


LABEL = "label"


class LabelParams(Params):
    """How a row's label is written.

    As the names of its classes, or as their numbers; several joined by `separator`. With
    `at_least_one`, a row none of whose classes reaches its threshold gets the likeliest.
    """

    separator: str | None = None
    numbers_from: Annotated[int, Field(ge=0)] | None = None
    at_least_one: bool = True


class SubmitParams(Params):
    """Section `submit`.

    `columns` maps `id` and each class (or `id` and `label`, where `labels` says how to write it) to
    the names in the file, in its order; `labels: null` wants probabilities, of at least
    `smallest`; `sample` is the sample submission in the raw folder, or null.
    """

    section = "submit"

    columns: dict[str, str]
    labels: LabelParams | None = None
    sample: str | None = None
    smallest: Annotated[float, Field(gt=0, lt=0.1)] = 0.0001

    @field_validator("columns")
    @classmethod
    def _differ(cls, columns: dict[str, str]) -> dict[str, str]:
        if len(set(columns.values())) < len(columns):
            raise ValueError("two have the same name; expected different ones")
        return columns


def clip(probabilities: Floats, smallest: float) -> Floats:
    """Probabilities of at least about `smallest`, rows summing to 1: never exactly 0 or 1."""
    clipped = np.clip(probabilities, smallest, 1)
    rows: Floats = clipped / clipped.sum(axis=1, keepdims=True)
    return rows


def class_words(task: Task, params: LabelParams) -> list[str]:
    """What the file calls the classes.

    Raises:
        InputError: Several are to be joined and there is no separator, or a name holds it.
    """
    first = params.numbers_from
    words = list(task.classes)
    if first is not None:
        words = [str(first + at) for at in range(len(words))]
    if task.exclusive:
        return words
    torn = [word for word in words if params.separator is None or params.separator in word]
    if torn:
        raise InputError(
            f"submit.labels.separator: got {params.separator!r}; expected one that joins several "
            f"classes and stands in no name, such as that of {torn[0]!r}"
        )
    return words


def labels_of(
    probabilities: Floats, thresholds: Floats, task: Task, params: LabelParams
) -> list[str]:
    """The label of each row; thresholds are `(n_classes,)`."""
    words = class_words(task, params)
    given = decide(task, probabilities, thresholds)
    none = ~given.any(axis=1)
    if params.at_least_one:
        given[none, probabilities[none].argmax(axis=1)] = True
    return [(params.separator or "").join(compress(words, row)) for row in given.tolist()]


def submission(
    ids: pd.Series,
    predictions: pd.DataFrame,
    prior: Floats,
    thresholds: Floats,
    task: Task,
    params: SubmitParams,
) -> pd.DataFrame:
    """The file's rows for `ids`; an id without a prediction gets `prior`, `(n_classes,)`."""
    columns = [PREDICTION + name for name in task.classes]
    values = predictions.set_index(ID).reindex(ids)[columns].to_numpy(copy=True)
    lost = np.isnan(values).any(axis=1)
    if lost.any():
        log.warning(
            "submit: %d test rows have no prediction: they get the class shares", lost.sum()
        )
    values[lost] = prior
    if params.labels is not None:
        frame = pd.DataFrame({LABEL: labels_of(values, thresholds, task, params.labels)})
    elif task.exclusive:
        frame = pd.DataFrame(clip(values, params.smallest), columns=list(task.classes))
    else:
        within = np.clip(values, params.smallest, 1 - params.smallest)
        frame = pd.DataFrame(within, columns=list(task.classes))
    frame[ID] = ids.to_numpy()
    return frame[list(params.columns)].rename(columns=params.columns)


def read_thresholds(path: Path, task: Task) -> Floats:
    """The threshold of each class, `(n_classes,)`; exclusive classes have none and get 1/2.

    Raises:
        InputError: The file lacks one.
    """
    stored = read_json(path)
    if task.exclusive:
        return np.full(len(task.classes), 0.5)
    if sorted(stored) != sorted(task.classes):
        raise InputError(f"{path}: got {list(stored)}; expected the classes {list(task.classes)}")
    return np.array([stored[name] for name in task.classes], dtype=np.float64)


def sample_ids(path: Path, columns: dict[str, str], test_ids: pd.Series) -> pd.Series:
    """The ids of the sample submission at `path`, in its order.

    Raises:
        InputError: It has other columns, repeats an id or lacks one of `test_ids`.
    """
    sample = pd.read_csv(  # an id may be "NA"
        path, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    if list(sample) != list(columns.values()):
        raise InputError(
            f"{path}: got the columns {list(sample)}; "
            f"expected those of submit.columns: {list(columns.values())}"
        )
    ids: pd.Series = sample[columns[ID]]
    faults = [f"{name!r} stands twice" for name in ids[ids.duplicated()]]
    faults += [f"test id {name!r} is missing" for name in test_ids[~test_ids.isin(ids)]]
    if faults:
        raise InputError.listing(
            f"{path}: got {len(ids)} ids; expected each test id once", faults[:10]
        )
    return ids


def main(*, dataset: str) -> None:
    """Write the submission of one dataset."""
    layout = Layout(dataset)
    params = read_params(SubmitParams, layout)
    task = read_task(layout.labels)
    expected = [ID, *(task.classes if params.labels is None else [LABEL])]
    if sorted(params.columns) != sorted(expected):
        raise InputError(
            f"{layout.params}: submit.columns: got {list(params.columns)}; "
            f"expected the keys {expected}"
        )
    folds = read_folds(layout.folds, task)
    table = read_table(layout.predictions(ENSEMBLE))
    test = table[table[PART] == TEST]
    if params.sample is None:
        rejected = read_table(layout.rejects)
        rejected_ids = rejected.loc[rejected[PART] == TEST, ID].dropna()
        ids = pd.concat([test[ID], rejected_ids]).drop_duplicates()
    elif not (layout.raw / params.sample).is_file():
        raise InputError(
            f"{layout.params}: submit.sample: no such file in {layout.raw}, got "
            f"{params.sample!r}; expected the name of a sample submission, or null"
        )
    else:
        ids = sample_ids(layout.raw / params.sample, params.columns, test[ID])
    prior = folds.targets[folds.train(None)].mean(axis=0)
    limits = read_thresholds(layout.thresholds(ENSEMBLE), task)
    table = submission(ids, test, prior, limits, task, params)
    write_table(table, layout.submission)
    log.info("submit: %d rows -> %s", len(table), layout.submission)


if __name__ == "__main__":
    run(main)
