"""From feature sets to design matrices: what is fitted on a fold's training rows is fitted here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from stages.core.folds import Indices
from stages.core.idf import fit_idf, weigh
from stages.core.matrices import Block, Design, Floats, Matrix, grow
from stages.core.params import Params
from stages.core.tasks import Part, Task

FeatureSets = Mapping[str, Mapping[str, Block]]  # feature set -> text column -> block

ROWS = 8192  # encoded at a time: bounds the memory, changes no result
LARGEST = 3.0  # standard deviations; what lies further out is pulled in (docs/log.md)


class SourceParams(Params):
    """How a model takes a feature set: parts of the pair (or `text`), scaling, a factor for all.

    Null `parts` are the usual ones of the task: the difference of a pair, or the text.
    `standard` scales a column to variance 1 on the training rows (and moves it to mean 0 where it
    is dense and even: the mean of an odd column is 0 by symmetry). Under an L2 penalty a larger
    `weight` means that the set is penalised less.
    """

    parts: Annotated[tuple[Part, ...], Field(min_length=1)] | None = None
    scale: Literal["none", "standard"] = "none"
    weight: Annotated[float, Field(gt=0)] = 1.0

    def parts_of(self, task: Task) -> tuple[Part, ...]:
        """The parts to build for a task."""
        return task.parts[:1] if self.parts is None else self.parts


class ScaledSource(SourceParams):
    """A feature set that is scaled unless the params say otherwise."""

    scale: Literal["none", "standard"] = "standard"


@dataclass(frozen=True)
class Encoder:
    """Makes design matrices; `state` holds what was fitted: idf, means and scales."""

    task: Task
    sources: Mapping[str, SourceParams]
    state: Mapping[str, Floats]

    @classmethod
    def fit(
        cls, task: Task, sources: Mapping[str, SourceParams], sets: FeatureSets, rows: Indices
    ) -> "Encoder":
        """Fit on the rows `rows` of the feature sets."""
        state: dict[str, Floats] = {}
        taken = {name: source for name, source in sources.items() if sets[name]}
        for name, source in taken.items():
            if all(sparse.issparse(block.X) for block in sets[name].values()):
                state[f"{name}.idf"] = fit_idf((block.X for block in sets[name].values()), rows)
            if source.scale == "standard":
                design = _design(task, source, sets[name], rows, state.get(f"{name}.idf"))
                state[f"{name}.mean"], state[f"{name}.scale"] = _moments(design)
        return cls(task, taken, state)

    def __call__(self, sets: FeatureSets, rows: Indices) -> Design:
        """The design of the rows `rows`: dense if all sets are, float32."""
        first = self._piece(sets, rows[:ROWS])
        starts = range(ROWS, len(rows), ROWS)
        others = (self._piece(sets, rows[start : start + ROWS]).X for start in starts)
        return replace(first, X=grow(first.X, others))

    def _piece(self, sets: FeatureSets, rows: Indices) -> Design:
        designs = [
            self._one(name, source, sets[name], rows)
            for name, source in self.sources.items()
            if sets[name]
        ]
        joined = designs[0]
        for design in designs[1:]:
            joined = joined.join(design)
        return joined

    def _one(
        self, name: str, source: SourceParams, blocks: Mapping[str, Block], rows: Indices
    ) -> Design:
        design = _design(self.task, source, blocks, rows, self.state.get(f"{name}.idf"))
        X = design.X
        if source.scale == "standard":
            X = _standardise(X, self.state[f"{name}.mean"], self.state[f"{name}.scale"])
        X = X.astype(np.float32, copy=False)
        if source.weight != 1:
            X = X * np.float32(source.weight)
        return Design(X, design.n_odd)


def _design(
    task: Task,
    source: SourceParams,
    blocks: Mapping[str, Block],
    rows: Indices,
    idf: Floats | None,
) -> Design:
    taken, parts = {}, source.parts_of(task)
    for key in task.keys(parts):
        if key in blocks:
            block = Block(blocks[key].X[rows], blocks[key].names)
            taken[key] = block if idf is None else Block(weigh(block, idf), block.names)
    return task.design(taken, parts)


def _moments(design: Design) -> tuple[Floats, Floats]:
    """Mean (0 for odd and sparse columns) and spread around it; 1 for a constant column."""
    X = design.X
    mean: npt.NDArray[np.float64] = np.zeros(X.shape[1])
    if sparse.issparse(X):
        square = np.asarray(X.multiply(X).mean(axis=0)).ravel()
    else:
        mean[design.n_odd :] = X[:, design.n_odd :].mean(axis=0, dtype=np.float64)
        square = np.square(X - mean).mean(axis=0, dtype=np.float64)
    scale = np.sqrt(square)
    return mean.astype(np.float32), np.where(scale > 1e-7, scale, 1).astype(np.float32)


def _standardise(X: Matrix, mean: Floats, scale: Floats) -> Matrix:
    if sparse.issparse(X):
        return (X @ sparse.diags_array(1 / scale)).tocsr()
    return np.clip((X - mean) / scale, -LARGEST, LARGEST)
