"""Training of one model: phases, epochs, optimiser steps, micro-batches.

A phase is one of the `steps` of the params. An optimiser step follows the gradient of the weighted
mean loss over its rows, with both orders of a pair, no matter how they are divided into
micro-batches and among processes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from stages.core.folds import Indices
from stages.core.matrices import Floats
from stages.transformer.network.batches import OptimizerStep, cut, epoch_plan
from stages.transformer.network.devices import free_memory, is_out_of_memory
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.predict import (
    Data,
    predict,
    probabilities,
    score,
    sum_over_processes,
    to_device,
)
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import unfreeze
from stages.transformer.training.losses import disagreement, ignorance, sequence_losses, smooth
from stages.transformer.training.optimizer import make_groups, make_optimizer, rate, set_rates
from stages.transformer.training.progress import Curve, Progress

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor
    from torch.optim import Optimizer

    from stages.transformer.network.network import Classifier

log = logging.getLogger("verdict")

ROWS_PER_EPOCH = 20  # of the loss curve
REHEARSE_ON = {"cuda"}
CHECK = 10  # optimiser steps between reading the losses: each time the GPU has to wait


class Fit:
    """The training of one model, in place, from its checkpoint if there is one.

    With a holdout, the model ends up with the weights of the epoch with the lowest holdout loss.
    """

    def __init__(
        self,
        classifier: Classifier,
        data: Data,
        rows: Indices,
        weight: Floats,
        holdout: Indices | None,
        params: FinetuneParams,
        seed: int,
        *,
        accelerator: Accelerator,
        checkpoint: Checkpoint,
        name: str,
        watch: Callable[[str, Curve], None] | None = None,
    ) -> None:
        """Prepare to train.

        Args:
            classifier: Fresh from `build`.
            data: All rows.
            rows: Indices of the rows to train on.
            weight: Weights of those rows, `(len(rows),)`.
            holdout: Indices of the rows for early stopping; None for no early stopping.
            params: The section of the backbone.
            seed: Of batches and dropout.
            accelerator: Device and processes.
            checkpoint: Where progress is saved.
            name: The model's name in the progress bar and messages.
            watch: Called with the name and the curve whenever the curve has grown.
        """
        self.classifier, self.data, self.params, self.seed = classifier, data, params, seed
        self.rows, self.weight, self.holdout = rows, weight, holdout
        self.accelerator, self.checkpoint = accelerator, checkpoint
        self.name, self.watch = name, watch
        self.lengths = data.tokens.lengths()[rows]
        smoothed = smooth(data.task, data.targets[rows], params.label_smoothing)
        orders = [smoothed, data.task.swap_classes(smoothed)][: data.tokens.n_orders]
        self.targets = np.stack(orders, axis=1).astype(np.float32)  # (n_rows, n_orders, n_classes)
        self.learned = _learned(classifier, params)
        self.steps_per_epoch = math.ceil(len(rows) / params.batch_size)
        self.pending: list[Tensor] = []  # losses that were not read yet
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.optimizer_state: dict[str, Any] | None = None
        self.budget = params.tokens_per_batch  # less, where that turned out to be too much
        self.scaler = loss_scaler(classifier, accelerator)
        if (saved := checkpoint.read()) is not None:
            self.progress = Progress(**saved["progress"])
            self.best, self.optimizer_state = saved["best"], saved["optimizer"]
            self.scaler.load_state_dict(saved["scaler"])
            _restore(self.learned, saved["weights"])

    def run(self) -> Curve:
        """Train, and return the loss curve.

        Its rows are dicts of step, epoch, phase, tokens, train_loss (the mean since the previous
        row) and holdout_loss (None except at the end of an epoch).

        Raises:
            InputError: The loss becomes NaN or diverges.
        """
        while self.progress.phase < len(self.params.steps):
            self._tune()
        return self.progress.curve

    def _tune(self) -> None:
        """Run a phase, or what is left of it."""
        step, progress = self.params.steps[self.progress.phase], self.progress
        n_steps = max(1, round(step.epochs * self.steps_per_epoch))
        unfreeze(self.classifier, step.unfreeze)
        optimizer = make_optimizer(make_groups(self.classifier, step, self.params), self.params)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        plan: list[OptimizerStep] = []
        with self._bar(n_steps) as bar:
            started, before = time.perf_counter(), progress.tokens
            while progress.done < n_steps:
                epoch, position = divmod(progress.done, self.steps_per_epoch)
                if position == 0 or not plan:
                    plan = self._plan(epoch)
                    if progress.steps == 0 and self.accelerator.device.type in REHEARSE_ON:
                        self._rehearse(plan, optimizer)
                share = rate(progress.done, n_steps, self.params.warmup, self.params.schedule)
                set_rates(optimizer, share)
                self._step(plan[position], optimizer)
                self._follow(n_steps, optimizer)
                speed = (progress.tokens - before) / (time.perf_counter() - started)
                bar.set_postfix_str(
                    f"loss {progress.smoothed:.4f}, {speed:.0f} tokens/s", refresh=False
                )
                bar.update()
        if self.best is not None:
            _restore(self.learned, self.best)
        progress.end_phase()

    def _plan(self, epoch: int) -> list[OptimizerStep]:
        generator = np.random.default_rng((self.seed, self.progress.phase, epoch))
        params, processes = self.params, self.accelerator.num_processes
        return epoch_plan(
            self.lengths, params.batch_size, params.tokens_per_batch, processes, generator
        )

    def _rehearse(self, plan: list[OptimizerStep], optimizer: Optimizer) -> None:
        """Go forward and back on the longest rows, so that too little memory shows at once."""
        longest = max(plan, key=lambda batch: int(self.lengths[batch.rows].max()))
        self._backward_in_memory(longest, optimizer)
        optimizer.zero_grad()

    def _step(self, batch: OptimizerStep, optimizer: Optimizer) -> None:
        """Make one optimiser step."""
        import torch

        loss = self._backward_in_memory(batch, optimizer)
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        sum_over_processes([*_gradients(learning), loss], self.accelerator)
        if self.params.clip is not None:
            self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(learning, self.params.clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()
        self.pending.append(loss)
        self.progress.advance(int(self.lengths[batch.rows].sum()))

    def _backward(self, batch: OptimizerStep) -> Tensor:
        """The mean loss over this process' part of a step; its gradients are added up."""
        import torch

        # a seed for each step and process, so that a resumed run needs no generator state
        place = (self.seed, self.progress.steps, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        self.classifier.train()
        total = self.weight[batch.rows].sum() * self.data.tokens.n_orders
        loss = torch.zeros((), device=self.accelerator.device)
        for sequences in batch.micro[self.accelerator.process_index]:
            if len(sequences):
                part, disagreed = self._losses(sequences[:, 0], sequences[:, 1])
                self.scaler.scale((part + self.params.r_drop * disagreed) / total).backward()
                loss += part.detach() / total
        return loss

    def _backward_in_memory(self, batch: OptimizerStep, optimizer: Optimizer) -> Tensor:
        """As `_backward`, with micro-batches that are halved where memory is short.

        Among several processes none can do so alone: the others wait for its gradients.
        """
        alone = self.accelerator.num_processes == 1
        while True:
            if self.budget < self.params.tokens_per_batch:
                batch = cut(batch.rows, self.lengths, self.budget, 1)
            try:
                return self._backward(batch)
            except (MemoryError, RuntimeError) as error:
                largest = max(len(s) for s in batch.micro[self.accelerator.process_index])
                if not is_out_of_memory(error) or largest < 2 or not alone:
                    raise
            # behind the block: the error holds the activations
            self.budget //= 2
            log.warning(
                "%s: out of memory at step %d: micro-batches of %d tokens from here on",
                self.name, self.progress.steps + 1, self.budget,
            )  # fmt: skip
            optimizer.zero_grad()
            free_memory(self.accelerator.device)

    def _losses(self, rows: Indices, orders: Indices) -> tuple[Tensor, Tensor]:
        """Weighted sums of the losses of sequences, and of their disagreement under R-Drop.

        `rows` are positions in `self.rows`.
        """
        import torch

        device = self.accelerator.device
        sequences = np.column_stack([self.rows[rows], orders])
        targets = to_device(self.targets[rows, orders], device)
        weight = to_device(self.weight[rows].astype(np.float32), device)
        exclusive = self.data.task.exclusive
        scores = score(self.classifier, self.data.tokens, sequences, device)
        losses = sequence_losses(scores, targets, exclusive=exclusive)
        if not self.params.r_drop:
            return (losses * weight).sum(), torch.zeros((), device=device)
        again = score(self.classifier, self.data.tokens, sequences, device)
        losses = (losses + sequence_losses(again, targets, exclusive=exclusive)) / 2
        disagreed = disagreement(scores, again, exclusive=exclusive)
        return (losses * weight).sum(), (disagreed * weight).sum()

    def _follow(self, n_steps: int, optimizer: Optimizer) -> None:
        """Do what follows an optimiser step: losses, curve, early stopping, checkpoint."""
        progress, stopping, every = (
            self.progress,
            self.params.stopping,
            self.params.checkpoint_steps,
        )
        ends = progress.done % self.steps_per_epoch == 0 or progress.done == n_steps
        records = ends or progress.steps % max(1, self.steps_per_epoch // ROWS_PER_EPOCH) == 0
        saves = every is not None and progress.steps % every == 0
        if records or saves or progress.steps % CHECK == 0:
            losses, self.pending = [float(loss) for loss in self.pending], []
            rates = [group["lr"] for group in optimizer.param_groups]
            progress.take(losses, ignorance(self.data.task), rates, self.name)
        if records:
            loss = self._holdout_loss(self.holdout) if ends and self.holdout is not None else None
            progress.record(self.steps_per_epoch, loss)
            if self.watch is not None:
                self.watch(self.name, progress.curve)
            if loss is not None and progress.hold(loss):
                self.best = _copy(self.learned)
        if stopping is not None and progress.waited >= stopping.patience:
            progress.done = n_steps
        if saves and self.accelerator.is_main_process:
            self.checkpoint.write(
                progress, _copy(self.learned), self.best, optimizer.state_dict(),
                self.scaler.state_dict(),
            )  # fmt: skip

    def _holdout_loss(self, holdout: Indices) -> float:
        scores = predict(self.classifier, self.data, holdout, self.params, self.accelerator)
        found, _ = probabilities(self.data.task, scores)
        return float(self.data.task.row_losses(self.data.targets[holdout], found).mean())

    def _bar(self, n_steps: int) -> tqdm[Any]:
        n_phases = len(self.params.steps)
        phase = f", phase {self.progress.phase + 1} of {n_phases}" if n_phases > 1 else ""
        return tqdm(
            desc=self.name + phase,
            total=n_steps,
            initial=self.progress.done,
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )


def loss_scaler(classifier: Classifier, accelerator: Accelerator) -> Any:
    """Keeps small gradients above 0 in float16 (Micikevicius et al. 2018); else does nothing."""
    import torch

    return torch.amp.GradScaler(
        accelerator.device.type, enabled=classifier.precision is torch.float16
    )


def _learned(classifier: Classifier, params: FinetuneParams) -> dict[str, Tensor]:
    """The parameters that are trained in any phase, by name."""
    names: set[str] = set()
    for step in params.steps:
        unfreeze(classifier, step.unfreeze)
        names |= {name for name, p in classifier.named_parameters() if p.requires_grad}
    return {name: p for name, p in classifier.named_parameters() if name in names}


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    """The gradients, which are zero if this process had no micro-batch."""
    import torch

    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _copy(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def _restore(parameters: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
