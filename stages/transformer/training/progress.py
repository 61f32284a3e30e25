"""How far the training of a model has got: its position, its losses, its loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from stages.core.errors import InputError

Curve: TypeAlias = list[dict[str, float | int | None]]
ROW = ("step", "epoch", "phase", "tokens", "train_loss", "holdout_loss")  # of a loss curve

KEPT = 0.9  # share of the old value in the smoothed loss
DIVERGED = 3.0  # a smoothed loss of this many times that at the start has diverged


@dataclass
class Progress:
    """What a checkpoint holds, beside the weights and the state of the optimiser.

    A phase is one of `params.steps`. `phase` is the index of the current one, `done` the number of
    its optimiser steps so far, and `steps` that of all phases. `waited` is the number of epochs
    since the `best` holdout loss; `losses` are those since the last row of the `curve`.
    """

    phase: int = 0
    done: int = 0
    steps: int = 0
    tokens: int = 0
    start: float = math.nan
    smoothed: float = math.nan
    best: float = math.inf
    waited: int = 0
    losses: list[float] = field(default_factory=list)
    curve: Curve = field(default_factory=list)

    def advance(self, tokens: int) -> None:
        """Count one more optimiser step, with its number of tokens."""
        self.done += 1
        self.steps += 1
        self.tokens += tokens

    def end_phase(self) -> None:
        """Move to the start of the next phase."""
        self.phase, self.done, self.waited = self.phase + 1, 0, 0

    def take(
        self, losses: Sequence[float], ignorance: float, rates: Sequence[float], name: str
    ) -> None:
        """Add the losses of the last optimiser steps.

        Args:
            losses: One per step.
            ignorance: The loss of a model that knows nothing.
            rates: The current learning rates, for the message.
            name: The name of the model, for the message.

        Raises:
            InputError: A loss is NaN, or the smoothed loss is above `DIVERGED` times the larger of
                the loss at the start and `ignorance`.
        """
        for step, loss in enumerate(losses, start=self.steps - len(losses) + 1):
            if step == 1:
                self.start = self.smoothed = loss
            self.smoothed = KEPT * self.smoothed + (1 - KEPT) * loss
            self.losses.append(loss)
            if not self.smoothed <= DIVERGED * max(self.start, ignorance):  # also where it is NaN
                raise InputError(
                    f"{name}: optimiser step {step}: loss: got {loss:.4g} (smoothed "
                    f"{self.smoothed:.4g}, at the start {self.start:.4g}) at learning rates of "
                    f"{min(rates):.2g} to {max(rates):.2g}; expected it to fall: lower "
                    f"learning_rate and head_learning_rate of steps.{self.phase}, raise warmup, "
                    "set clip to 1, or precision to fp32"
                )

    def hold(self, loss: float) -> bool:
        """Add a holdout loss, and return whether it is the best so far."""
        self.waited += 1
        if better := loss < self.best:
            self.best, self.waited = loss, 0
        return better

    def record(self, steps_per_epoch: int, holdout_loss: float | None) -> None:
        """Add a row to the loss curve."""
        self.curve.append(
            {
                "step": self.steps,
                "epoch": round(self.steps / steps_per_epoch, 4),
                "phase": self.phase,
                "tokens": self.tokens,
                "train_loss": round(float(np.mean(self.losses)), 6),
                "holdout_loss": holdout_loss,
            }
        )
        self.losses = []
