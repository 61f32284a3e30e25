"""Audits with the names of the models that answered: how a score shifts, what features know.

Names group rows; no model ever sees them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.folds import NO_FOLD, Folds, Indices
from stages.core.matrices import Block, Floats
from stages.core.tables import MODEL_A, MODEL_B

FEWEST = 20  # rows to train on, or answers of a model to be told apart

Names = npt.NDArray[Any]
Losses = Callable[[Indices, Indices], Floats]  # (train rows, held rows) -> loss of each held row


@dataclass(frozen=True)
class Trial:
    """Held rows; rows to train on in which none of their models answered; as many of any model.

    No prompt group of a held row is among those to train on.
    """

    held: Indices
    unseen: Indices
    control: Indices


def group_models(names: pd.DataFrame, n: int) -> pd.DataFrame:
    """The number of each model's group, columns as in `names`: groups of about equal many answers.

    The most frequent first, each to the group with fewest answers; equal ones by name.
    """
    counts = pd.Series(names.to_numpy().ravel()).value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    size = [0] * n
    number = {}
    for name in order:
        number[name] = size.index(min(size))
        size[number[name]] += int(counts[name])
    groups: pd.DataFrame = names.apply(lambda column: column.map(number))
    return groups


def trials(names: pd.DataFrame, group: npt.NDArray[Any], n: int, seed: int) -> Iterator[Trial]:
    """Trials that hold each row out once, with all models of the groups of both its answers.

    `names` are of the rows that have both, `group` their prompt groups `(n_rows,)`; there are `n`
    groups of models.
    """
    numbers = group_models(names[[MODEL_A, MODEL_B]], n)
    low, high = numbers.min(axis=1).to_numpy(), numbers.max(axis=1).to_numpy()
    rng = np.random.default_rng(seed)
    for one, other in combinations_with_replacement(range(n), 2):
        held = (low == one) & (high == other)
        apart = ~np.isin(group, group[held])
        unseen = np.flatnonzero(apart & ~numbers.isin([one, other]).any(axis=1).to_numpy())
        if not held.any() or len(unseen) < FEWEST:
            continue
        control = np.sort(rng.choice(np.flatnonzero(apart), len(unseen), replace=False))
        yield Trial(np.flatnonzero(held), unseen, control)


def shift(
    names: pd.DataFrame, folds: Folds, losses: Losses, n: int, seed: int
) -> tuple[Floats, Floats, float]:
    """Losses of rows whose models were not seen, and of the same rows by the control.

    `names` are None where unknown, rows as in `folds`; `n` is the number of groups of models. Both
    losses are `(n_rows,)`, NaN for rows that no trial held out; last comes the mean number of rows
    that a trial was fitted on.
    """
    known = np.flatnonzero(names.notna().all(axis=1))
    unseen, control = np.full((2, len(names)), np.nan)
    sizes = []
    n = min(n, len(set(names.iloc[known].to_numpy().ravel())))
    for trial in trials(names.iloc[known], folds.group[known], n, seed) if n > 2 else ():
        held = known[trial.held]
        unseen[held] = losses(known[trial.unseen], held)
        control[held] = losses(known[trial.control], held)
        sizes.append(len(trial.unseen))
    return unseen, control, float(np.mean(sizes)) if sizes else 0.0


def tell_apart(names: pd.DataFrame, folds: Folds, blocks: tuple[Block, Block]) -> dict[str, float]:
    """How often the features of an answer tell which model wrote it, out of fold.

    By linear discriminants with shrinkage (Ledoit and Wolf 2004) on the answers of models with at
    least 20. `right_by_chance` is the share of the most frequent one. Style tells a good deal. That
    is no leak, since it stands in the text; features that were told the name would know nearly all.

    Returns:
        `answers`, how many there are, `right` and `right_by_chance`; nothing if fewer than two
        models have 20 answers.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    name = np.concatenate([names[MODEL_A], names[MODEL_B]])
    counts = pd.Series(name).value_counts()
    rows = np.flatnonzero(np.isin(name, counts.index[counts >= FEWEST].astype(str)))
    if len(set(name[rows])) < 2:
        return {}
    X = np.vstack([block.X for block in blocks])[rows].astype(np.float64)
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-7)
    fold, y = np.tile(folds.fold, 2)[rows], name[rows].astype(str)
    hit = np.zeros(len(y), bool)
    for number in np.unique(fold[fold != NO_FOLD]):
        held = fold == number
        if len(set(y[~held])) > 1:
            machine = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            hit[held] = machine.fit(X[~held], y[~held]).predict(X[held]) == y[held]
    return {
        "answers": float(len(y)),
        "right": float(hit.mean()),
        "right_by_chance": float(pd.Series(y).value_counts(normalize=True).max()),
    }
