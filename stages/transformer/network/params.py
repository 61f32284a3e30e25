"""Sections `finetune.<backbone>`: what is tuned, on which tokens, and how."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from stages.core.layout import Layout
from stages.core.params import Params, read_params, read_section
from stages.core.stopping import StoppingParams

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Bits = Literal[4, 8]


@dataclass(frozen=True)
class Inference:
    """How networks predict; None: in the precision and with the bits that they were tuned in."""

    precision: Precision | None = None
    bits: Bits | None = None


class BackboneParams(Params):
    """Section `finetune.<backbone>.backbone`: the pretrained network.

    `name` is `minilm` or `mpnet` (read from an installed package, or from the hub without one), an
    id on the Hugging Face hub, or a local folder (starts with `.` or `/`). A hub id needs a
    `revision`, which is a commit or a tag; the others have null. `pooling` says how the token
    vectors of the last layer become one vector. An `attention_dropout` of 0 keeps the fused
    kernels, which are 2.6 times as fast on CPU at 512 tokens. `softcap: false` drops the soft cap
    of the attention scores that Gemma-2 has.
    """

    name: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    pooling: Literal["mean", "first", "last"] = "mean"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    dropout: Share = 0.1
    attention_dropout: Share = 0.0
    softcap: bool = True


class EncodingParams(Params):
    """Section `finetune.<backbone>.encoding`: how much of a row the backbone reads.

    `max_tokens` is the longest sequence, special tokens included. A prompt that has to be cut keeps
    at least `prompt_tokens` tokens; the param is null for tasks with a single text.
    """

    max_tokens: Annotated[int, Field(ge=8)]
    prompt_tokens: Count | None = None


class Step(Params):
    """One step of staged tuning: which weights are trained, how fast and for how long.

    An `unfreeze` of n means the head and the last n layers. `learning_rate` is that of the
    backbone's last layer. `epochs` may be a fraction.
    """

    unfreeze: Literal["head", "all"] | Count
    learning_rate: Positive
    head_learning_rate: Positive
    epochs: Positive


class LoraParams(Params):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

    `rank_stabilised` scales by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732). `bits` stores
    the frozen weights in 4 or 8 bits (QLoRA), for which the extra `gpu` is needed.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.05
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    rank_stabilised: bool = False
    bits: Bits | None = None


class FinetuneParams(Params):
    """Section `finetune.<backbone>`.

    One step `all` is full tuning, one step `head` trains the head alone, several steps are staged
    tuning. With `lora`, `all` means the adapters and the head.

    `batch_size` is the number of rows per optimiser step; a pair counts once, though both of its
    orders are read. `tokens_per_batch` only bounds memory: a step is cut into micro-batches of at
    most that many padded tokens. `checkpointing` saves memory at the cost of time.

    `adamw_8bit` keeps the moments of AdamW in 8 bits (Dettmers et al., 2022), a quarter of their
    memory; it needs the extra `gpu`. From each layer to the one below, the learning rate is
    multiplied by `layer_decay`. `warmup` is a share of the optimiser steps of each of the `steps`.
    An `r_drop` above 0 reads each sequence twice and adds that multiple of the difference that
    dropout makes between the two predictions to the loss; it is meant for small datasets, and
    doubles time and memory.

    `folds` null runs all stored folds and an empty list none, which is the same as a null section.
    With `test: mean`, unseen rows get the mean prediction of the folds that ran; with `refit`, that
    of one more model, fitted on all train rows. Each of these models is the mean of `seeds` models,
    which differ in their head, batches and dropout. The training of a model is saved every
    `checkpoint_steps` optimiser steps, so that a killed run can resume; never if null.
    """

    section = "finetune"  # one below it for each backbone

    backbone: BackboneParams
    encoding: EncodingParams
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    lora: LoraParams | None = None
    batch_size: Count = 32
    tokens_per_batch: Annotated[int, Field(ge=8)] = 4096
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.1
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    label_smoothing: Share = 0.0
    r_drop: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive | None = 1.0
    balance: Literal["none", "weights"] = "none"
    checkpointing: bool = False
    compile: bool = False
    precision: Precision = "auto"
    folds: tuple[int, ...] | None = None
    test: Literal["mean", "refit"] = "mean"
    checkpoint_steps: Count | None = 200
    stopping: StoppingParams | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    seeds: Count = 1

    @field_validator("r_drop")
    @classmethod
    def _needs_dropout(cls, value: float, info: ValidationInfo) -> float:
        backbone = info.data.get("backbone")
        if value and backbone and not (backbone.dropout or backbone.attention_dropout):
            raise ValueError("expected 0, or a backbone with dropout")
        return value


def read_finetune(layout: Layout, backbone: str) -> FinetuneParams | None:
    """Read the section `finetune.<backbone>`; None if it is null, as for an unused backbone.

    Raises:
        InputError: As `read_params`.
    """
    section = f"finetune.{backbone}"
    if read_section(layout.params, section) is None:
        return None
    return read_params(FinetuneParams, layout, section)
