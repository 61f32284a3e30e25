import os
import shutil

import numpy as np
import pytest
import torch

from stages.transformer.training import checkpoint
from stages.transformer.training.checkpoint import Checkpoint, Finished, finish, scratch_key
from stages.transformer.training.classifier import build
from stages.transformer.training.loop import Fit

PHASES = [
    {"unfreeze": "head", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 1},
    {"unfreeze": "all", "learning_rate": 1e-2, "head_learning_rate": 1e-2, "epochs": 4},
]
DROPPED = {"pooling": "mean", "dropout": 0.2, "attention_dropout": 0.2}


class Killed(BaseException):
    pass


@pytest.fixture
def params(make_params):
    backbone = make_params().backbone.model_dump() | DROPPED
    return make_params(
        backbone=backbone, steps=PHASES, stopping={"patience": 1, "holdout_parts": 2},
        checkpoint_steps=2,
    )  # fmt: skip


@pytest.fixture
def train(params, pairs, accelerator):
    """`train(checkpoint) -> (weights, curve)`."""

    def run(checkpoint):
        classifier = build(params, 3, device=accelerator.device, seed=0)
        rows, weight, holdout = np.arange(20), np.ones(20), np.arange(20, 30)
        fit = Fit(
            classifier, pairs, rows, weight, holdout, params, 0,
            accelerator=accelerator, checkpoint=checkpoint, name="fold0",
        )  # fmt: skip
        curve = fit.run()
        return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}, curve

    return run


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4, 5, 7, 9])
def test_resumed_training_ends_in_the_same_bits(train, tmp_path, monkeypatch, killed_after):
    weights, curve = train(Checkpoint(tmp_path / "undisturbed.pt"))
    assert curve[-1]["step"] > killed_after  # in phases of 3 and at most 12 optimiser steps
    step, checkpoint, done = Fit._step, Checkpoint(tmp_path / "fold0.pt"), []

    def count(self, *rest):
        step(self, *rest)
        done.append(self.progress.steps)
        if len(done) == killed_after:
            raise Killed("now")

    monkeypatch.setattr(Fit, "_step", count)
    with pytest.raises(Killed, match="now"):
        train(checkpoint)
    resumed, resumed_curve = train(checkpoint)
    assert done[killed_after] == (killed_after - 1) // 2 * 2 + 1  # behind the last checkpoint
    assert resumed_curve == curve
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_checkpoint_holds_no_code(train, tmp_path):
    checkpoint = Checkpoint(tmp_path / "fold0.pt")
    assert checkpoint.read() is None
    train(checkpoint)
    assert set(checkpoint.read()) == {"progress", "weights", "best", "optimizer", "scaler"}
    assert [file.name for file in tmp_path.iterdir()] == ["fold0.pt"]


def test_finished_model_is_read_as_it_was_written(params, tmp_path):
    folder = tmp_path / "fold0"
    assert Finished.read(folder) is None
    scores = np.ones((2, 2, 3), np.float32)
    curve = [{"step": 1, "train_loss": 0.1, "holdout_loss": None}]
    finish(folder, build(params, 3, device=torch.device("cpu"), seed=0), params, scores, curve, 1.5)
    found = Finished.read(folder)
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.curve, found.seconds) == (curve, 1.5)
    assert (found.model / "head.safetensors").is_file()


def test_key_changes_with_params_files_backbone_place_and_code(make_params, tmp_path, monkeypatch):
    data, network = tmp_path / "data", tmp_path / "network"
    for folder in (data, network):
        folder.mkdir()
        (folder / "file").write_bytes(b"1")
    backbone = make_params().backbone.model_dump() | {"name": str(network)}

    def key(place="1 x cpu", **changes):
        return scratch_key(make_params(backbone=backbone, **changes), [data], place)

    keys = [key(), key(seed=1), key("2 x cpu")]
    (data / "file").write_bytes(b"2")
    keys.append(key())
    os.utime(network / "file", (1, 1))
    keys.append(key())
    assert len(set(keys)) == 5
    assert key() == keys[-1]
    less = {"tokens_per_batch": 64, "checkpointing": True, "checkpoint_steps": 7}
    assert key(folds=[0], seeds=2, **less) == keys[-1]  # the same models, or more of them
    code = checkpoint.CODE
    for changed in (
        "transformer/network/network.py",
        "transformer/training/loop.py",
        "core/tasks.py",
    ):
        parts = [tmp_path / changed / part.name for part in code]
        for part, copy in zip(code, parts, strict=True):
            shutil.copytree(part, copy)
        monkeypatch.setattr(checkpoint, "CODE", parts)
        assert key() == keys[-1]
        with (parts[0].parent / changed).open("a") as file:
            file.write("# changed\n")
        assert key() != keys[-1]
