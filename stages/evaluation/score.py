"""Score the predictions of all models.

In: predictions, folds (targets), and rows where the judge is known. Out, for each model: the
measures of the out-of-fold rows (`oof`) and of a labelled dev part (`dev`); a report of each class;
two small tables for plots; the thresholds; and the loss of each out-of-fold row, which `compare`
reads from Git. Where the rows carry the true probabilities (`truth_<class>`: the demo), the regret
is the expected log loss under them beyond the best possible (`known_judge`).

Classes that do not exclude each other are given to a row by thresholds, one per class, chosen for
macro-F1. They are judged nested: those for the rows of a fold were chosen on the other folds (where
only one fold was predicted: for a part of it on its other parts); rows outside the train part get
those of all out-of-fold rows, which are the ones written. What the fixed threshold of one half
gives stands beside them as `at_half`.

    python -m stages.evaluation.score --dataset demo
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.build import judged_models
from stages.core.errors import InputError
from stages.core.folds import DEV, TEST, Folds, Indices, read_folds
from stages.core.layout import Layout
from stages.core.matrices import Floats
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
from stages.core.tasks import Task, read_task
from stages.evaluation.judging import clustered_mean, judging_folds
from stages.evaluation.scoring.losses import LOSS, write_losses
from stages.evaluation.scoring.measures import (
    DECISIONS,
    KNOWN_JUDGE,
    QUALITY,
    ROWS,
    measured,
    standard_errors,
)
from stages.evaluation.scoring.metrics import (
    HALF,
    Labels,
    Scored,
    average_precisions,
    bins,
    calibration_noise,
    choose_thresholds,
    class_aucs,
    class_scores,
    decide,
    nested_thresholds,
    scored,
)
from stages.runtime.cli import run
from stages.runtime.tracking import mirror

log = logging.getLogger("verdict")

NO_CLASS = "(none)"  # in the confusion of several labels: a label too many, or one that is missed


def score(part: Scored) -> dict[str, Any]:
    """All measures of one part."""
    mean, bound = calibration_noise(part.task, part.probabilities)
    found = {
        **measured(part, (ROWS, *QUALITY)),
        "class_calibration_noise": mean,
        "class_calibration_noise_bound": bound,
        "standard_error": standard_errors(part),
    }
    if not part.task.exclusive:
        fixed = replace(part, given=decide(part.task, part.probabilities, HALF))
        found["at_half"] = measured(fixed, DECISIONS)
    return found


def report(part: Scored, thresholds: Floats) -> pd.DataFrame:
    """One row per class: its rows, how many are given it, and how well."""
    task = part.task
    table = pd.DataFrame(
        {
            "class": task.classes,
            "rows": part.actual.sum(axis=0),
            "predicted": part.given.sum(axis=0),
            **class_scores(part.actual, part.given),
            "auc": class_aucs(part.actual, part.probabilities),
            "average_precision": average_precisions(part.actual, part.probabilities),
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
            actual, error = clustered_mean(targets[inside, k], group[inside])
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

    scores: Mapping[str, Mapping[str, Any]]
    thresholds: Mapping[str, float]
    losses: pd.DataFrame
    classes: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame

    def write(self, layout: Layout, model: str) -> None:
        """Write each into the file of the model."""
        write_json(self.scores, layout.scores(model))
        write_json(self.thresholds, layout.thresholds(model))
        write_losses(self.losses, layout.losses(model))
        write_table(self.classes, layout.classes(model))
        write_table(self.confusion, layout.confusion(model))
        write_table(self.reliability, layout.reliability(model))


def judge(task: Task, folds: Folds, layout: Layout, model: str) -> Sheet:
    """Score the predictions of a model; the truth is read from the rows, where it is known.

    Raises:
        InputError: An out-of-fold row is none of the folds'.
    """
    predictions = layout.predictions(model)
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
        return Sheet({OOF: {ROWS.key: 0}}, {}, no_losses, nothing, nothing, nothing)
    targets, probabilities = folds.targets[place], judged[columns].to_numpy()
    actual = task.has_classes(targets)
    thresholds = choose_thresholds(actual, probabilities)
    parts = judging_folds(folds, np.isin(np.arange(len(folds.ids)), place))
    nested = nested_thresholds(actual, probabilities, parts.fold[place])
    oof = scored(task, targets, probabilities, folds.group[place], nested)
    losses = task.row_losses(targets, probabilities)
    found: dict[str, dict[str, Any]] = {OOF: score(oof)}
    found[OOF]["fold_log_loss"] = {
        str(fold): float(losses[folds.fold[place] == fold].mean())
        for fold in np.unique(folds.fold[place])
    }
    reports = [report(oof, thresholds).assign(part=OOF)]
    dev = read_dev(table, folds, columns)
    if dev is not None:
        part = scored(task, *dev, thresholds)
        found[DEV] = score(part)
        reports.append(report(part, thresholds).assign(part=DEV))
    if task.symmetric:
        found[OOF]["swap_error"] = swap_error(task, table)
    for name, known in known_judge(task, layout, table).items():
        found.setdefault(name, {})[KNOWN_JUDGE] = known
    chosen = {} if task.exclusive else dict(zip(task.classes, thresholds.tolist(), strict=True))
    return Sheet(
        found,
        chosen,
        losses_table(folds, place, losses),
        pd.concat(reports),
        confusion(task, oof.actual, oof.given),
        reliability(targets, probabilities, task.classes, oof.group),
    )


def known_judge(
    task: Task, layout: Layout, predictions: pd.DataFrame
) -> dict[str, dict[str, float]]:
    """The regret of the out-of-fold and the test rows, if the rows carry true probabilities."""
    truth_columns = columns_with(layout.rows, TRUTH)
    if not truth_columns:
        return {}
    table = read_table(layout.rows, [ID, *truth_columns])
    truth = by_id(table, predictions[ID], layout.rows)[truth_columns].to_numpy()
    p = predictions[[PREDICTION + name for name in task.classes]].to_numpy()
    rows = {part: (predictions[PART] == part).to_numpy() for part in (OOF, TEST)}
    return {part: regret(task, truth[own], p[own]) for part, own in rows.items() if own.any()}


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


def main(*, dataset: str) -> None:
    """Score the predictions of all models of a dataset."""
    layout = Layout(dataset)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    for model in judged_models(layout):
        sheet = judge(task, folds, layout, model)
        sheet.write(layout, model)
        if rows := sheet.scores[OOF][ROWS.key]:
            measures = (sheet.scores[OOF][key] for key in ("log_loss", "macro_f1"))
            log.info("score: %s: log loss %.4f, macro-F1 %.4f on %d rows", model, *measures, rows)
    mirror(dataset)


if __name__ == "__main__":
    run(main)
