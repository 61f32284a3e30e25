"""Cross-fitting: one model a fold, each row predicted by models that never saw its group.

Held-out rows are predicted by the model of their fold; rows outside the train part by the mean of
all folds' models.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import save_file

from stages.base import parallel
from stages.base.folds import Folds, Indices
from stages.base.params import Params
from stages.base.tables import atomic
from stages.base.tasks import Floats, Matrix, Task
from stages.models._design import Encoder, FeatureSets, SourceParams
from stages.models._sample import Balance, Sample, make_sample


class Model(Protocol):
    """A fitted classifier."""

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""

    def save(self, stem: Path) -> None:
        """Write the model as `stem` with a suffix of its format."""


Fit = Callable[[Sample, int], Model]  # (sample, seed) -> model


@dataclass(frozen=True)
class FoldFit:
    """One fold: encoder, model, the rows that it predicts, and their probabilities."""

    encoder: Encoder
    model: Model
    rows: Indices
    probabilities: Floats
    swapped: Floats
    predict_seconds: float


@dataclass(frozen=True)
class CrossFit:
    """All folds' models, and predictions `(n_rows, n_classes)` for all rows.

    `swapped` are the predictions for the rows with A and B exchanged, where the task has a swap.
    """

    task: Task
    fits: Mapping[int, FoldFit]
    probabilities: Floats
    swapped: Floats

    @property
    def predict_ms_per_row(self) -> float:
        """Time that all folds' models together take for a row, features at hand."""
        return 1e3 * sum(fit.predict_seconds / len(fit.rows) for fit in self.fits.values())

    def log_loss(self, folds: Folds) -> float:
        """Mean out-of-fold log loss."""
        rows = folds.judged
        return float(self.task.row_losses(folds.targets[rows], self.probabilities[rows]).mean())

    def save(self, folder: Path, params: Params) -> None:
        """Write models and encoders of all folds, and the params behind them, as a folder."""
        with atomic(folder) as temporary:
            temporary.mkdir()
            (temporary / "params.json").write_text(
                params.model_dump_json(indent=2) + "\n", encoding="utf-8"
            )
            for number, fit in self.fits.items():
                fit.model.save(temporary / f"fold{number}")
                save_file(dict(fit.encoder.state), temporary / f"fold{number}.encoder.safetensors")


def crossfit(
    task: Task,
    folds: Folds,
    sets: FeatureSets,
    sources: Mapping[str, SourceParams],
    fit: Fit,
    *,
    balance: Balance,
    seed: int,
    at_once: int | None = None,
) -> CrossFit:
    """Fit a model a fold, side by side (`at_once` bounds how many), and predict all rows."""

    def one(fold: int) -> FoldFit:
        train = folds.train(fold)
        encoder = Encoder.fit(task, sources, sets, train)
        sample = make_sample(
            task,
            encoder(sets, train),
            folds.targets[train],
            folds.group[train],
            balance,
            seed + fold,
        )
        model = fit(sample, seed + fold)
        rows = np.concatenate([folds.held(fold), folds.unseen])
        started = time.perf_counter()
        probabilities = predict(task, encoder, model, sets, rows)
        seconds = time.perf_counter() - started
        swapped = probabilities
        if task.symmetric:
            exchanged = {name: task.swap_blocks(blocks) for name, blocks in sets.items()}
            swapped = predict(task, encoder, model, exchanged, rows)
        return FoldFit(encoder, model, rows, probabilities, swapped, seconds)

    fits = dict(zip(folds.numbers, parallel.run(one, folds.numbers, at_once=at_once), strict=True))
    return CrossFit(
        task,
        fits,
        _gather(folds, fits, {k: f.probabilities for k, f in fits.items()}),
        _gather(folds, fits, {k: f.swapped for k, f in fits.items()}),
    )


def predict(task: Task, encoder: Encoder, model: Model, sets: FeatureSets, rows: Indices) -> Floats:
    """Probabilities `(len(rows), n_classes)`: the mean over both orders of a symmetric task."""
    design = encoder(sets, rows)
    straight = model.predict(design.X)
    if not task.symmetric:
        return straight
    turned = model.predict(task.swap_design(design.X, design.n_odd))
    return (straight + task.swap_classes(turned)) / 2


def _gather(folds: Folds, fits: Mapping[int, FoldFit], values: Mapping[int, Floats]) -> Floats:
    n_classes = folds.targets.shape[1]
    total = np.zeros((len(folds.ids), n_classes))
    for fold, fit in fits.items():
        total[fit.rows] += values[fold]
    total[folds.unseen] /= len(fits)
    return total
