"""The classifier's network: a backbone, pooling and a linear head.

The class is defined on first use, because modules of this project do not import torch at the top.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pooling = Literal["mean", "first", "last"]

# A torch module with the modules `backbone` and `head`. `classifier(input_ids, attention_mask)`
# takes token ids `(n, length)`, and a mask of that shape that is 0 on padding (on either side) or
# None if no row is padded, since fused attention kernels want no mask. It returns float32 scores
# `(n, n_classes)`, and enters autocast itself.
Classifier: TypeAlias = Any


@cache
def network_class() -> Any:
    """`Network(backbone, head, pooling, dropout, precision)`, a torch module."""
    import torch

    class Network(torch.nn.Module):
        def __init__(
            self,
            backbone: torch.nn.Module,
            head: torch.nn.Module,
            pooling: Pooling,
            dropout: float,
            precision: torch.dtype | None,
        ) -> None:
            super().__init__()
            self.backbone = backbone
            self.head = head
            self.dropout = torch.nn.Dropout(dropout)
            self.pooling: Pooling = pooling
            self.precision = precision
            self.causal = is_causal(backbone)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            """Scores `(n, n_classes)` in float32; see `Classifier`."""
            if attention_mask is not None:
                input_ids, attention_mask = align_left(input_ids, attention_mask)
            with torch.autocast(
                input_ids.device.type, self.precision, enabled=self.precision is not None
            ):
                # in a causal backbone no token sees what follows it: padding needs no mask
                hidden = self.backbone(
                    input_ids=input_ids, attention_mask=None if self.causal else attention_mask
                ).last_hidden_state
            pooled = pool(hidden, attention_mask, self.pooling)
            scores: Tensor = self.head(self.dropout(pooled))
            return scores

    return Network


@cache
def full_precision_sdpa() -> str:
    """The name under which transformers knows SDPA that stays in float32 under bf16 autocast.

    On CPUs the backward pass of the fused bf16 kernel takes as long for 16 tokens as for 512. With
    only the attention in float32, training is 1.45 times as fast on texts of up to 128 tokens, and
    no slower on longer ones (docs/log.md).
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
        with torch.autocast(query.device.type, enabled=False):
            found, _ = sdpa_attention_forward(
                module, query.float(), key.float(), value.float(), attention_mask, **options
            )
        return found.to(value.dtype), None

    name = "sdpa_float32"
    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def is_causal(backbone: torch.nn.Module) -> bool:
    """Whether no token sees the ones after it in any attention of the backbone."""
    flags = [module.is_causal for module in backbone.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flags)


def align_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask `(n, length)` with the padding moved behind the tokens of each row.

    Positions, and the attention of causal backbones, then do not depend on the padding side.
    """
    order = (mask == 0).to(ids.dtype).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """One float32 vector per sequence, `(n, size)`, from `hidden` `(n, length, size)`.

    It is the mean over the tokens, or the first or last of them; padding must be on the right.
    """
    import torch

    if pooling == "first":
        return hidden[:, 0].float()
    if pooling == "mean":
        if mask is None:
            return hidden.mean(dim=1, dtype=torch.float32)
        weight = mask.float()[:, None] / mask.sum(dim=1).clamp(min=1)[:, None, None]
        return torch.bmm(weight, hidden.float())[:, 0]
    if mask is None:
        return hidden[:, -1].float()
    last = mask.sum(dim=1).long() - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
