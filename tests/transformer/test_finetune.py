import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import read_json, write_json, write_table
from stages.core.tasks import Preference
from stages.runtime import gpu
from stages.serving._members import Transformer
from stages.transformer import finetune as stage
from stages.transformer.finetune import launch, main, memory_advice
from stages.transformer.network.predict import predict, probabilities
from stages.transformer.network.tokens import write_tokens
from stages.transformer.training.classifier import load
from stages.transformer.training.loop import Fit
from tests.given import write_params

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = Layout("demo")
MODEL, PREDICTIONS = LAYOUT.model("tiny"), LAYOUT.predictions("tiny")
CURVE, COST = LAYOUT.loss_curve("tiny"), LAYOUT.cost("tiny")
STEP = {"unfreeze": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 1}
HEAD = {"unfreeze": "head", "learning_rate": 1e-3, "head_learning_rate": 1e-1, "epochs": 3}
LORA = {
    "rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": "all-linear", "rank_stabilised": False,
    "bits": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _on_one_core(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("VERDICT_WORKERS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def place(tmp_path, pairs, monkeypatch):
    """`place(params) -> options of main`: 24 pairs in two folds, 6 of a test part."""
    monkeypatch.chdir(tmp_path)
    ids = pd.Series([f"r{i}" for i in range(30)], name="id")
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, LAYOUT.labels)
    table = ids.to_frame()
    table["part"] = ["train"] * 24 + ["test"] * 6
    table["fold"] = [i // 2 % 2 for i in range(24)] + [-1] * 6
    table["group"] = [i // 2 for i in range(24)] + list(range(100, 106))
    table[["y_a", "y_b", "y_tie"]] = pairs.targets
    table.loc[24:, ["y_a", "y_b", "y_tie"]] = np.nan
    write_table(table, LAYOUT.folds)
    write_tokens(LAYOUT.tokens("tiny"), ids, pairs.tokens)

    def write(params):
        section = None if params is None else json.loads(params.model_dump_json())
        write_params(tmp_path, "demo", finetune={"tiny": section})
        return {"dataset": "demo", "backbone": "tiny"}

    return write


def start(options, code="", **environment):
    """Run the stage as a process of its own, with `code` before it."""
    words = [w for key, value in options.items() for w in (f"--{key}", value)]
    script = f"{code}\nfrom stages.runtime.cli import run\n"
    script += "from stages.transformer import finetune\nrun(finetune.main)"
    command = [sys.executable, "-c", script] if code else [
        sys.executable, "-m", "stages.transformer.finetune"
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([*command, *words], env=env, capture_output=True, text=True, timeout=300)


def content():
    """Bytes of all that must not differ from run to run."""
    files = [PREDICTIONS, CURVE, *MODEL.rglob("*")]
    return {str(f): f.read_bytes() for f in files if f.is_file()}


def test_stage_writes_models_predictions_curve_and_cost(place, make_params, pairs, accelerator):
    params = make_params(steps=[STEP], stopping={"patience": 1, "holdout_parts": 3})
    main(**place(params))
    table = pd.read_parquet(PREDICTIONS).set_index("id")
    assert sorted(table.index) == sorted(f"r{i}" for i in range(30))
    assert dict(table["part"].value_counts()) == {"oof": 24, "test": 6}
    p, swapped = (table[[f"{k}{c}" for c in ["a", "b", "tie"]]] for k in ("p_", "swapped_p_"))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(swapped.to_numpy()[:, [1, 0, 2]], p, atol=1e-12)
    rows = np.array([0, 1, 4, 5])  # of fold 0
    classifier = load(MODEL / "fold0", device=torch.device("cpu"))
    found, _ = probabilities(pairs.task, predict(classifier, pairs, rows, params, accelerator))
    np.testing.assert_allclose(p.loc[[f"r{i}" for i in rows]], found, atol=1e-6)
    curve = pd.read_csv(CURVE)
    assert list(curve) == [
        "model", "step", "epoch", "phase", "tokens", "train_loss", "holdout_loss"
    ]  # fmt: skip
    assert curve.groupby("model")["holdout_loss"].count().to_dict() == {"fold0": 1, "fold1": 1}
    assert json.loads(COST.read_text())["fitted_size_mb"] > 0
    assert not any(Path("scratch/finetune").iterdir())


def test_one_fold_and_a_refit(place, make_params):
    main(**place(make_params(steps=[STEP], folds=[1], test="refit", balance="weights")))
    table = pd.read_parquet(PREDICTIONS)
    assert sorted(table["id"]) == sorted(f"r{i}" for i in range(30) if i // 2 % 2 or i >= 24)
    assert sorted(folder.name for folder in MODEL.iterdir()) == [
        "fold1", "refit", "tokenizer"
    ]  # fmt: skip


def test_seeds_are_averaged(place, make_params, pairs, accelerator):
    params = make_params(steps=[STEP], folds=[0], test="refit", seeds=2)
    main(**place(params))
    names = ["fold0.seed0", "fold0.seed1", "refit.seed0", "refit.seed1"]
    assert sorted(folder.name for folder in MODEL.iterdir()) == [*names, "tokenizer"]
    assert list(pd.read_csv(CURVE)["model"].unique()) == names
    table = pd.read_parquet(PREDICTIONS).set_index("id")
    for rows, pair in ([0, 1, 4, 5], names[:2]), (range(24, 30), names[2:]):
        found = [
            probabilities(
                pairs.task,
                predict(
                    load(MODEL / name, device=torch.device("cpu")),
                    pairs, np.array(rows), params, accelerator,
                ),
            )[0]
            for name in pair
        ]  # fmt: skip
        assert np.abs(found[0] - found[1]).max() > 1e-3
        p = table.loc[[f"r{i}" for i in rows], ["p_a", "p_b", "p_tie"]]
        np.testing.assert_allclose(p, np.mean(found, axis=0), atol=1e-6)


@pytest.mark.parametrize("test", ["mean", "refit"])
def test_no_fold_tunes_nothing(place, make_params, test):
    main(**place(make_params(steps=[STEP], folds=[], test=test)))
    assert pd.read_parquet(PREDICTIONS).empty
    assert pd.read_csv(CURVE).empty
    assert list(MODEL.iterdir()) == []


def test_null_section_gives_the_outputs_of_no_fold(place, make_params):
    main(**place(make_params(folds=[])))
    expected = content()
    assert sorted(expected) == sorted(map(str, (PREDICTIONS, CURVE)))
    main(**place(None))
    assert content() == expected
    assert list(MODEL.iterdir()) == []
    assert json.loads(COST.read_text())["predict_ms_per_row"] == 0


class Recorded:
    """Keeps what it is shown in place of a live curve in MLflow."""

    def __init__(self, *words, on=True):
        self.words, self.on, self.rows, self.ended = words, on, {}, "not"

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.ended = kind

    def curve(self, name, rows):
        new = rows[len(self.rows.get(name, [])) :]
        self.rows[name] = [*self.rows.get(name, []), *(dict(row) for row in new)]


@pytest.fixture
def lives(monkeypatch):
    """The live curves that the stage opened."""
    opened = []
    monkeypatch.setattr(
        stage, "Live", lambda *words, on=True: opened.append(Recorded(*words, on=on)) or opened[-1]
    )
    return opened


def test_live_curve_shows_the_rows_of_every_model(place, make_params, lives):
    params = make_params(steps=[STEP], stopping={"patience": 1, "holdout_parts": 3})
    main(**place(params))
    (live,) = lives
    assert (live.words, live.on, live.ended) == (("demo", "tiny"), True, None)
    rows = [{"model": name, **row} for name, found in live.rows.items() for row in found]
    written = pd.read_csv(CURVE)
    pd.testing.assert_frame_equal(
        pd.DataFrame(rows, columns=list(written)), written, check_dtype=False
    )


def test_live_curve_ends_with_the_error_of_the_stage(place, make_params, lives):
    with pytest.raises(InputError, match="unfreeze"):
        main(**place(make_params(steps=[STEP | {"unfreeze": 9}])))
    assert lives[0].ended is InputError


def test_no_fold_opens_no_live_curve(place, make_params, lives):
    main(**place(make_params(folds=[])))
    main(**place(None))
    assert lives == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"folds": [0, 7]}, r"folds: got \[0, 7\]; expected some of \[0, 1\], each once"),
        ({"steps": [STEP | {"unfreeze": 9}]}, "steps.unfreeze: got 9; expected at most"),
    ],
)
def test_param_that_fits_no_fold_or_network_is_told_with_its_file(
    place, make_params, changes, fault
):
    with pytest.raises(InputError, match=f"^params/demo.yaml: finetune.tiny.{fault}"):
        main(**place(make_params(**{"steps": [STEP]} | changes)))


@pytest.mark.parametrize("is_null", [False, True], ids=["empty", "null"])
def test_no_fold_needs_no_torch(place, make_params, is_null):
    code = "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))"
    done = start(place(None if is_null else make_params(steps=[STEP], folds=[])), code)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_lora_stage_keeps_adapters_alone(place, make_params):
    main(**place(make_params(steps=[STEP], lora=LORA, folds=[0])))
    assert {file.name for file in (MODEL / "fold0").iterdir()} == {
        "adapter", "head.safetensors", "finetune.json"
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{"lora": LORA}, {"steps": [HEAD]}], ids=["lora", "head"])
def test_models_over_one_backbone_take_turns_in_memory(place, make_params, changes):
    main(**place(make_params(**{"steps": [STEP]} | changes)))
    member = Transformer.load(MODEL, Preference())
    assert [unit.name for unit in member.units] == ["fold0", "fold1"]
    assert len(member.networks) == 1
    words = ["1 2 3", "ab ab", "yes"]
    texts = pd.DataFrame({name: [[w] for w in words] for name in Preference.text_columns})
    texts["response_b"] = [["no"], ["b"], ["a longer answer"]]
    first, again = member.predict(texts, {}), member.predict(texts, {})
    np.testing.assert_array_equal(again, first)
    alone = [
        replace(member, units=[unit], networks=[load(unit, device=torch.device("cpu"))])
        for unit in member.units
    ]
    one, other = (each.predict(texts, {}) for each in alone)
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_allclose(first, (one + other) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried 1 GiB")])
def test_exhausted_memory_says_what_to_lower(make_params, error):
    message = r"tokens_per_batch: out of memory, got 256; expected less, or checkpointing true"
    with pytest.raises(InputError, match=message), memory_advice(make_params()):
        raise error


def test_kernel_that_the_gpu_cannot_hold_says_which_attention_to_take(make_params):
    message = r"backbone\.attention: a kernel needs more memory .*got 'auto'; expected eager, sdpa"
    with pytest.raises(InputError, match=message), memory_advice(make_params()):
        raise RuntimeError(
            "out of resource: shared memory, Required: 147456, Hardware limit: 101376"
        )


def test_other_errors_are_not_taken_for_exhausted_memory(make_params):
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(make_params()):
        raise RuntimeError("shapes do not match")


def test_stage_takes_its_turn_on_its_device(place, make_params, monkeypatch):
    turns = []

    @contextmanager
    def turn(device):
        turns.append(device.type)
        yield

    monkeypatch.setattr(gpu, "turn", turn)
    main(**place(make_params(folds=[0])))
    assert turns == ["cpu"]
    assert [p.name for p in Path("scratch/finetune/demo-tiny").glob("*/*")] == ["fold0"]


def test_fold_that_was_trained_before_is_not_trained_again(place, make_params, monkeypatch):
    main(**place(make_params(folds=[0])))
    before = {p.name: p.read_bytes() for p in (MODEL / "fold0").rglob("*.safetensors")}
    trained = []
    run = Fit.run

    def note(self):
        trained.append(self.name)
        return run(self)

    monkeypatch.setattr(Fit, "run", note)
    main(**place(make_params(folds=[0, 1], tokens_per_batch=128)))
    assert trained == ["fold1"]
    params = [read_json(MODEL / f"fold{fold}/finetune.json")["params"] for fold in (0, 1)]
    assert params[0] == params[1]  # those of the last run
    assert {p.name: p.read_bytes() for p in (MODEL / "fold0").rglob("*.safetensors")} == before
    main(**place(make_params(folds=[0], seed=5)))
    assert len([*Path("scratch/finetune/demo-tiny").iterdir()]) == 1  # what is old goes


def test_launch_starts_anew_under_torchrun(monkeypatch):
    monkeypatch.setenv("VERDICT_LAUNCH", "--nproc_per_node 2")
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--dataset", "demo"])
    started = []
    monkeypatch.setattr(os, "execv", lambda *words: started.append(words))
    launch()
    launch()  # under torchrun: the variable is gone
    ((_, words),) = started
    assert words[1:] == [
        "-m", "torch.distributed.run", "--nproc_per_node", "2",
        "-m", "stages.transformer.finetune", "--dataset", "demo",
    ]  # fmt: skip


KILL = """
import os, signal
from stages.transformer.training import loop

step = loop.Fit._step

def dying(self, *rest):
    step(self, *rest)
    if f"{self.name} {self.progress.steps}" == os.environ["KILL_AT"]:
        os.kill(os.getpid(), signal.SIGKILL)

loop.Fit._step = dying
"""


@pytest.mark.slow
def test_killed_stage_goes_on_and_ends_in_the_same_bytes(place, make_params):
    backbone = make_params().backbone.model_dump() | {"dropout": 0.2, "attention_dropout": 0.2}
    options = place(make_params(backbone=backbone, batch_size=4, checkpoint_steps=2))
    done = start(options)
    assert done.returncode == 0, done.stderr
    expected = content()
    # two tables, two of the tokenizer, and for each fold two of backbone, head, about
    assert len(expected) == 2 + 2 + 2 * 4
    for out in (MODEL, PREDICTIONS, CURVE):
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    for moment in ("fold0 3", "fold1 5"):
        done = start(options, KILL, KILL_AT=moment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not MODEL.exists()
    (work,) = Path("scratch/finetune/demo-tiny").iterdir()
    assert sorted(p.name for p in work.iterdir()) == ["fold0", "fold1.pt"]
    done = start(options)
    assert done.returncode == 0, done.stderr
    assert content() == expected
    assert not any(Path("scratch/finetune").iterdir())


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(place, make_params):
    # batches of 3 rows: one process has two of them, the other one; and the last batch has one row
    options = place(make_params(batch_size=5, folds=[0], tokens_per_batch=64))
    done = start(options)
    assert done.returncode == 0, done.stderr
    curve, table = pd.read_csv(CURVE), pd.read_parquet(PREDICTIONS)
    done = start(options, VERDICT_LAUNCH="--nproc_per_node 2")
    assert done.returncode == 0, done.stderr
    assert "on 2 x cpu" in done.stderr
    both = pd.read_csv(CURVE)
    pd.testing.assert_frame_equal(both, curve, rtol=1e-4)
    pd.testing.assert_frame_equal(pd.read_parquet(PREDICTIONS), table, rtol=1e-3)
