r"""Write the file to upload.

In: predictions of the test part, folds, raw data. Out: a CSV with the competition's own columns,
each test id once, in the order of the sample submission where there is one. A test row that was
rejected at the door gets the class shares of the train part.

    python -m stages.submit --dataset arena --labels data/arena/labels.json --raw data/raw/arena \
        --folds data/arena/folds.parquet --predictions data/arena/predictions/ensemble.parquet \
        --submission-out data/arena/submission.csv
"""

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from stages.base.cli import run
from stages.base.errors import InputError
from stages.base.folds import TEST, read_folds
from stages.base.params import Params, read_params
from stages.base.tables import ID, PART, PREDICTION, read_table, write_table
from stages.base.tasks import Floats, Preference, read_task

log = logging.getLogger("verdict")


class SubmitParams(Params):
    """Section `submit`.

    `columns` maps `id` and each class to the names in the file; `sample` is the sample submission
    in the raw folder, or null; a probability is at least `smallest`.
    """

    columns: dict[str, str]
    sample: str | None
    smallest: Annotated[float, Field(gt=0, lt=0.1)]


def clip(probabilities: Floats, smallest: float) -> Floats:
    """Probabilities of at least about `smallest`, rows summing to 1: never exactly 0 or 1."""
    clipped = np.clip(probabilities, smallest, 1)
    rows: Floats = clipped / clipped.sum(axis=1, keepdims=True)
    return rows


def submission(
    ids: pd.Series, predictions: pd.DataFrame, prior: Floats, task: Preference, params: SubmitParams
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
    frame = pd.DataFrame(clip(values, params.smallest), columns=list(task.classes))
    frame.insert(0, ID, ids.to_numpy())
    return frame.rename(columns=params.columns)


def main(
    *, dataset: str, labels: Path, raw: Path, folds: Path, predictions: Path, submission_out: Path
) -> None:
    """Write the submission."""
    params = read_params(SubmitParams, dataset, "submit")
    task = read_task(labels)
    expected = [ID, *task.classes]
    if list(params.columns) != expected:
        raise InputError(
            f"{dataset}.submit.columns: got {list(params.columns)}; expected the keys {expected}"
        )
    stored = read_folds(folds, task)
    table = read_table(predictions)
    test = table[table[PART] == TEST]
    if params.sample is None:
        ids = test[ID]
    else:
        sample = pd.read_csv(raw / params.sample, dtype=str, encoding="utf-8-sig")
        if list(sample) != list(params.columns.values()):
            raise InputError(
                f"{raw / params.sample}: got the columns {list(sample)}; "
                f"expected those of {dataset}.submit.columns: {list(params.columns.values())}"
            )
        ids = sample[params.columns[ID]]
        faults = [f"{name!r} stands twice" for name in ids[ids.duplicated()]]
        faults += [f"test id {name!r} is missing" for name in test[ID] if name not in set(ids)]
        if faults:
            raise InputError.listing(
                f"{raw / params.sample}: got {len(ids)} ids; expected each test id once",
                faults[:10],
            )
    prior = stored.targets[stored.train(None)].mean(axis=0)
    table = submission(ids, test, prior, task, params)
    write_table(table, submission_out)
    log.info("submit: %d rows -> %s", len(table), submission_out)


if __name__ == "__main__":
    run(main)
