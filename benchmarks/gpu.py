r"""Speed of tuning and inference on a GPU against `transformers.Trainer`, as one Markdown table.

    python benchmarks/gpu.py                          # all cases: about 10 minutes on an H200
    python benchmarks/gpu.py --cases bert --cases gemma --steps 10
    python benchmarks/gpu.py --tiny --steps 2         # tiny networks, also without a GPU

Networks of the real sizes with random weights and random token ids, so that nothing is downloaded;
what is timed are this project's training loop and prediction as they stand. The Trainer runs with
its defaults: fp32, batches of 8 padded to the maximum. With LoRA it gets the weights in bf16 and
PEFT's model, as PEFT's documentation shows; where it runs out of memory, its batch is halved.

Only real tokens count, in tokens a second as in FLOPs. A token has, of N weights without embeddings
(and A in adapters) and layers of an attention width w (heads x size of a head) at length L:

    full tuning     6 N         + 12 layers w L     forward 2 N, backward 4 N
    LoRA            4 N + 6 A   + 12 layers w L     no gradient of the frozen weights
    inference       2 N (+ 2 A) +  4 layers w L

where causal attention counts half. Recomputation is no work of the model; the products with
relative positions in DeBERTa are left out too, so its share is a lower bound. Utilisation is
against a product of two random bf16 matrices of 8,192 x 8,192, measured at the start. Compilation
and warm-up are not timed.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import cyclopts
import numpy as np
import torch

from stages.core.tasks import SingleLabel
from stages.transformer.network.backbones import _set_dropouts
from stages.transformer.network.devices import abilities, autocast_dtype, choose_attention
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.predict import Data, predict
from stages.transformer.network.tokens import Tokens
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import assemble
from stages.transformer.training.loop import Fit

CLASSES = ("a", "b", "c")
TRAINER_BATCH = 8  # its default
POOLED = 200  # optimiser steps of an epoch: as in a real run, losses are not read at every step
WARM_UP = 5
RANK = 64
BERT = {"model_type": "bert"}  # the defaults of its configuration are bert-base-uncased
DEBERTA = {
    "model_type": "deberta-v2", "vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512,
    "type_vocab_size": 0, "layer_norm_eps": 1e-7, "relative_attention": True,
    "max_relative_positions": -1, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584, "num_hidden_layers": 42,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
    "intermediate_size": 14336, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, its sequences, and how many padded tokens are in a micro-batch and a step."""

    label: str
    config: dict[str, Any]
    length: int
    tokens_per_batch: int
    lora: bool = False
    causal: bool = False
    mean_length: int | None = None  # None: all of `length`; else log-normal, cut to `length`
    attentions: tuple[str, ...] = ("auto",)  # the next is tried where one fails

    @property
    def batch_size(self) -> int:
        return max(1, self.tokens_per_batch // (self.mean_length or self.length))

    def tiny(self) -> Case:
        heads = {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8}
        config = self.config | TINY | (heads if self.causal else {})
        mean = None if self.mean_length is None else 8
        return replace(self, config=config, length=16, tokens_per_batch=64, mean_length=mean)


CASES = {
    "bert": Case("BERT-base, full", BERT, 512, 65_536),
    "bert-varied": Case("BERT-base, full, lengths vary", BERT, 512, 65_536, mean_length=250),
    "deberta": Case("DeBERTa-v3-base, full", DEBERTA, 512, 16_384),
    "gemma": Case(
        f"Gemma-2-9b, LoRA r = {RANK}", GEMMA, 1024, 8192,
        lora=True, causal=True, attentions=("auto", "eager"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """What was timed: seconds for so many steps and real tokens, and the memory used at most."""

    way: str
    kind: Literal["training", "inference"]
    seconds: float
    steps: int
    tokens: int
    peak: float  # GB

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Failure:
    """An error, without the tracebacks that hold on to memory."""

    words: str
    no_memory: bool


def config_of(case: Case) -> Any:
    from transformers import AutoConfig

    values = dict(case.config)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    return AutoConfig.for_model(values.pop("model_type"), **values, **special, use_cache=False)


def flops_per_token(case: Case, lengths: Any) -> dict[str, float]:
    """FLOPs of a token of sequences of these lengths, by the formulas above."""
    from transformers import AutoModel

    config = config_of(case)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    skipped = ("embed", "pooler")
    named = model.named_parameters()
    base = sum(p.numel() for name, p in named if not any(word in name for word in skipped))
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    adapters = RANK * sum(m.in_features + m.out_features for m in linear) if case.lora else 0
    head = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    width = config.num_hidden_layers * config.num_attention_heads * head / (1 + case.causal)
    length = (lengths**2).sum() / lengths.sum()  # of a token's sequence, on average
    return {
        "training": (4 if case.lora else 6) * base + 6 * adapters + 12 * width * length,
        "inference": 2 * base + 2 * adapters + 4 * width * length,
    }


def make_params(case: Case, attention: str, n_steps: int, *, compiled: bool) -> FinetuneParams:
    lora = {
        "rank": RANK, "alpha": 2 * RANK, "dropout": 0.0, "targets": "all-linear",
        "rank_stabilised": False, "bits": None,
    }  # fmt: skip
    values = {
        "backbone": {
            "name": "./random", "revision": None, "pooling": "last" if case.causal else "mean",
            "attention": attention, "dropout": 0.1, "attention_dropout": 0.0,
        },
        "encoding": {"max_tokens": case.length, "prompt_tokens": None},
        "steps": [
            {"unfreeze": "all", "learning_rate": 1e-6, "head_learning_rate": 1e-6,
             "epochs": n_steps / POOLED}
        ],
        "lora": lora if case.lora else None,
        "batch_size": case.batch_size, "tokens_per_batch": case.tokens_per_batch,
        "schedule": "linear", "warmup": 0.1, "layer_decay": 1.0, "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "r_drop": 0.0, "clip": 1.0, "balance": "none", "checkpointing": False,
        "compile": compiled, "precision": "auto", "folds": None, "test": "mean",
        "checkpoint_steps": None, "stopping": None, "seed": 0, "seeds": 1,
    }  # fmt: skip
    return FinetuneParams.model_validate_json(json.dumps(values))


def make_data(case: Case) -> Data:
    """Random sequences for `POOLED` optimiser steps."""
    rng = np.random.default_rng(0)
    n_rows = POOLED * case.batch_size
    lengths = np.full(n_rows, case.length)
    if case.mean_length is not None:
        drawn = rng.lognormal(np.log(case.mean_length) - 0.18, 0.6, n_rows)  # that mean
        lengths = drawn.round().clip(4, case.length).astype(np.int64)
    flat = rng.integers(5, config_of(case).vocab_size, lengths.sum(), dtype=np.int32)
    tokens = Tokens.of(np.split(flat, np.cumsum(lengths)[:-1]), 1, 0)
    return Data(SingleLabel(CLASSES), tokens, np.eye(len(CLASSES))[rng.integers(0, 3, n_rows)])


def device_of() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(case: Case) -> torch.dtype:
    """Of the weights: what stays frozen on a GPU is kept in bf16, as `classifier.build` does."""
    half = autocast_dtype("auto", device_of()) if case.lora and torch.cuda.is_available() else None
    return half or torch.float32


def random_model(case: Case, kind: Any, config: Any, **options: Any) -> Any:
    """A network with random weights, made on the device."""
    torch.manual_seed(0)
    with device_of():
        return kind.from_config(config, dtype=dtype_of(case), **options)


def clear() -> None:
    gc.collect()
    torch._dynamo.reset()
    torch.set_float32_matmul_precision("highest")  # the default, for who comes next
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")


def ours(case: Case, data: Data, n_steps: int, attention: str, folder: Path) -> Iterator[Timing]:
    """Time the project's own training loop, then its prediction."""
    from accelerate import Accelerator
    from transformers import AutoModel

    device = device_of()
    cuda = device.type == "cuda"
    params = make_params(case, attention, n_steps, compiled=cuda)
    config = config_of(case)
    _set_dropouts(config, params.backbone)
    chosen = choose_attention(params.backbone, config, abilities(device), dtype_of(case))
    backbone = random_model(case, AutoModel, config, attn_implementation=chosen)
    way = f"verdict, {backbone.config._attn_implementation}{', compiled' if cuda else ''}"
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    classifier = assemble(backbone, params, len(CLASSES), device=device, seed=0)
    accelerator = Accelerator(cpu=not cuda)
    rows = np.arange(len(data.targets))

    def train(steps: int, seed: int) -> tuple[float, int]:
        fit = Fit(
            classifier, data, rows, np.ones(len(rows)), None,
            make_params(case, attention, steps, compiled=cuda), seed,
            accelerator=accelerator, checkpoint=Checkpoint(folder / "none.pt"), name=case.label,
        )  # fmt: skip
        started = clock()
        fit.run()
        return clock() - started, fit.progress.tokens

    train(n_steps if case.mean_length else WARM_UP, seed=1)  # lengths that vary: other batches
    seconds, n_tokens = train(n_steps, seed=0)
    yield Timing(way, "training", seconds, n_steps, n_tokens, peak())
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    few = n_steps if case.mean_length else 2
    predict(classifier, data, rows[-few * case.batch_size :], params, accelerator)
    timed = rows[: n_steps * case.batch_size]
    started = clock()
    predict(classifier, data, timed, params, accelerator)
    seconds = clock() - started
    n_tokens = int(data.tokens.lengths()[timed].sum())
    yield Timing(way, "inference", seconds, n_steps, n_tokens, peak())


class Padded(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows padded to the maximum, as `tokenizer(..., padding="max_length")` makes them."""

    def __init__(self, data: Data, n_rows: int, length: int) -> None:
        self.ids = torch.zeros(n_rows, length, dtype=torch.long)
        self.mask = torch.zeros_like(self.ids)
        for row in range(n_rows):
            ids = data.tokens.sequence(row, 0)
            self.ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
            self.mask[row, : len(ids)] = 1
        self.labels = torch.from_numpy(data.targets[:n_rows].argmax(axis=1))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            "input_ids": self.ids[row],
            "attention_mask": self.mask[row],
            "labels": self.labels[row],
        }


def theirs(case: Case, data: Data, n_steps: int, batch: int, folder: Path) -> Iterator[Timing]:
    """Time `Trainer` with its defaults: training, then `predict`."""
    from transformers import (
        AutoModelForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

    config = config_of(case)
    config.num_labels = len(CLASSES)
    model = random_model(case, AutoModelForSequenceClassification, config)
    if case.lora:
        from peft import LoraConfig, TaskType, get_peft_model

        lora = LoraConfig(
            task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
        )
        model = get_peft_model(model, lora)
    marks: dict[int, float] = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step in (WARM_UP, WARM_UP + n_steps):
                marks[state.global_step] = clock()

    dataset = Padded(data, (WARM_UP + n_steps) * batch, case.length)
    sizes: dict[str, Any] = {}
    if batch != TRAINER_BATCH:
        sizes = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": batch}
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=WARM_UP + n_steps, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **sizes,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    way = f"Trainer, {model.config._attn_implementation}, {str(model.dtype)[6:]}, batch {batch}"
    trainer.train()
    n_rows = n_steps * batch
    n_tokens = int(dataset.mask[:n_rows].sum())  # it shuffles: that of as many rows
    seconds = marks[WARM_UP + n_steps] - marks[WARM_UP]
    yield Timing(way, "training", seconds, n_steps, n_tokens, peak())
    model.zero_grad()
    trainer.optimizer = trainer.lr_scheduler = None  # ours holds neither when it predicts
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.predict(torch.utils.data.Subset(dataset, range(2 * batch)))
    started = clock()
    trainer.predict(torch.utils.data.Subset(dataset, range(n_rows)))
    yield Timing(way, "inference", clock() - started, n_steps, n_tokens, peak())


def ceiling(size: int) -> float:
    """TFLOP/s of a product of two random bf16 matrices, the best of several."""
    a, b = (torch.randn(size, size, device=device_of(), dtype=torch.bfloat16) for _ in range(2))
    found = []
    for _ in range(8):
        started = clock()
        for _ in range(5):
            a @ b
        found.append(5 * 2 * size**3 / (clock() - started))
    return max(found) / 1e12


def attempt(timings: Iterator[Timing]) -> Iterator[Timing | Failure]:
    """The timings, and the error that ended them if one did; memory is free afterwards."""
    failure = None
    try:
        yield from timings
    except Exception as error:  # noqa: BLE001 - a case that fails must not end the others
        words = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
        failure = Failure(words[:400], isinstance(error, torch.cuda.OutOfMemoryError))
    if failure is not None:
        yield failure
    clear()


def say(line: str) -> None:
    print(line, flush=True)


@dataclass
class Table:
    """The rows of a case as they come; a row of the Trainer says how many times as fast ours is."""

    label: str
    flops: dict[str, float]  # of a token
    best: float  # TFLOP/s
    own: dict[str, float]  # tokens a second of ours

    def add(self, found: Timing | Failure) -> None:
        if isinstance(found, Failure):
            say(f"| {self.label} | failed: {found.words} | | | | | | | |")
            return
        rate = found.speed * self.flops[found.kind] / 1e12
        ratio = ""
        if not found.way.startswith("Trainer"):
            self.own[found.kind] = found.speed
        elif found.kind in self.own:
            ratio = f"{self.own[found.kind] / found.speed:.1f} x"
        say(
            f"| {self.label} | {found.way} | {found.kind} | {found.speed:,.0f} | {rate:.1f} | "
            f"{100 * rate / self.best:.1f} % | {found.seconds / found.steps:.3f} | "
            f"{found.peak:.1f} | {ratio} |"
        )

    def add_all(self, timings: Iterator[Timing]) -> Failure | None:
        failure = None
        for found in attempt(timings):
            self.add(found)
            failure = found if isinstance(found, Failure) else None
        return failure


def measure(case: Case, n_steps: int, best: float, folder: Path, *, trainer: bool) -> None:
    """All rows of a case."""
    data = make_data(case)
    table = Table(case.label, flops_per_token(case, data.tokens.lengths()[:, 0]), best, {})
    for attention in case.attentions:
        if table.add_all(ours(case, data, n_steps, attention, folder)) is None:
            break
    batch = TRAINER_BATCH if trainer else 0
    while batch:
        failure = table.add_all(theirs(case, data, n_steps, batch, folder))
        batch = batch // 2 if failure is not None and failure.no_memory else 0


def main(
    *, cases: tuple[str, ...] = tuple(CASES), steps: int = 20, tiny: bool = False,
    trainer: bool = True,
) -> None:  # fmt: skip
    """Print the table.

    Args:
        cases: Some of bert, bert-varied, deberta, gemma.
        steps: Optimiser steps that are timed.
        tiny: Tiny networks, to see that everything runs.
        trainer: Compare with the Trainer.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    best = ceiling(256 if tiny else 8192)
    say(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    say(f"bf16 matrix product: {best:.1f} TFLOP/s; {steps} steps timed\n")
    columns = "tokens/s | TFLOP/s | utilisation | s/step | peak GB | verdict is as fast"
    say(f"| model | way | of | {columns} |")
    say("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for chosen in cases:
            case = CASES[chosen].tiny() if tiny else CASES[chosen]
            measure(case, steps, best, Path(folder), trainer=trainer)


if __name__ == "__main__":
    cyclopts.run(main)
