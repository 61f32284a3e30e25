"""Scores and probabilities of rows, on one process or several."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.core.errors import InputError
from stages.core.folds import Indices
from stages.core.matrices import Floats
from stages.core.tasks import Task
from stages.transformer.network.batches import inference_batches
from stages.transformer.network.devices import free_memory, is_out_of_memory
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.tokens import Tokens

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor

    from stages.transformer.network.network import Classifier

log = logging.getLogger("verdict")

TENSOR_CORE, FLEX_BLOCK = 8, 64  # tokens
INFERENCE = 4  # times as many tokens fit on a GPU without gradients, at least
BUCKET = 2**25  # numbers that are summed over the processes at a time


@dataclass(frozen=True)
class Data:
    """All rows of a dataset, in one order: their tokens, and targets `(n_rows, n_classes)`."""

    task: Task
    tokens: Tokens
    targets: Floats

    def __post_init__(self) -> None:
        expected = 2 if self.task.symmetric else 1
        if self.tokens.n_orders != expected:
            raise InputError(
                f"tokens: orders of a row: got {self.tokens.n_orders}; expected {expected} "
                f"for {self.task.kind}"
            )


def score(
    classifier: Classifier, tokens: Tokens, sequences: npt.NDArray[np.intp], device: torch.device
) -> Tensor:
    """Scores `(n_sequences, n_classes)` in fp32 of (row, order) pairs `(n_sequences, 2)`."""
    ids, mask = tokens.pad(sequences, multiple=padding(classifier, device))
    padded = None if mask.all() else to_device(mask, device)  # fused attention wants no mask
    scores: Tensor = classifier(to_device(ids, device), padded)
    return scores


def padding(classifier: Classifier, device: torch.device) -> int:
    """What lengths are padded to a multiple of: tensor cores want 8, blocks of flex attention more.

    It also leaves fewer shapes to compile for. CPUs gain nothing by it.
    """
    if device.type != "cuda":
        return 1
    flexible = classifier.backbone.config._attn_implementation == "flex_attention"
    return FLEX_BLOCK if flexible else TENSOR_CORE


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy the array to the device; a GPU keeps computing meanwhile."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def sum_over_processes(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace each tensor by its sum over the processes.

    One plain sum per optimiser step, rather than DistributedDataParallel, lets each process have
    its own number of micro-batches, and each phase its own trainable parameters.
    """
    import torch

    if accelerator.num_processes == 1:
        return
    bucket: list[Tensor] = []
    todo = list(tensors)
    for number, tensor in enumerate(todo, start=1):
        bucket.append(tensor)
        if number == len(todo) or sum(each.numel() for each in bucket) >= BUCKET:
            flat = accelerator.reduce(torch.cat([each.flatten() for each in bucket]), "sum")
            parts = flat.split([each.numel() for each in bucket])
            for each, part in zip(bucket, parts, strict=True):
                each.copy_(part.view_as(each))
            bucket = []


def predict(
    classifier: Classifier,
    data: Data,
    rows: Indices,
    params: FinetuneParams,
    accelerator: Accelerator,
) -> npt.NDArray[np.float32]:
    """Scores `(len(rows), n_orders, n_classes)`; the processes share the work.

    The last bits of a score depend on the other sequences of its batch. Batches therefore depend
    only on the set of sequences, never on the order of the rows or of the answers in a pair.
    """
    distinct, where = distinct_sequences(data.tokens, rows)
    lengths = data.tokens.lengths()[distinct[:, 0], distinct[:, 1]]
    budget = params.tokens_per_batch * (INFERENCE if accelerator.device.type == "cuda" else 1)
    classifier.eval()
    while True:
        try:
            scores = _scores(classifier, data, distinct, lengths, budget, accelerator)
            break
        except (MemoryError, RuntimeError) as error:
            alone = accelerator.num_processes == 1
            if not is_out_of_memory(error) or not alone or budget <= lengths.max(initial=0):
                raise
        # behind the block: the error holds the activations
        budget //= 2
        log.warning("predict: out of memory: batches of %d tokens from here on", budget)
        free_memory(accelerator.device)
    sum_over_processes([scores], accelerator)
    by_row: npt.NDArray[np.float32] = scores.cpu().numpy()[where]
    return by_row


def _scores(
    classifier: Classifier,
    data: Data,
    distinct: npt.NDArray[np.intp],
    lengths: npt.NDArray[np.int64],
    budget: int,
    accelerator: Accelerator,
) -> Tensor:
    """Scores `(n_sequences, n_classes)` of this process' share of the sequences, 0 elsewhere."""
    import torch

    scores = torch.zeros(len(distinct), len(data.task.classes), device=accelerator.device)
    batches = inference_batches(lengths, budget)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    silent = None if accelerator.is_main_process else True
    with torch.no_grad():
        for batch in tqdm(mine, desc="predict", unit="batch", leave=False, disable=silent):
            found = score(classifier, data.tokens, distinct[batch], accelerator.device)
            scores[to_device(batch, accelerator.device)] = found
    return scores


def distinct_sequences(tokens: Tokens, rows: Indices) -> tuple[npt.NDArray[np.intp], Indices]:
    """The distinct sequences of `rows` as (row, order) pairs, longest first.

    Also returns which of them each row has, `(len(rows), n_orders)`.
    """
    first: dict[tuple[int, bytes], tuple[int, int]] = {}
    keys = []
    for row in rows:
        for order in range(tokens.n_orders):
            ids = np.ascontiguousarray(tokens.sequence(row, order))
            keys.append((-len(ids), hashlib.blake2b(ids.tobytes(), digest_size=16).digest()))
            first.setdefault(keys[-1], (row, order))
    position = {key: number for number, key in enumerate(sorted(first))}
    distinct = np.array([first[key] for key in position], dtype=np.intp).reshape(-1, 2)
    where = np.array([position[key] for key in keys], dtype=np.intp)
    return distinct, where.reshape(-1, tokens.n_orders)


def probabilities(task: Task, scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Probabilities `(n_rows, n_classes)` of the rows, and of the rows with A and B exchanged.

    In a symmetric task they are the mean over both orders of `scores`
    `(n_rows, n_orders, n_classes)`.
    """
    straight = task.link(scores[:, 0].astype(np.float64))
    if not task.symmetric:
        return straight, straight
    turned = task.link(scores[:, 1].astype(np.float64))
    return (straight + task.swap_classes(turned)) / 2, (turned + task.swap_classes(straight)) / 2
