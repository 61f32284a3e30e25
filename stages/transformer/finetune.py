"""Tune a pretrained network, one model per fold, and predict all rows.

In: labels, folds and the token ids of the stage `tokens`. Out: a model for each fold (safetensors),
the tokenizer, predictions out of fold and for unseen rows, and the loss curves. Both orders of a
pair are in the same optimiser step, and its prediction is the mean over both. A killed run resumes
from a scratch folder, which is removed at the end; where `folds` names only some, their models stay
there, and are not trained again when others are added. A dataset that does not use the backbone
gets empty outputs, and torch is not imported.

To use several GPUs or machines, run the module under a launcher (`torchrun` or `accelerate launch`,
`-m stages.transformer.finetune ...`), or set VERDICT_LAUNCH to options of torchrun, such as
`--nproc_per_node 8`: the stage then starts torchrun itself, also under `dvc repro`. All processes
must see the same files. Without VERDICT_LAUNCH but with a cluster (RAY_ADDRESS), Ray Train starts a
process for each GPU; if one dies, all resume from the last checkpoint.

    python -m stages.transformer.finetune --dataset demo --backbone minilm
"""

from __future__ import annotations

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
from stages.core.layout import SCRATCH, Layout
from stages.core.params import in_section
from stages.core.tables import write_table
from stages.core.tasks import read_task
from stages.runtime import cluster, gpu, parallel
from stages.runtime.cli import run
from stages.runtime.cost import Cost
from stages.runtime.tracking import Live
from stages.transformer.network.devices import NO_BLOCK, free_memory, is_out_of_memory
from stages.transformer.network.params import FinetuneParams, read_finetune
from stages.transformer.network.predict import Data, predict
from stages.transformer.network.tokens import read_tokens
from stages.transformer.training.checkpoint import Checkpoint, Finished, finish, scratch_key
from stages.transformer.training.classifier import build, write_about
from stages.transformer.training.cluster import train
from stages.transformer.training.loop import Fit
from stages.transformer.training.losses import class_weights
from stages.transformer.training.progress import Curve
from stages.transformer.training.units import Unit, curves, gather, hold_out, units, write_models

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("verdict")

LAUNCH = "VERDICT_LAUNCH"
# How many kernels oneDNN caches, one per shape of a batch: its default of 1024 took 2 GB
ONEDNN_CACHE, ONEDNN_SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"


def tune(
    unit: Unit,
    folds: Folds,
    data: Data,
    params: FinetuneParams,
    accelerator: Accelerator,
    scratch: Path,
    watch: Callable[[str, Curve], None],
) -> Finished:
    """Train and predict, or read what an earlier run finished; `watch` is passed the loss curve."""
    done = Finished.read(scratch / unit.name)
    accelerator.wait_for_everyone()  # so that no process writes before all have looked
    if done is not None:
        if accelerator.is_main_process:  # params that change no model may be others by now
            write_about(done.model, len(data.task.classes), params)
        watch(unit.name, done.curve)
        return done
    train, holdout = hold_out(folds, folds.train(unit.fold), params.stopping, unit.seed)
    balanced = params.balance == "weights"
    targets = data.targets[train]
    weight = class_weights(data.task, targets) if balanced else np.ones(len(train))
    checkpoint = Checkpoint(scratch / f"{unit.name}.pt")
    free_memory(accelerator.device)  # of the previous fold
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
    """Turn an out-of-memory error into one that says which params to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if NO_BLOCK in str(error):
            raise InputError(
                f"backbone.attention: a kernel needs more memory of a block than this GPU has, got "
                f"{params.backbone.attention!r}; expected eager, sdpa or flash_attention_2; "
                f"{str(error)[:200]}"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"tokens_per_batch: out of memory, got {params.tokens_per_batch}; expected less, or "
            f"checkpointing true (it is {params.checkpointing}), a lower encoding.max_tokens "
            f"({params.encoding.max_tokens}), or lora; {str(error)[:200]}"
        ) from error


def main(*, dataset: str, backbone: str) -> None:
    """Tune a pretrained network."""
    clock, layout = Cost(), Layout(dataset)
    params = read_finetune(layout, backbone)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    with in_section(FinetuneParams, layout, f"finetune.{backbone}"):
        todo = [] if params is None else units(folds, params)
    scratch = SCRATCH / "finetune"
    if todo and cluster.is_given():
        train(main, {"dataset": dataset, "backbone": backbone}, scratch)
        return
    shelf = scratch / f"{dataset}-{backbone}"
    is_main = os.environ.get("RANK", "0") == "0"  # as launchers set it
    found: dict[Unit, Finished] = {}
    if params is not None and todo:
        from accelerate import Accelerator  # takes seconds

        accelerator = Accelerator(cpu=not gpu.is_usable())
        use_cores(accelerator)
        is_main = accelerator.is_main_process
        inputs = [layout.labels, layout.folds, layout.tokens(backbone)]
        data = Data(task, read_tokens(layout.tokens(backbone), folds.ids), folds.targets)
        place = f"{accelerator.num_processes} x {accelerator.device.type}"
        log.info("finetune: %d rows of %s for %s, on %s", len(folds.ids), dataset, backbone, place)
        work = shelf / scratch_key(params, inputs, place)
        with (
            gpu.turn(accelerator.device),
            Live(dataset, backbone, on=is_main) as live,
            in_section(FinetuneParams, layout, f"finetune.{backbone}"),
        ):
            for unit in todo:
                found[unit] = tune(unit, folds, data, params, accelerator, work, live.curve)
        accelerator.end_training()
    if not is_main:
        return
    table, losses = gather(folds, task, found)
    write_models(layout.model(backbone), found, params.backbone if params else None)
    write_table(table, layout.predictions(backbone))
    write_table(curves(found), layout.loss_curve(backbone))
    if params and found:
        for other in shelf.iterdir():
            if params.folds is None or other != work:  # other folds may be added to these
                shutil.rmtree(other)
        if params.folds is None:
            shelf.rmdir()
    # new rows are predicted by the models of the folds, or, if there are any, by the refitted ones
    used = {unit: done for unit, done in found.items() if unit.fold is None} or found
    ms = 1e3 * sum(done.seconds / max(1, len(unit.rows)) for unit, done in used.items())
    clock.write(
        layout.cost(backbone), fitted=layout.model(backbone), predict_ms_per_row=ms,
        gpu_memory_mb=gpu.peak_memory_mb() if found else None,
    )  # fmt: skip
    log.info(
        "finetune: %d rows in %d folds%s",
        len(losses),
        len({unit.fold for unit in found} - {None}),
        f", out-of-fold log loss {losses.mean():.4f}" if len(losses) else "",
    )


def use_cores(accelerator: Accelerator) -> None:
    """Share the cores among the processes of this machine; only the main process logs."""
    import torch

    os.environ.setdefault(ONEDNN_CACHE, ONEDNN_SHAPES)  # read when oneDNN first computes
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, parallel.workers() // local))
    if not accelerator.is_main_process:
        log.setLevel(logging.WARNING)


def launch() -> None:
    """Restart this process under torchrun if VERDICT_LAUNCH is set."""
    options = os.environ.pop(LAUNCH, None)
    if options:
        os.environ.pop(cluster.ADDRESS, None)  # the launcher was asked for, and runs here
        words = ["-m", "torch.distributed.run", *shlex.split(options)]
        module = ["-m", "stages.transformer.finetune", *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *words, *module])  # noqa: S606 - own command


if __name__ == "__main__":
    launch()
    run(main)
