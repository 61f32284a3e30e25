"""How far the training of one model is: its position, its losses, its curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from stages.core.errors import InputError

Curve: TypeAlias = list[dict[str, float | int | None]]
ROW = ("step", "epoch", "phase", "tokens", "train_loss", "holdout_loss")  # of a curve

KEPT = 0.9  # share of the old in the smoothed loss
DIVERGED = 3.0  # times the loss at the start


@dataclass
class Progress:
    """With weights and the state of the optimiser, all that a checkpoint holds.

    A phase is one of `params.steps`; `phase` is its number, `done` its optimiser steps so far, and
    `steps` those of all phases. `waited` counts epochs without gain on the `best` holdout loss,
    `losses` are those since the last row of the `curve`.
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
        """One optimiser step more, of so many tokens."""
        self.done += 1
        self.steps += 1
        self.tokens += tokens

    def end_phase(self) -> None:
        """Stand at the start of the next phase."""
        self.phase, self.done, self.waited = self.phase + 1, 0, 0

    def take(
        self, losses: Sequence[float], ignorance: float, rates: Sequence[float], name: str
    ) -> None:
        """Take in the losses of the last optimiser steps.

        Args:
            losses: One a step.
            ignorance: The loss of a model that knows nothing.
            rates: Learning rates of now.
            name: Of the model, for the message.

        Raises:
            InputError: A loss is no number, or the smoothed loss is `DIVERGED` times that at the
                start, or of ignorance if that is larger.
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
        """Take in a holdout loss; whether it is the best so far."""
        self.waited += 1
        if better := loss < self.best:
            self.best, self.waited = loss, 0
        return better

    def record(self, steps_per_epoch: int, holdout_loss: float | None) -> None:
        """Add a row to the curve."""
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
