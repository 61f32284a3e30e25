"""Cross-fitting: one model a fold, each row predicted by models that never saw its group.

Held-out rows are predicted by the model of their fold; rows outside the train part by the mean of
all folds' models.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stages.core.errors import InputError
from stages.core.folds import Folds, Indices
from stages.core.matrices import Floats, n_bytes
from stages.core.params import Params, check_params
from stages.core.seeds import by_number
from stages.core.tables import atomic, read_json
from stages.core.tasks import Task
from stages.models.fitting.design import Encoder, FeatureSets, SourceParams
from stages.models.fitting.model import Model, Runs
from stages.models.fitting.sample import Balance, make_sample
from stages.models.fitting.search import ModelParams
from stages.models.fitting.seeds import Fit, Fitted, load_seeds
from stages.runtime import parallel

WORTH_PROCESSES = 2000  # rows: two processes take as long to start as the folds of fewer
COPIES = 2  # of the stored feature sets that a fold holds: its design, and what the fit makes of it


@dataclass(frozen=True)
class FoldFit:
    """One fold: encoder, model, the rows that it predicts, and their probabilities."""

    encoder: Encoder
    model: Fitted
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

    def row_losses(self, folds: Folds) -> Floats:
        """Out-of-fold log loss of each judged row, `(n_judged,)`."""
        rows = folds.judged
        return self.task.row_losses(folds.targets[rows], self.probabilities[rows])

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


@dataclass(frozen=True)
class Recipe:
    """A model to cross-fit: the feature sets that it takes, how it is fitted, on which sample."""

    sources: Mapping[str, SourceParams]
    fit: Fit
    balance: Balance
    seed: int


def crossfit(
    task: Task,
    folds: Folds,
    sets: FeatureSets,
    sources: Mapping[str, SourceParams],
    fit: Fit,
    *,
    balance: Balance,
    seed: int,
    runs: Runs = "threads",
) -> CrossFit:
    """Fit a model a fold, as `crossfits` does, and predict all rows."""
    recipe = Recipe(sources, fit, balance, seed)
    (fitted,) = crossfits(task, folds, sets, [recipe], runs=runs)
    return fitted


def crossfits(
    task: Task,
    folds: Folds,
    sets: FeatureSets,
    recipes: Iterable[Recipe],
    *,
    runs: Runs = "threads",
) -> Iterator[CrossFit]:
    """Cross-fit the recipes, in their order, their folds side by side as far as memory allows.

    Processes are started only where the rows are many enough to be worth it.
    """
    processes = runs == "processes" and len(folds.ids) >= WORTH_PROCESSES

    def one(job: tuple[Recipe, int]) -> FoldFit:
        recipe, fold = job
        train = folds.train(fold)
        encoder = Encoder.fit(task, recipe.sources, sets, train)
        sample = make_sample(
            task,
            encoder(sets, train),
            folds.targets[train],
            folds.group[train],
            recipe.balance,
            recipe.seed + fold,
        )
        model = recipe.fit(sample, recipe.seed + fold)
        rows = np.concatenate([folds.held(fold), folds.unseen])
        started = time.perf_counter()
        probabilities = predict(task, encoder, model, sets, rows)
        seconds = time.perf_counter() - started
        swapped = probabilities
        if task.symmetric:
            exchanged = {name: task.swap_blocks(blocks) for name, blocks in sets.items()}
            swapped = predict(task, encoder, model, exchanged, rows)
        return FoldFit(encoder, model, rows, probabilities, swapped, seconds)

    jobs = ((recipe, fold) for recipe in recipes for fold in folds.numbers)
    found = (
        (one(job) for job in jobs)
        if runs == "spread"
        else parallel.stream(one, jobs, processes=processes, at_once=at_once(sets))
    )
    with closing(found):
        while fits := dict(zip(folds.numbers, islice(found, len(folds.numbers)), strict=False)):
            yield CrossFit(
                task,
                fits,
                _gather(folds, fits, {k: f.probabilities for k, f in fits.items()}),
                _gather(folds, fits, {k: f.swapped for k, f in fits.items()}),
            )


def at_once(sets: FeatureSets) -> int:
    """How many folds may hold their designs at the same time: in an eighth of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stored = sum(n_bytes(block.X) for blocks in sets.values() for block in blocks.values())
    return max(1, int(memory / 8 / (COPIES * max(stored, 1))))


@dataclass(frozen=True)
class FoldModels:
    """Stored models and encoders, one a fold, to predict rows that none of them saw."""

    task: Task
    models: Sequence[tuple[Encoder, Fitted]]

    def predict(self, sets: FeatureSets) -> Floats:
        """Probabilities `(n_rows, n_classes)` of all rows of `sets`: the mean over the folds."""
        rows = np.arange(n_rows(sets))
        found = parallel.run(lambda each: predict(self.task, *each, sets, rows), self.models)
        mean: Floats = sum(found, np.zeros_like(found[0])) / len(found)
        return mean

    @classmethod
    def load(cls, folder: Path, task: Task, model: Model[Any]) -> "FoldModels":
        """Read what `CrossFit.save` wrote.

        Raises:
            InputError: The folder is damaged.
        """
        params = stored_params(folder, model.params)
        suffix = ".encoder.safetensors"
        encoders = sorted(folder.glob(f"*{suffix}"), key=by_number)
        if not encoders:
            raise InputError(f"{folder}: got no *{suffix}; expected one a fold")
        try:
            models = [
                (
                    Encoder(task, params.sources(), load_file(path)),
                    load_seeds(folder / path.name.removesuffix(suffix), task, params, model.load),
                )
                for path in encoders
            ]
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"{folder}: cannot be read: {error}; expected fitted models"
            ) from error
        return cls(task, models)


def stored_params(folder: Path, kind: type[ModelParams]) -> ModelParams:
    """The params that `CrossFit.save` wrote: all of them, as today's defaults may be others.

    Raises:
        InputError: They are missing, damaged, or those of other code.
    """
    path = folder / "params.json"
    content = read_json(path)
    if missing := [name for name in kind.model_fields if name not in content]:
        raise InputError(f"{path}: missing params {missing}; expected all that the model has")
    return check_params(kind, content, path, folder.name)


def n_rows(sets: FeatureSets) -> int:
    """The number of rows of feature sets."""
    blocks = next(iter(sets.values()))
    return int(next(iter(blocks.values())).X.shape[0])


def predict(
    task: Task, encoder: Encoder, model: Fitted, sets: FeatureSets, rows: Indices
) -> Floats:
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
