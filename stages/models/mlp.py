r"""Dense layers in torch on word2vec and style features: the baseline without a pretrained network.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. ReLU
layers with dropout, trained with AdamW. Every draw (weights, batches, dropout) comes from a
generator of the model's own, so that folds can run side by side.

    python -m stages.models.mlp --dataset demo --labels data/demo/labels.json \
        --folds data/demo/augmented/folds.parquet --word2vec data/demo/word2vec \
        --style data/demo/style.parquet --embed data/demo/embed --model models/demo/mlp \
        --predictions data/demo/predictions/mlp.parquet --trials metrics/trials/demo/mlp.csv \
        --cost metrics/cost/demo/mlp.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stages.core.params import read_params
from stages.core.tasks import Floats, Matrix, Task
from stages.models._stopping import StoppingParams, fit_rounds
from stages.models.fitting.design import SourceParams
from stages.models.fitting.sample import Sample
from stages.models.fitting.seeds import Model, SeededParams
from stages.models.fitting.train import train
from stages.runtime.cli import run

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class MlpParams(SeededParams):
    """Section `mlp`: sizes of the hidden layers; a `rounds` is an epoch."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    stopping: StoppingParams | None
    word2vec: SourceParams
    style: SourceParams


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


def fit(sample: Sample, params: MlpParams, seed: int) -> Model:
    """Fit, with early stopping where the params ask for it."""

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
    update = _adamw([tensor for layer in model.layers for tensor in layer], params)
    best_loss, best_epoch = np.inf, epochs
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y), generator=generator).split(params.batch_size):
            scores = model.scores(X[rows], params.dropout, generator)
            loss = _weighted_loss(scores, y[rows], weight[rows])
            loss.backward()
            update()
        if holdout is None or params.stopping is None:
            continue
        losses = part.task.row_losses(holdout.targets, model.predict(holdout.X))
        seen = float(np.average(losses, weights=holdout.weight))
        if seen < best_loss:
            best_loss, best_epoch = seen, epoch
        elif epoch - best_epoch >= params.stopping.patience:
            break
    return model, best_epoch


def _adamw(weights: list[Tensor], params: MlpParams) -> Callable[[], None]:
    """A step of AdamW, as torch's class takes it, which would import the compiler: 1.2 s."""
    import torch
    from torch.optim.adamw import adamw

    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    steps = [torch.tensor(0.0) for _ in weights]

    def update() -> None:
        slopes = [weight.grad for weight in weights if weight.grad is not None]
        with torch.no_grad():
            adamw(
                weights, slopes, means, squares, [], steps,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=params.learning_rate,
                weight_decay=params.weight_decay, eps=1e-8, maximize=False,
            )  # fmt: skip
        for weight in weights:
            weight.grad = None

    return update


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


def main(
    *, dataset: str, labels: Path, folds: Path, word2vec: Path, style: Path, embed: Path,
    model: Path, predictions: Path, trials: Path, cost: Path,
) -> None:  # fmt: skip
    """Cross-fit a multilayer perceptron on word2vec and style."""
    import torch

    torch.set_num_threads(
        1
    )  # the folds run side by side, and the sums of several threads differ in their last bits
    params = read_params(MlpParams, dataset, "mlp")
    train(
        params, fit, dataset=dataset, labels=labels, folds=folds,
        sets={"word2vec": word2vec, "style": style, "embed": embed},
        model=model, predictions=predictions, trials=trials, cost=cost,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
