r"""Score the predictions of one model.

In: predictions, folds (targets), and rows where the judge is known. Out: flat metrics of the
out-of-fold rows, and two small tables for plots. Where the rows carry the true probabilities
(`truth_<class>`: the demo), the regret is the expected log loss under them beyond the best
possible.

    python -m stages.score --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --rows data/demo/rows.parquet \
        --predictions data/demo/predictions/svm.parquet --metrics metrics/demo/svm.json \
        --confusion-out metrics/demo/confusion/svm.csv \
        --reliability-out metrics/demo/reliability/svm.csv
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from stages.base.cli import run
from stages.base.errors import InputError
from stages.base.folds import read_folds
from stages.base.predictions import OOF
from stages.base.tables import (
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
from stages.base.tasks import Floats, Preference, read_task
from stages.base.tracking import mirror

log = logging.getLogger("verdict")

BINS = 15  # as in Guo et al. (2017)
SMALLEST = 1e-15  # probabilities are clipped to this before their logarithm is taken


def score(targets: Floats, probabilities: Floats) -> dict[str, float]:
    """Metrics of probabilities `(n_rows, n_classes)` under (soft) targets of the same shape.

    Hard metrics compare the most probable classes. Rare classes never make a metric NaN: precision
    and recall of a class that is never predicted, or never right, are 0; AUC leaves out classes
    without both kinds of rows.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

    y, predicted = targets.argmax(axis=1), probabilities.argmax(axis=1)
    labels = np.arange(targets.shape[1])
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, predicted, labels=labels, average="macro", zero_division=0
    )
    losses = row_losses(targets, probabilities)
    two_sided = [k for k in labels if 0 < np.count_nonzero(y == k) < len(y)]
    aucs = [roc_auc_score(y == k, probabilities[:, k]) for k in two_sided]
    return {
        "rows": float(len(y)),
        "log_loss": float(losses.mean()),
        "log_loss_standard_error": float(losses.std(ddof=1) / np.sqrt(len(losses))),
        "accuracy": float(accuracy_score(y, predicted)),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "brier": float(np.square(targets - probabilities).sum(axis=1).mean()),
        "expected_calibration_error": calibration_error(targets, probabilities),
        "macro_auc": float(np.mean(aucs)) if aucs else 0.5,
    }


def row_losses(targets: Floats, probabilities: Floats) -> Floats:
    """Log loss of each row, `(n_rows,)`."""
    losses: Floats = -(targets * np.log(np.clip(probabilities, SMALLEST, 1))).sum(axis=1)
    return losses


def calibration_error(targets: Floats, probabilities: Floats) -> float:
    """Expected calibration error of the most probable class, 15 bins of equal width."""
    top = probabilities.argmax(axis=1)
    confidence = np.take_along_axis(probabilities, top[:, None], axis=1).ravel()
    hit = np.take_along_axis(targets, top[:, None], axis=1).ravel()
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(place, confidence - hit, minlength=BINS)
    return float(np.abs(gap).sum() / len(top))


def regret(truth: Floats, probabilities: Floats) -> dict[str, float]:
    """Expected log loss under the true probabilities, the best possible one, and the difference."""
    expected, best = row_losses(truth, probabilities).mean(), row_losses(truth, truth).mean()
    return {
        "expected_log_loss": float(expected),
        "best_log_loss": float(best),
        "regret": float(expected - best),
    }


def confusion(targets: Floats, probabilities: Floats, classes: tuple[str, ...]) -> pd.DataFrame:
    """Rows of each actual and predicted class, and their share of the actual class."""
    n = len(classes)
    cells = targets.argmax(axis=1) * n + probabilities.argmax(axis=1)
    counts = np.bincount(cells, minlength=n * n)
    totals = np.repeat(counts.reshape(n, n).sum(axis=1), n)
    return pd.DataFrame(
        {
            "actual": np.repeat(classes, n),
            "predicted": np.tile(classes, n),
            "rows": counts,
            "share": counts / np.maximum(totals, 1),
        }
    )


def reliability(targets: Floats, probabilities: Floats, classes: tuple[str, ...]) -> pd.DataFrame:
    """For each class and bin of its predicted probability: mean prediction and actual share."""
    tables = []
    for k, name in enumerate(classes):
        place = np.minimum((probabilities[:, k] * BINS).astype(int), BINS - 1)
        bins = pd.DataFrame({"predicted": probabilities[:, k], "actual": targets[:, k]})
        means = bins.groupby(place).agg(
            predicted=("predicted", "mean"), actual=("actual", "mean"), rows=("actual", "size")
        )
        tables.append(means.assign(**{"class": name}))
    return pd.concat(tables)[["class", "predicted", "actual", "rows"]]


def swap_error(task: Preference, predictions: pd.DataFrame) -> float:
    """Largest difference between a prediction and that for the exchanged row, exchanged back."""
    straight, swapped = (
        predictions[[prefix + name for name in task.classes]].to_numpy()
        for prefix in (PREDICTION, SWAPPED)
    )
    return float(np.abs(straight - task.swap_classes(swapped)).max())


def main(
    *,
    dataset: str,
    labels: Path,
    folds: Path,
    rows: Path,
    predictions: Path,
    metrics: Path,
    confusion_out: Path,
    reliability_out: Path,
) -> None:
    """Score one model's out-of-fold predictions."""
    task = read_task(labels)
    stored = read_folds(folds, task)
    table = read_table(predictions)
    columns = [PREDICTION + name for name in task.classes]
    oof = table[table[PART] == OOF]
    place = pd.Index(stored.ids).get_indexer(pd.Index(oof[ID]))
    if not len(oof) or (place < 0).any():
        raise InputError(f"{predictions}: got {len(oof)} out-of-fold rows; expected ids of {folds}")
    targets, probabilities = stored.targets[place], oof[columns].to_numpy()
    found = score(targets, probabilities)
    losses = row_losses(targets, probabilities)
    for fold in np.unique(stored.fold[place]).tolist():
        found[f"log_loss_fold{fold}"] = float(losses[stored.fold[place] == fold].mean())
    if task.symmetric:
        found["swap_error"] = swap_error(task, table)
    truth_columns = columns_with(rows, TRUTH)
    if truth_columns:
        truth = by_id(read_table(rows, [ID, *truth_columns]), table[ID], rows)
        for part, selected in (("", table[PART] == OOF), ("test_", table[PART] != OOF)):
            known = regret(
                truth.loc[selected, truth_columns].to_numpy(),
                table.loc[selected, columns].to_numpy(),
            )
            found |= {part + name: value for name, value in known.items()}
    write_json(found, metrics)
    mirror("score", dataset, params={"model": predictions.stem}, metrics=found)
    write_table(confusion(targets, probabilities, task.classes), confusion_out)
    write_table(reliability(targets, probabilities, task.classes), reliability_out)
    log.info("score: %s: log loss %.4f on %d rows", predictions.stem, found["log_loss"], len(oof))


if __name__ == "__main__":
    run(main)
