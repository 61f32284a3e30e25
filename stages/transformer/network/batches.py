"""Batches of sequences of similar length, within a budget of padded tokens.

The cost of a batch is its number of sequences times the length of the longest one. Sorting rows by
length within pools of many batches leaves little padding and keeps the batches random. An optimiser
step always has `batch_size` rows; to save memory it is computed in micro-batches.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

POOL = 50  # batches per pool, whose rows are sorted by length

Indices: TypeAlias = npt.NDArray[np.intp]
Lengths: TypeAlias = npt.NDArray[np.integer[Any]]
Micro: TypeAlias = npt.NDArray[np.intp]  # (n_sequences, 2): row and order


@dataclass(frozen=True)
class OptimizerStep:
    """The rows of one optimiser step `(n_rows,)`, and its micro-batches for each process.

    `micro[process]` holds arrays `(n_sequences, 2)` of (row, order). Each process has the same
    number of them, so the last ones may be empty. All orders of a row go to the same process.
    """

    rows: Indices
    micro: tuple[tuple[Micro, ...], ...]


def inference_batches(lengths: Lengths, tokens_per_batch: int) -> list[Indices]:
    """Batches of sequences, the longest first, so that too little memory shows at once.

    Args:
        lengths: Of the sequences, `(n_sequences,)`.
        tokens_per_batch: The most padded tokens in a batch; a longer sequence is a batch of its
            own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(int(lengths[order[start]]), 1))
        batches.append(order[start : start + size])
        start += size
    return batches


def epoch_plan(
    lengths: Lengths,
    batch_size: int,
    tokens_per_batch: int,
    n_processes: int,
    generator: np.random.Generator,
) -> list[OptimizerStep]:
    """The optimiser steps of an epoch: each row once, in random batches of rows of similar length.

    Every process makes the whole plan, from a generator in the same state, and takes its part.

    Args:
        lengths: Of the sequences, `(n_rows, n_orders)`.
        batch_size: Rows per optimiser step, over all processes; the last step may have fewer.
        tokens_per_batch: The most padded tokens in a micro-batch; a longer sequence is one of its
            own.
        n_processes: The number of processes that share the work.
        generator: Shuffles the rows and the batches.
    """
    longest = lengths.max(axis=1, initial=0)
    shuffled = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(shuffled), POOL * batch_size):
        pool = shuffled[start : start + POOL * batch_size]
        pool = pool[np.argsort(-longest[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    return [
        cut(batches[i], lengths, tokens_per_batch, n_processes)
        for i in generator.permutation(len(batches))
    ]


def cut(rows: Indices, lengths: Lengths, tokens_per_batch: int, n_processes: int) -> OptimizerStep:
    """Deal `rows`, longest first, to the processes in turn, and cut each share."""
    shares = [
        _micro_batches(rows[process::n_processes], lengths, tokens_per_batch)
        for process in range(n_processes)
    ]
    most = max(map(len, shares))
    empty = np.zeros((0, 2), np.intp)
    return OptimizerStep(
        rows, tuple(tuple(share + [empty] * (most - len(share))) for share in shares)
    )


def _micro_batches(rows: Indices, lengths: Lengths, tokens_per_batch: int) -> list[Micro]:
    """Cut `rows`, longest first, into micro-batches of whole rows, or of parts of a long row."""
    n_orders = lengths.shape[1]
    batches, start = [], 0
    while start < len(rows):
        padded = max(int(lengths[rows[start]].max()), 1)
        n_rows = max(1, tokens_per_batch // (padded * n_orders))
        taken = rows[start : start + n_rows]
        sequences = np.column_stack(
            [np.repeat(taken, n_orders), np.tile(np.arange(n_orders), len(taken))]
        )
        size = max(1, tokens_per_batch // padded)
        batches += [sequences[at : at + size] for at in range(0, len(sequences), size)]
        start += n_rows
    return batches
