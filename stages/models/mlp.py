"""Dense layers in torch on word2vec and style features: the baseline without a pretrained network.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. ReLU
layers with dropout, trained with AdamW. Every draw (weights, batches, dropout) comes from a
generator of the model's own, so that folds can run side by side.

    python -m stages.models.mlp --dataset demo
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stages.core.matrices import Floats, Matrix
from stages.core.stopping import StoppingParams
from stages.core.tasks import Task
from stages.models._stopping import fit_rounds
from stages.models.fitting.design import ScaledSource
from stages.models.fitting.model import Model
from stages.models.fitting.sample import Sample
from stages.models.fitting.seeds import Fitted, SeededParams
from stages.models.fitting.train import training_stage
from stages.runtime.cli import run

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class MlpParams(SeededParams):
    """Section `mlp`: sizes of the hidden layers; a `rounds` is an epoch."""

    embed: ScaledSource | None = None
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    batch_size: Annotated[int, Field(ge=1)] = 256
    rounds: Annotated[int, Field(ge=1)] = 10
    stopping: StoppingParams | None = StoppingParams()
    word2vec: ScaledSource = ScaledSource()
    style: ScaledSource = ScaledSource()


@dataclass(frozen=True)
class Mlp:
    """Layers of (weight `(n_out, n_in)`, bias `(n_out,)`), ReLU between them, softmax last.

    Where classes are not `exclusive`, the last is a sigmoid.
    """

    exclusive: bool
    layers: list[tuple[Tensor, Tensor]]

    def scores(
        self, X: Tensor, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Scores before the softmax, `(n_rows, n_classes)`; a generator drops hidden units."""
        import torch

        for number, (weight, bias) in enumerate(self.layers):
            if number:
                X = torch.relu(X)
                if generator is not None:
                    X = X * (torch.rand(X.shape, generator=generator) >= dropout) / (1 - dropout)
            X = X @ weight.T + bias
        return X

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        import torch

        with torch.no_grad():
            scores = self.scores(torch.from_numpy(X)).double()
            found = torch.softmax(scores, dim=1) if self.exclusive else torch.sigmoid(scores)
            return found.numpy()

    def save(self, stem: Path) -> None:
        """Write `<stem>.safetensors`."""
        from safetensors.torch import save_file

        save_file(
            {
                f"{kind}.{i}": t.detach()
                for i, pair in enumerate(self.layers)
                for kind, t in zip(("weight", "bias"), pair, strict=True)
            },
            f"{stem}.safetensors",
        )

    @classmethod
    def load(cls, stem: Path, task: Task) -> Mlp:
        """Read what `save` wrote."""
        from safetensors.torch import load_file

        stored = load_file(f"{stem}.safetensors")
        layers = [(stored[f"weight.{i}"], stored[f"bias.{i}"]) for i in range(len(stored) // 2)]
        return cls(task.exclusive, layers)


def fit(sample: Sample, params: MlpParams, seed: int) -> Fitted:
    """Fit, with early stopping where the params ask for it."""
    import torch

    # the folds run side by side, and the sums of several threads differ in their last bits
    torch.set_num_threads(1)

    def descend(part: Sample, rounds: int, holdout: Sample | None, seed: int) -> tuple[Mlp, int]:
        return _descend(part, rounds, holdout, params, seed)

    seeds = params.all_seeds(seed)
    return fit_rounds(sample.both_orders(), params.stopping, params.rounds, seeds, descend)


def _descend(
    part: Sample, epochs: int, holdout: Sample | None, params: MlpParams, seed: int
) -> tuple[Mlp, int]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    X, y, weight = (
        torch.from_numpy(part.X),
        torch.from_numpy(part.y if part.task.exclusive else part.y.astype(np.float32)),
        torch.from_numpy(part.weight).float(),
    )
    sizes = (X.shape[1], *params.hidden, part.n_classes)
    model = Mlp(part.task.exclusive, _new(sizes, generator))
    optimizer = torch.optim.AdamW(
        [tensor for layer in model.layers for tensor in layer],
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
    )
    best_loss, best_epoch = np.inf, epochs
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y), generator=generator).split(params.batch_size):
            scores = model.scores(X[rows], params.dropout, generator)
            loss = _weighted_loss(scores, y[rows], weight[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if holdout is None or params.stopping is None:
            continue
        losses = part.task.row_losses(holdout.targets, model.predict(holdout.X))
        seen = float(np.average(losses, weights=holdout.weight))
        if seen < best_loss:
            best_loss, best_epoch = seen, epoch
        elif epoch - best_epoch >= params.stopping.patience:
            break
    return model, best_epoch


def _new(sizes: tuple[int, ...], generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Layers with the weights of He et al. (2015) and biases of 0."""
    import torch

    layers = []
    for n_in, n_out in pairwise(sizes):
        weight = torch.randn(n_out, n_in, generator=generator) * (2 / n_in) ** 0.5
        layers.append((weight.requires_grad_(), torch.zeros(n_out, requires_grad=True)))
    return layers


def _weighted_loss(scores: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    losses = (
        cross_entropy(scores, y, reduction="none")
        if y.ndim == 1
        else binary_cross_entropy_with_logits(scores, y, reduction="none").sum(dim=1)
    )
    return (losses * weight).sum() / weight.sum()


MODEL = Model("mlp", MlpParams, fit, Mlp.load)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
