"""What a device can do, and what follows: the type of matrix products, the attention."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stages.core.errors import InputError
from stages.transformer.network.params import BackboneParams, Precision

if TYPE_CHECKING:
    import torch

# Bytes that a block of threads needs for flex attention, by the largest size of a head: 144 KiB for
# 256, and what a card of 99 KiB holds for 128. An A100 or H100 has 160 and more, an RTX 4090, L40
# or A10 has 99 (pytorch issues 180278, 198224).
FLEX_MEMORY = {128: 96 << 10, 256: 144 << 10}
RECOMPILATIONS = 256  # training or not, mask or not, frozen or not, and the shapes of batches
# What errors of exhausted memory say, on GPUs and CPUs.
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
NO_BLOCK = "out of resource"  # Triton's, where a block of threads needs more memory than it has


@dataclass(frozen=True)
class Abilities:
    """What a device can do."""

    kind: str  # cpu or cuda
    bf16: bool  # in hardware
    flash: bool = False  # has flash attention, which is installed
    block_memory: int = 0  # bytes that a block of threads can have


def abilities(device: torch.device) -> Abilities:
    """Ask the device, and which packages are installed for it."""
    import torch

    if device.type != "cuda":
        features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return Abilities("cpu", any(getattr(torch.cpu, name, lambda: False)() for name in features))
    facts = torch.cuda.get_device_properties(device)
    return Abilities(
        "cuda",
        torch.cuda.is_bf16_supported(including_emulation=False),
        facts.major >= 8 and find_spec("flash_attn") is not None,
        getattr(facts, "shared_memory_per_block_optin", 0),
    )


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type of matrix products under autocast; None for full precision.

    `auto` is bfloat16 where the hardware has it. Other GPUs (V100, T4) get float16, other CPUs full
    precision.
    """
    import torch

    if precision == "auto":
        can = abilities(device)
        precision = "bf16" if can.bf16 else "fp16" if can.kind == "cuda" else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def choose_attention(
    params: BackboneParams, config: Any, can: Abilities, dtype: torch.dtype
) -> str | None:
    """The attention to ask for; None leaves the choice to transformers, which prefers SDPA.

    SDPA cannot cap the attention scores softly, as Gemma-2 does: some releases of transformers
    refuse it there, others drop the cap silently. Flash attention and flex attention have the cap,
    flex ignores autocast: with float32 weights, rotated queries and keys would differ in type from
    the values. Eager attention always works, with memory for all scores.

    Raises:
        InputError: The attention that the params name cannot work here.
    """
    import torch

    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if capped and params.attention == "sdpa":
        raise InputError(
            f"backbone.attention: {config.model_type} caps its attention scores, got 'sdpa', which "
            "would drop the cap; expected auto, eager, flex_attention or flash_attention_2"
        )
    if params.attention == "flash_attention_2" and not can.flash:
        # transformers would download a kernel that no file of ours pins
        raise InputError(
            "backbone.attention: got 'flash_attention_2'; expected auto, or a GPU of compute "
            "capability 8 or more (A100, RTX 30 and newer) and the package flash-attn"
        )
    if params.attention == "flex_attention" and params.attention_dropout:
        raise InputError(
            "backbone.attention_dropout: flex_attention has none, got "
            f"{params.attention_dropout}; expected 0"
        )
    if params.attention != "auto":
        return params.attention
    if not capped:
        return None
    if dtype not in (torch.bfloat16, torch.float16) or can.kind != "cuda":
        return "eager"
    if can.flash:
        return "flash_attention_2"
    return "flex_attention" if _has_flex(params, config, can) else "eager"


def _has_flex(params: BackboneParams, config: Any, can: Abilities) -> bool:
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    needed = [memory for largest, memory in FLEX_MEMORY.items() if heads <= largest]
    return (
        can.bf16
        and not params.attention_dropout
        and bool(needed)
        and (can.block_memory >= needed[0])
    )


def allow_recompilations() -> None:
    """Let torch compile for more shapes: behind its limit all would silently run uncompiled."""
    import torch

    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = 4 * RECOMPILATIONS


def free_memory(device: torch.device) -> None:
    """Give back what is no longer needed."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted."""
    text = str(error).lower()
    exhausted = isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)
    return exhausted or isinstance(error, MemoryError)
