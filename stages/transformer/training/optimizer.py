"""Learning rates by layer and by time, and the optimiser that uses them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from stages.transformer.network.backbones import require_bitsandbytes
from stages.transformer.network.params import FinetuneParams, Step
from stages.transformer.training.classifier import head_parameters, layers

if TYPE_CHECKING:
    import torch
    from torch.nn import Parameter

    from stages.transformer.network.network import Classifier

PEAK = "peak"  # key of a parameter group: its highest learning rate


def rate(
    done: int, n_steps: int, warmup: float, schedule: Literal["linear", "cosine", "constant"]
) -> float:
    """Share of the peak rate after `done` of `n_steps` optimiser steps: it rises to 1, then falls.

    It rises in a share `warmup` of the steps. No step has a rate of 0.
    """
    rising = round(warmup * n_steps)
    if done < rising:
        return (done + 1) / (rising + 1)
    gone = (done - rising) / (n_steps - rising)
    if schedule == "linear":
        return 1 - gone
    return (1 + math.cos(math.pi * gone)) / 2 if schedule == "cosine" else 1.0


def make_groups(classifier: Classifier, step: Step, params: FinetuneParams) -> list[dict[str, Any]]:
    """Groups of all trainable parameters, with the keys `params`, `weight_decay` and `PEAK`.

    Each layer's rate is `layer_decay` times that of the layer above. Biases and the scales of norms
    (everything that is not a matrix) have no weight decay.
    """
    bottom_up = layers(classifier)
    peaks = [
        (parameter, step.learning_rate * params.layer_decay**depth)
        for depth, layer in enumerate(reversed(bottom_up))
        for parameter in layer
    ]
    peaks += [(parameter, step.head_learning_rate) for parameter in head_parameters(classifier)]
    members: dict[tuple[float, float], list[Parameter]] = {}
    for parameter, peak in peaks:
        if parameter.requires_grad:
            decay = params.weight_decay if parameter.ndim > 1 else 0.0
            members.setdefault((peak, decay), []).append(parameter)
    found = sum(map(len, members.values()))
    learning = sum(parameter.requires_grad for parameter in classifier.parameters())
    if found != learning:
        raise ValueError(f"{learning} parameters learn, but {found} stand in a layer or the head")
    return [
        {"params": group, "weight_decay": decay, PEAK: peak}
        for (peak, decay), group in members.items()
    ]


def make_optimizer(groups: list[dict[str, Any]], params: FinetuneParams) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019); `set_rates` sets its learning rates."""
    options: dict[str, Any] = {"lr": 0.0, "betas": params.betas, "eps": params.eps}
    if params.optimizer == "adamw_8bit":
        require_bitsandbytes("optimizer", params.optimizer, "adamw")
        from bitsandbytes.optim import AdamW8bit

        eight: torch.optim.Optimizer = AdamW8bit(groups, **options)
        return eight
    from torch.optim import AdamW

    return AdamW(groups, fused=True, **options)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the rate of each group to `share` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group[PEAK]
