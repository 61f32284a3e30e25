r"""Tune a pretrained network, one model a fold, and predict all rows.

In: labels, folds and the token ids that the stage `tokens` made. Out: for each fold a model (safe
tensors), the tokenizer, predictions out of fold and for unseen rows, the loss curve. Both orders of
a pair are in the same optimiser step, and predictions are the mean over both. A killed run goes on
where it was, from a scratch folder that it removes at its end.

On several GPUs or machines it runs under a launcher (`torchrun` or `accelerate launch`, `-m
stages.transformer.finetune ...`). Where the variable VERDICT_LAUNCH holds options of torchrun, such as
`--nproc_per_node 8`, the stage starts it by itself, so that `dvc repro` uses them. All processes
need the same files. Else, where RAY_ADDRESS names a cluster, Ray Train starts a process for each of
its GPUs; a process that dies costs the way from the last checkpoint.

    python -m stages.transformer.finetune --dataset demo --backbone minilm \
        --labels data/demo/labels.json --folds data/demo/augmented/folds.parquet \
        --tokens data/demo/tokens/minilm --model models/demo/minilm \
        --predictions data/demo/predictions/minilm.parquet \
        --curve metrics/loss_curves/demo/minilm.csv --cost metrics/cost/demo/minilm.json
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.core.errors import InputError
from stages.core.folds import Folds, read_folds
from stages.core.params import in_section, read_params
from stages.core.tables import write_table
from stages.core.tasks import read_task
from stages.runtime import cluster, parallel
from stages.runtime.cli import run
from stages.runtime.cost import Cost
from stages.runtime.tracking import Mirror
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.predict import Data, predict
from stages.transformer.network.tokens import read_tokens
from stages.transformer.training.checkpoint import Checkpoint, Finished, finish, scratch_key
from stages.transformer.training.classifier import build
from stages.transformer.training.cluster import train
from stages.transformer.training.loop import Fit
from stages.transformer.training.losses import class_weights
from stages.transformer.training.progress import Curve
from stages.transformer.training.units import Unit, curves, gather, hold_out, units, write_models

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("verdict")

LAUNCH = "VERDICT_LAUNCH"
SCRATCH = Path("scratch") / "finetune"
# What oneDNN keeps for each shape of a batch; its own 1024 took 2 GB where lengths vary
ONEDNN_CACHE, ONEDNN_SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def tune(
    unit: Unit,
    folds: Folds,
    data: Data,
    params: FinetuneParams,
    accelerator: Accelerator,
    scratch: Path,
    watch: Callable[[str, Curve], None],
) -> Finished:
    """Train and predict, or take what an earlier run finished; `watch` sees the loss curve grow."""
    done = Finished.read(scratch / unit.name)
    accelerator.wait_for_everyone()  # all have looked before the first writes
    if done is not None:
        watch(unit.name, done.curve)
        return done
    train, holdout = hold_out(folds, folds.train(unit.fold), params.stopping, unit.seed)
    balanced = params.balance == "weights"
    targets = data.targets[train]
    weight = class_weights(data.task, targets) if balanced else np.ones(len(train))
    checkpoint = Checkpoint(scratch / f"{unit.name}.pt")
    gc.collect()  # the model of the fold before leaves the memory
    with memory_advice(params):
        classifier = build(
            params, len(data.task.classes), device=accelerator.device, seed=unit.seed
        )
        fit = Fit(
            classifier, data, train, weight, holdout, params, unit.seed,
            accelerator=accelerator, checkpoint=checkpoint, name=unit.name, watch=watch,
        )  # fmt: skip
        curve = fit.run()
        started = time.perf_counter()
        scores = predict(classifier, data, unit.rows, params, accelerator)
        seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        finish(scratch / unit.name, classifier, params, scores, curve, seconds)
        checkpoint.path.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return Finished(scratch / unit.name / "model", scores, curve, seconds)


@contextmanager
def memory_advice(params: FinetuneParams) -> Iterator[None]:
    """Turn an exhausted memory into an error that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(
            words in str(error).lower() for words in NO_MEMORY
        ):
            raise
        raise InputError(
            f"tokens_per_batch: out of memory, got {params.tokens_per_batch}; expected less, or "
            f"checkpointing true (it is {params.checkpointing}), a lower encoding.max_tokens "
            f"({params.encoding.max_tokens}), or lora; {str(error)[:200]}"
        ) from error


def main(
    *, dataset: str, backbone: str, labels: Path, folds: Path, tokens: Path,
    model: Path, predictions: Path, curve: Path, cost: Path, scratch: Path = SCRATCH,
) -> None:  # fmt: skip
    """Tune a pretrained network."""
    options = dict(locals())
    clock = Cost()
    params = read_params(FinetuneParams, dataset, f"finetune.{backbone}")
    task = read_task(labels)
    stored = read_folds(folds, task)
    with in_section(FinetuneParams, dataset, f"finetune.{backbone}"):
        todo = units(stored, params)
    if todo and cluster.is_given():
        train(main, options, scratch)
        return
    shelf = scratch / f"{dataset}-{backbone}"
    is_main = os.environ.get("RANK", "0") == "0"  # as launchers set it
    mirror = Mirror(model.name, dataset, [labels, folds], on=is_main)
    found: dict[Unit, Finished] = {}
    if todo:
        import torch  # with accelerate it takes seconds
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        use_cores(accelerator)
        is_main = accelerator.is_main_process
        data = Data(task, read_tokens(tokens, stored.ids), stored.targets)
        place = f"{accelerator.num_processes} x {accelerator.device.type}"
        log.info("finetune: %d rows of %s for %s, on %s", len(stored.ids), dataset, backbone, place)
        work = shelf / scratch_key(params, [labels, folds, tokens], place)
        with in_section(FinetuneParams, dataset, f"finetune.{backbone}"):
            found = {
                unit: tune(unit, stored, data, params, accelerator, work, mirror.curve)
                for unit in todo
            }
        accelerator.end_training()
    if not is_main:
        return
    table, losses = gather(stored, task, found)
    write_models(model, found, params.backbone)
    write_table(table, predictions)
    write_table(curves(found), curve)
    if found:
        shutil.rmtree(shelf)
    # what predicts new rows: the models of the folds, or instead of them those fitted on all rows
    used = {unit: done for unit, done in found.items() if unit.fold is None} or found
    ms = 1e3 * sum(done.seconds / max(1, len(unit.rows)) for unit, done in used.items())
    spent = clock.write(cost, fitted=model, predict_ms_per_row=ms)
    quality = {"out_of_fold_log_loss": float(losses.mean())} if len(losses) else {}
    mirror.finish(
        params=params.model_dump(mode="json"), metrics=quality | spent, tables={"curve": curve}
    )
    log.info(
        "finetune: %d rows in %d folds%s",
        len(losses),
        len({unit.fold for unit in found} - {None}),
        "".join(f", out-of-fold log loss {loss:.4f}" for loss in quality.values()),
    )


def use_cores(accelerator: Accelerator) -> None:
    """Share the cores among the processes of this machine; one process speaks for all."""
    import torch

    os.environ.setdefault(ONEDNN_CACHE, ONEDNN_SHAPES)  # read when oneDNN first computes
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, parallel.workers() // local))
    if not accelerator.is_main_process:
        log.setLevel(logging.WARNING)


def launch() -> None:
    """Start anew under torchrun where VERDICT_LAUNCH says so; else do nothing."""
    options = os.environ.pop(LAUNCH, None)
    if options:
        os.environ.pop(cluster.ADDRESS, None)  # the launcher was named, and starts on this machine
        words = ["-m", "torch.distributed.run", *shlex.split(options)]
        module = ["-m", "stages.transformer.finetune", *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *words, *module])  # noqa: S606 - own command


if __name__ == "__main__":
    launch()
    run(main)
