r"""Training tokens a second and accuracy, side by side with `transformers.Trainer`.

    python benchmarks/finetune.py --dataset goemotions_single --rows 4000

Reads labels.json, rows.parquet and folds.parquet of a set of texts with one class each, from
data/<dataset>/, as the pipeline made them. Both train the same pretrained network on the same rows
of all folds but the first, for as many epochs, with the same batch size, learning rate and
schedule, and predict the same rows of the first fold. The Trainer does it as its documentation
shows: texts padded to `max_length`, fp32, the model for sequence classification, its defaults for
the rest; and once more with the pipeline's own network, which differs from that model in its head,
so that only the training differs. Only real tokens count, no padding. Points of accuracy come with
the standard error of the difference, row by row, clustered by group.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cyclopts
import numpy as np
import torch

from stages.core.folds import Folds, read_folds
from stages.core.tables import ID, read_table
from stages.core.tasks import Task, read_task
from stages.evaluation.judging import clustered_mean
from stages.transformer import tokens as tokens_stage
from stages.transformer.network.backbones import load_tokenizer, locate
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.predict import Data, predict
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import build
from stages.transformer.training.loop import Fit

Result = tuple[float, int, Any]  # seconds to train, real tokens trained on, scores `(n, n_classes)`


def make_params(
    name: str, max_tokens: int, batch_size: int, epochs: float, rate: float
) -> FinetuneParams:
    """Full tuning by the Trainer's defaults: AdamW, linear decay, no warm-up, clip at 1."""
    values = {
        "backbone": {
            "name": name, "revision": None, "pooling": "mean", "attention": "auto",
            "dropout": 0.1, "attention_dropout": 0.0,
        },
        "encoding": {"max_tokens": max_tokens, "prompt_tokens": None},
        "steps": [
            {"unfreeze": "all", "learning_rate": rate, "head_learning_rate": rate,
             "epochs": epochs}
        ],
        "lora": None, "batch_size": batch_size, "tokens_per_batch": 65536, "schedule": "linear",
        "warmup": 0.0, "layer_decay": 1.0, "weight_decay": 0.0, "label_smoothing": 0.0,
        "r_drop": 0.0, "clip": 1.0, "balance": "none", "checkpointing": False, "compile": False,
        "precision": "auto", "folds": None, "test": "mean", "checkpoint_steps": None,
        "stopping": None, "seed": 0, "seeds": 1,
    }  # fmt: skip
    return FinetuneParams.model_validate_json(json.dumps(values))


def choose(folds: Folds, rows: int) -> tuple[Any, Any]:
    """Numbers of at most so many train rows, and of held rows."""
    rng = np.random.default_rng(0)
    fold = folds.numbers[0]
    return tuple(rng.permutation(n)[:rows] for n in (folds.train(fold), folds.held(fold)))


def ours(task: Task, texts: Any, targets: Any, n_train: int, params: FinetuneParams) -> Result:
    """Train on the first `n_train` rows, predict the others."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    encoded, _ = tokens_stage.build(texts, task, load_tokenizer(params.backbone), params.encoding)
    data = Data(task, encoded, targets)
    classifier = build(params, len(task.classes), device=accelerator.device, seed=0)
    train, held = np.arange(n_train), np.arange(n_train, len(targets))
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(
            classifier, data, train, np.ones(n_train), None, params, 0,
            accelerator=accelerator, checkpoint=Checkpoint(Path(folder) / "none"), name="verdict",
        )  # fmt: skip
        seconds = timed(fit.run)
    scores = predict(classifier, data, held, params, accelerator)[:, 0]
    return seconds, fit.progress.tokens, scores


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What `tokenizer(..., padding="max_length")` returned, row by row, with labels."""

    def __init__(self, encoded: Any, labels: Any) -> None:
        self.encoded, self.labels = encoded, torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = {key: value[row] for key, value in self.encoded.items()}
        return found | {"labels": self.labels[row]}


class Wrapped(torch.nn.Module):
    """A classifier of the pipeline in the form that the Trainer wants."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor,
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        logits = self.classifier(input_ids, attention_mask)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def theirs(
    task: Task, texts: Any, targets: Any, n_train: int, params: FinetuneParams,
    *, own_network: bool = False,
) -> Result:  # fmt: skip
    """The same by the Trainer."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

    path = locate(params.backbone).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    encoded = tokenizer(
        list(texts["text"]), padding="max_length", truncation=True,
        max_length=params.encoding.max_tokens, return_tensors="pt",
    )  # fmt: skip
    labels = targets.argmax(axis=1)
    parts = [
        Rows({key: value[at] for key, value in encoded.items()}, labels[at])
        for at in (slice(n_train), slice(n_train, None))
    ]
    n_classes = len(task.classes)
    if own_network:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        full = params.model_copy(update={"precision": "fp32"})
        model = Wrapped(build(full, n_classes, device=device, seed=0))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=n_classes)
    step = params.steps[0]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=step.epochs, learning_rate=step.learning_rate,
            per_device_train_batch_size=params.batch_size, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=parts[0])
        trainer.remove_callback(PrinterCallback)
        seconds = timed(trainer.train)
        scores = trainer.predict(parts[1]).predictions
    real = int(encoded["attention_mask"][:n_train].sum() * step.epochs)
    return seconds, real, scores


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main(
    *, dataset: str = "goemotions_single", backbone: str = "minilm", rows: int = 4000,
    epochs: float = 2, max_tokens: int = 128, batch_size: int = 32, learning_rate: float = 1e-4,
    data: Path = Path("data"),
) -> None:  # fmt: skip
    """Print the table.

    Args:
        dataset: Folder below `data`.
        backbone: `minilm`, or a local folder.
        rows: At most so many to train on, and to predict.
        epochs: Over the train rows.
        max_tokens: Of a text; the Trainer pads to it.
        batch_size: Rows of an optimiser step.
        learning_rate: At the start; it falls to 0.
        data: Where the pipeline keeps its data.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    task = read_task(data / dataset / "labels.json")
    if task.kind != "single_label":
        raise SystemExit(f"--dataset: {task.kind}, got {dataset}; expected one class a text")
    folds = read_folds(data / dataset / "folds.parquet", task)
    train, held = choose(folds, rows)
    chosen = np.concatenate([train, held])
    table = read_table(data / dataset / "rows.parquet").set_index(ID)
    texts = table.loc[folds.ids.iloc[chosen]].reset_index()
    targets = folds.targets[chosen]
    params = make_params(backbone, max_tokens, batch_size, epochs, learning_rate)
    truth = targets[len(train) :].argmax(axis=1)
    speeds, right = {}, {}
    print(
        f"{dataset}, {backbone}: {len(train)} rows, {epochs:g} epochs; {len(held)} rows predicted"
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| way | seconds | tokens/s | accuracy |\n| --- | ---: | ---: | ---: |")
    ways = {
        "verdict": ours,
        "Trainer": theirs,
        "Trainer, own network": partial(theirs, own_network=True),
    }
    for way, run in ways.items():
        seconds, n_tokens, scores = run(task, texts, targets, len(train), params)
        speeds[way] = n_tokens / seconds
        right[way] = scores.argmax(axis=1) == truth
        accuracy = right[way].mean()
        print(f"| {way} | {seconds:.1f} | {speeds[way]:,.0f} | {accuracy:.4f} |", flush=True)
    print()
    for way in list(ways)[1:]:
        points = 100 * (right["verdict"].astype(float) - right[way])  # of each row
        mean, error = clustered_mean(points, folds.group[held])
        times = speeds["verdict"] / speeds[way]
        print(f"{times:.2f} times as fast as {way}, accuracy {mean:+.2f} +- {error:.2f} points")


if __name__ == "__main__":
    cyclopts.run(main)
