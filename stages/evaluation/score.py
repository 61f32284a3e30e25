r"""Score the predictions of all models.

In: predictions, folds (targets), and rows where the judge is known. Out, for each model: flat
metrics of the out-of-fold rows and, with the prefix `dev_`, of a labelled dev part; a report of
each class; two small tables for plots; the thresholds; and the loss of each out-of-fold row, which
`compare` reads from Git. Where the rows carry the true probabilities (`truth_<class>`: the demo),
the regret is the expected log loss under them beyond the best possible.

Classes that do not exclude each other are given to a row by thresholds, a class each, chosen for
macro-F1. They are judged nested: those for the rows of a fold were chosen on the other folds (where
only one fold was predicted: for a part of it on its other parts); rows outside the train part get
those of all out-of-fold rows, which are the ones written. Metrics with the fixed threshold of one
half stand beside them as `<metric>_at_half`.

    python -m stages.evaluation.score --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --rows data/demo/rows.parquet \
        --predictions data/demo/predictions --models svm --models ensemble \
        --metrics metrics/scores/demo --thresholds-out metrics/thresholds/demo \
        --losses-out metrics/losses/demo --classes-out metrics/classes/demo \
        --confusion-out metrics/confusion/demo --reliability-out metrics/reliability/demo
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.errors import InputError
from stages.core.folds import DEV, TEST, Folds, Indices, read_folds
from stages.core.predictions import OOF
from stages.core.tables import (
    GROUP,
    ID,
    PART,
    PREDICTION,
    SWAPPED,
    TRUTH,
    by_id,
    columns_with,
    read_table,
    write_json,
    write_table,
)
from stages.core.tasks import Floats, Task, read_task
from stages.evaluation.judging import judging_folds, mean_and_error
from stages.evaluation.losses import LOSS, write_losses
from stages.evaluation.metrics import (
    HALF,
    Labels,
    actual_labels,
    bins,
    calibration_noise,
    choose_thresholds,
    class_calibration_error,
    class_scores,
    decide,
    decision_metrics,
    nested_thresholds,
    probability_metrics,
    ranking,
)
from stages.runtime.cli import run
from stages.runtime.tracking import Mirror

log = logging.getLogger("verdict")

NO_CLASS = "(none)"  # in the confusion of several labels: a label too many, or one that is missed


@dataclass(frozen=True)
class Scored:
    """Rows of one part: targets, probabilities, groups, the labels that they have and are given."""

    targets: Floats
    probabilities: Floats
    group: npt.NDArray[Any]
    actual: Labels
    given: Labels


def scored(
    task: Task,
    targets: Floats,
    probabilities: Floats,
    group: npt.NDArray[Any],
    thresholds: Floats,
) -> Scored:
    """Decide with `thresholds`: one a class, or one a row and class."""
    actual = actual_labels(task, targets)
    return Scored(targets, probabilities, group, actual, decide(task, probabilities, thresholds))


def score(task: Task, part: Scored) -> dict[str, float]:
    """All metrics of one part."""
    found = probability_metrics(task, part.targets, part.probabilities, part.group)
    found |= decision_metrics(task, part.actual, part.given)
    if task.exclusive:
        right = (part.actual == part.given).all(axis=1)
        _, error = mean_and_error(right.astype(float), part.group)
        found["accuracy_standard_error"] = float(np.nan_to_num(error))
    found["class_calibration_error"] = class_calibration_error(part.targets, part.probabilities)
    mean, bound = calibration_noise(task, part.probabilities)
    found |= {"class_calibration_noise": mean, "class_calibration_noise_bound": bound}
    if not task.exclusive:
        fixed = decision_metrics(task, part.actual, decide(task, part.probabilities, HALF))
        found |= {f"{name}_at_half": value for name, value in fixed.items()}
    return found


def report(task: Task, part: Scored, thresholds: Floats) -> pd.DataFrame:
    """One row a class: its rows, how many are given it, and how well."""
    auc, average_precision = ranking(part.actual, part.probabilities)
    table = pd.DataFrame(
        {
            "class": task.classes,
            "rows": part.actual.sum(axis=0),
            "predicted": part.given.sum(axis=0),
            **class_scores(part.actual, part.given),
            "auc": auc,
            "average_precision": average_precision,
        }
    )
    if task.exclusive:
        return table
    fixed = class_scores(part.actual, decide(task, part.probabilities, HALF))
    return table.assign(
        threshold=thresholds, **{f"{name}_at_half": value for name, value in fixed.items()}
    )


def regret(task: Task, truth: Floats, probabilities: Floats) -> dict[str, float]:
    """Expected log loss under the true probabilities, the best possible one, and the difference."""
    expected = task.row_losses(truth, probabilities).mean()
    best = task.row_losses(truth, truth).mean()
    return {
        "expected_log_loss": float(expected),
        "best_log_loss": float(best),
        "regret": float(expected - best),
    }


def confusion(task: Task, actual: Labels, given: Labels) -> pd.DataFrame:
    """How often an actual class was taken for another, and the share of the actual class.

    Where classes do not exclude each other, a label that was missed is confused with each label
    that the row was given wrongly, or with `(none)`; where no label was missed, `(none)` is
    confused with those given wrongly.
    """
    missed, wrong = actual & ~given, given & ~actual
    only_missed, only_wrong = ~wrong.any(axis=1), ~missed.any(axis=1)
    counts = np.block(
        [
            [_count(missed, wrong), missed[only_missed].sum(axis=0)[:, None]],
            [wrong[only_wrong].sum(axis=0)[None, :], np.zeros((1, 1), np.int64)],
        ]
    )
    np.fill_diagonal(counts, [*(actual & given).sum(axis=0), 0])
    names = (*task.classes, NO_CLASS)
    if task.exclusive:
        counts, names = counts[:-1, :-1], task.classes
    n = len(names)
    totals = np.repeat(counts.sum(axis=1), n)
    return pd.DataFrame(
        {
            "actual": np.repeat(names, n),
            "predicted": np.tile(names, n),
            "rows": counts.ravel(),
            "share": counts.ravel() / np.maximum(totals, 1),
        }
    )


def _count(left: Labels, right: Labels) -> npt.NDArray[np.int64]:
    return left.T.astype(np.int64) @ right.astype(np.int64)


def reliability(
    targets: Floats, probabilities: Floats, classes: tuple[str, ...], group: npt.NDArray[Any]
) -> pd.DataFrame:
    """For each class and bin of its predicted probability: mean prediction and actual share.

    `error` is the standard error of the share, clustered by `group`, `(n_rows,)`; 0 of one group.
    """
    lines = []
    for k, name in enumerate(classes):
        bin_of = bins(probabilities[:, k])
        for number in np.unique(bin_of):
            inside = bin_of == number
            actual, error = mean_and_error(targets[inside, k], group[inside])
            predicted = probabilities[inside, k].mean()
            lines.append((name, predicted, actual, inside.sum(), np.nan_to_num(error)))
    return pd.DataFrame(lines, columns=["class", "predicted", "actual", "rows", "error"])


def swap_error(task: Task, predictions: pd.DataFrame) -> float:
    """Largest difference between a prediction and that for the exchanged row, exchanged back."""
    straight, swapped = (
        predictions[[prefix + name for name in task.classes]].to_numpy()
        for prefix in (PREDICTION, SWAPPED)
    )
    return float(np.abs(straight - task.swap_classes(swapped)).max())


def losses_table(folds: Folds, place: Indices, losses: Floats) -> pd.DataFrame:
    """The loss of each row at `place` in the folds, with the id and group that `compare` needs."""
    return pd.DataFrame(
        {
            ID: folds.ids.iloc[place],
            GROUP: folds.group[place],
            LOSS: losses.astype(np.float32),
        }
    )


@dataclass(frozen=True)
class Sheet:
    """What is written of one model."""

    metrics: Mapping[str, float]
    thresholds: Mapping[str, float]
    losses: pd.DataFrame
    classes: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame


def judge(task: Task, folds: Folds, predictions: Path, rows: Path) -> Sheet:
    """Score the table `predictions`; the truth is read from `rows`, where it is known.

    Raises:
        InputError: An out-of-fold row is none of the folds'.
    """
    table = read_table(predictions)
    columns = [PREDICTION + name for name in task.classes]
    judged = table[table[PART] == OOF]
    place = pd.Index(folds.ids).get_indexer(pd.Index(judged[ID]))
    if (place < 0).any():
        raise InputError(
            f"{predictions}: got {len(judged)} out-of-fold rows; expected ids of the folds"
        )
    if not len(judged):  # a backbone that is not tuned on this dataset
        nothing = pd.DataFrame(columns=["class", "actual", "predicted", "f1"])
        no_losses = losses_table(folds, place, np.zeros(0))
        return Sheet({"rows": 0}, {}, no_losses, nothing, nothing, nothing)
    targets, probabilities = folds.targets[place], judged[columns].to_numpy()
    actual = actual_labels(task, targets)
    thresholds = choose_thresholds(actual, probabilities)
    parts = judging_folds(folds, np.isin(np.arange(len(folds.ids)), place))
    nested = nested_thresholds(actual, probabilities, parts.fold[place])
    oof = scored(task, targets, probabilities, folds.group[place], nested)
    found = score(task, oof)
    losses = task.row_losses(targets, probabilities)
    for fold in np.unique(folds.fold[place]).tolist():
        found[f"log_loss_fold{fold}"] = float(losses[folds.fold[place] == fold].mean())
    reports = [report(task, oof, thresholds).assign(part=OOF)]
    dev = read_dev(table, folds, columns)
    if dev is not None:
        part = scored(task, *dev, thresholds)
        found |= {f"{DEV}_{name}": value for name, value in score(task, part).items()}
        reports.append(report(task, part, thresholds).assign(part=DEV))
    if task.symmetric:
        found["swap_error"] = swap_error(task, table)
    truth_columns = columns_with(rows, TRUTH)
    if truth_columns:
        truth = by_id(read_table(rows, [ID, *truth_columns]), table[ID], rows)
        for prefix, selected in (("", table[PART] == OOF), ("test_", table[PART] == TEST)):
            if not selected.any():
                continue
            known = regret(
                task,
                truth.loc[selected, truth_columns].to_numpy(),
                table.loc[selected, columns].to_numpy(),
            )
            found |= {prefix + name: value for name, value in known.items()}
    chosen = {} if task.exclusive else dict(zip(task.classes, thresholds.tolist(), strict=True))
    return Sheet(
        found,
        chosen,
        losses_table(folds, place, losses),
        pd.concat(reports),
        confusion(task, oof.actual, oof.given),
        reliability(targets, probabilities, task.classes, oof.group),
    )


def main(
    *,
    dataset: str,
    labels: Path,
    folds: Path,
    rows: Path,
    predictions: Path,
    models: list[str],
    metrics: Path,
    thresholds_out: Path,
    losses_out: Path,
    classes_out: Path,
    confusion_out: Path,
    reliability_out: Path,
) -> None:
    """Score the predictions of `models`, each into a file of its name in each folder."""
    task = read_task(labels)
    stored = read_folds(folds, task)
    mirror = Mirror("score", dataset, [labels, folds])
    for model in models:
        sheet = judge(task, stored, predictions / f"{model}.parquet", rows)
        write_json(sheet.metrics, metrics / f"{model}.json")
        write_json(sheet.thresholds, thresholds_out / f"{model}.json")
        write_losses(sheet.losses, losses_out / f"{model}.parquet")
        tables = {
            "classes": (sheet.classes, classes_out / f"{model}.csv"),
            "confusion": (sheet.confusion, confusion_out / f"{model}.csv"),
            "reliability": (sheet.reliability, reliability_out / f"{model}.csv"),
        }
        for table, path in tables.values():
            write_table(table, path)
        if not sheet.metrics["rows"]:
            continue
        plots = {name: path for name, (_, path) in tables.items()}
        mirror.end_run(params={"model": model}, metrics=sheet.metrics, tables=plots)
        log.info(
            "score: %s: log loss %.4f, macro-F1 %.4f on %d rows",
            model,
            sheet.metrics["log_loss"],
            sheet.metrics["macro_f1"],
            sheet.metrics["rows"],
        )
    mirror.close()


def read_dev(
    predictions: pd.DataFrame, folds: Folds, columns: list[str]
) -> tuple[Floats, Floats, npt.NDArray[Any]] | None:
    """Targets, probabilities and groups of the dev part's labelled rows; None without any."""
    table = predictions[predictions[PART] == DEV]
    place = pd.Index(folds.ids).get_indexer(pd.Index(table[ID]))
    targets = folds.targets[place]
    labelled = ~np.isnan(targets).any(axis=1)
    if not labelled.any():
        return None
    return targets[labelled], table.loc[labelled, columns].to_numpy(), folds.group[place][labelled]


if __name__ == "__main__":
    run(main)
