"""The mean over models that differ by their seed alone: it varies less than any of them.

Boosters and networks draw rows, columns and first weights; on two thousand rows the choice of the
seed moves the log loss as much as most params do (docs/log.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import numpy as np
from pydantic import Field

from stages.core.matrices import Floats, Matrix
from stages.core.seeds import nth_name, nth_seed
from stages.core.tasks import Task
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams


class Fitted(Protocol):
    """A fitted classifier."""

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""

    def save(self, stem: Path) -> None:
        """Write the model as `stem` with a suffix of its format."""


Fit = Callable[[Sample, int], Fitted]  # (sample, seed) -> model
Load = Callable[[Path, Task], Fitted]  # (stem, task) -> what `Fitted.save` wrote
M = TypeVar("M", bound=ModelParams)


class SeededParams(ModelParams):
    """What models that draw have: how many of them are fitted and averaged."""

    seeds: Annotated[int, Field(ge=1)] = 1

    def all_seeds(self, first: int) -> list[int]:
        """Those of the models, from that of the `first` one on."""
        return [nth_seed(first, number) for number in range(self.seeds)]


@dataclass(frozen=True)
class Mean:
    """Models whose probabilities are averaged."""

    models: tuple[Fitted, ...]

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        mean: Floats = np.mean([model.predict(X) for model in self.models], axis=0)
        return mean

    def save(self, stem: Path) -> None:
        """Write each model as `<stem>.seed<number>`."""
        for number, model in enumerate(self.models):
            model.save(_stem(stem, number))


def with_params(fit: Callable[[Sample, M, int], Fitted], params: M) -> Fit:
    """A model's `fit` with these params."""
    return lambda sample, seed: fit(sample, params, seed)


def mean_of(models: Sequence[Fitted]) -> Fitted:
    """One model stays as it is."""
    return Mean(tuple(models)) if len(models) > 1 else models[0]


def load_seeds(stem: Path, task: Task, params: ModelParams, load: Load) -> Fitted:
    """Read what `mean_of` the models of all seeds wrote."""
    n = params.seeds if isinstance(params, SeededParams) else 1
    if n == 1:
        return load(stem, task)
    return Mean(tuple(load(_stem(stem, number), task) for number in range(n)))


def _stem(stem: Path, number: int) -> Path:
    return stem.with_name(nth_name(stem.name, number))
