"""Sections `finetune.<backbone>`: what is tuned, on which tokens, and how."""

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, RootModel, ValidationInfo, field_validator

from stages.core.params import Params

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
FoldNumbers: TypeAlias = tuple[int, ...] | None


class BackboneParams(Params):
    """Section `finetune.<backbone>.backbone`: the pretrained network.

    `name` is `minilm` or `mpnet` (installed with the project; else from the hub), an id on the
    Hugging Face hub, or a local folder (starts with `.` or `/`). A hub id needs a `revision`, a
    commit or a tag; it is null for the others. Pooling makes one vector of the last layer's tokens.
    Attention dropout 0 keeps the fused kernels, which are 2.6 times as fast on CPU at 512 tokens.
    """

    name: Annotated[str, Field(min_length=1)]
    revision: str | None
    pooling: Literal["mean", "first", "last"]
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
    dropout: Share
    attention_dropout: Share


class EncodingParams(Params):
    """Section `finetune.<backbone>.encoding`: how much of a row the backbone reads.

    `max_tokens` bounds a sequence, special tokens included; a pair's prompt gets at most
    `prompt_tokens` of them where it has to be cut. `prompt_tokens` is null for tasks of one text.
    """

    max_tokens: Annotated[int, Field(ge=8)]
    prompt_tokens: Count | None


class Step(Params):
    """One step of staged tuning: what learns, how fast, how long.

    An `unfreeze` of n means the head and the last n layers. `learning_rate` is that of the
    backbone's last layer. `epochs` may be a fraction.
    """

    unfreeze: Literal["head", "all"] | Count
    learning_rate: Positive
    head_learning_rate: Positive
    epochs: Positive


class LoraParams(Params):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

    `rank_stabilised` scales by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732). `bits` keeps
    the frozen weights in 4 or 8 bits (QLoRA, CUDA only).
    """

    rank: Count
    alpha: Positive
    dropout: Share
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"]
    rank_stabilised: bool
    bits: Literal[4, 8] | None


class StoppingParams(Params):
    """Early stopping after `patience` epochs without gain on 1 / `holdout_parts` of the groups.

    The holdout comes out of the fold's train rows, never out of the fold that is judged.
    """

    patience: Count
    holdout_parts: Annotated[int, Field(ge=2)]


class FoldsParam(RootModel[FoldNumbers]):
    """`finetune.<backbone>.folds` by itself: null for all, empty for none."""

    model_config = ConfigDict(strict=True, frozen=True)


class FinetuneParams(Params):
    """Section `finetune.<backbone>`.

    One step `all` is full tuning, one step `head` tunes the head alone, several are staged tuning.
    With `lora`, `all` means adapters and head. `batch_size` counts rows of an optimiser step: both
    orders of a pair are in it. `tokens_per_batch` bounds memory only: a step is cut into micro-
    batches of at most so many padded tokens. `layer_decay` multiplies the rate from each layer to
    the one below. `warmup` is a share of a step's optimiser steps. `folds` null runs all stored
    folds, an empty list none: the backbone is left out of this dataset. Unseen rows get the `mean`
    over the folds run, or the prediction of a model that is `refit` on all train rows. Each is the
    mean of `seeds` models, which differ by head, batches and dropout. `r_drop` above 0 reads each
    sequence twice and adds so many times what dropout makes the two predictions differ: for small
    datasets, at twice the time and memory.
    `checkpointing` trades time for memory; `checkpoint_steps` is how often progress is saved.
    """

    backbone: BackboneParams
    encoding: EncodingParams
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    lora: LoraParams | None
    batch_size: Count
    tokens_per_batch: Annotated[int, Field(ge=8)]
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Share
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Share
    r_drop: Annotated[float, Field(ge=0)]
    clip: Positive | None
    balance: Literal["none", "weights"]
    checkpointing: bool
    compile: bool
    precision: Literal["auto", "fp32", "bf16"]
    folds: FoldNumbers
    test: Literal["mean", "refit"]
    checkpoint_steps: Count | None
    stopping: StoppingParams | None
    seed: Annotated[int, Field(ge=0)]
    seeds: Count

    @field_validator("r_drop")
    @classmethod
    def _needs_dropout(cls, value: float, info: ValidationInfo) -> float:
        backbone = info.data.get("backbone")
        if value and backbone and not (backbone.dropout or backbone.attention_dropout):
            raise ValueError("expected 0, or a backbone with dropout")
        return value
