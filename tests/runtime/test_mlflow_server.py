"""The mirror against a real MLflow server with an SQL store, on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.runtime import tracking
from stages.runtime.tracking import Live, mirror

pytestmark = pytest.mark.slow

# MLflow's import warns; what we ask it, a process of its own asks.
ASK = """
import json
import mlflow
from mlflow import MlflowClient

best = mlflow.search_runs(
    experiment_names=["demo"],
    filter_string="tags.stage = 'ensemble'",
    order_by=["metrics.oof.log_loss ASC"],
    max_results=1,
    output_format="list",
)[0]
client = MlflowClient()
runs = client.search_runs([best.info.experiment_id])
curve = [run for run in runs if run.data.tags["stage"] == "live minilm"][0]
history = client.get_metric_history(curve.info.run_id, "fold0/train_loss")
print(json.dumps({
    "best": best.data.tags["experiment"],
    "loss": best.data.metrics["oof.log_loss"],
    "params": best.data.params,
    "table": mlflow.artifacts.load_text(best.info.artifact_uri + "/confusion.csv"),
    "data": [[d.dataset.name, d.dataset.digest] for d in best.inputs.dataset_inputs],
    "digest": best.data.tags["data"],
    "runs": [[r.info.run_id, r.info.status, r.data.tags] for r in runs],
    "curve": [[point.step, point.value] for point in history],
}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", "sqlite:///runs.db", "--artifacts-destination", "artifacts"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words, *stores],
            cwd=folder, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address + "/health", process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(600)


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no server: {log.read_text('utf-8')[-2000:]}")


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_results(folder: Path, loss: float) -> None:
    """What the mirror reads of a dataset that has only an ensemble."""
    groups: dict[str, list[str]] = {"linear": [], "dense": [], "latent": [], "backbones": []}
    curves: dict[str, list[str]] = {"datasets": [], "models": []}
    build = {"datasets": ["demo"], "build": groups, "learning_curves": curves}
    write(folder / "params.yaml", build)
    write(folder / "data/used_params/demo.json", {"ensemble": {"members": ["svm"]}})
    write(folder / "data/demo/labels.json", {})
    write(folder / "data/demo/folds.parquet", {})
    write(folder / "metrics/scores/demo/ensemble.json", {"oof": {"log_loss": loss}})
    write(folder / "metrics/confusion/demo/ensemble.csv", "a,b")


def test_runs_nest_and_the_best_is_found(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*words: Any, **options: Any) -> "subprocess.Popen[bytes]":
        processes.append(popen(*words, **options))
        return processes[-1]

    monkeypatch.setenv("VERDICT_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    losses = {"first": 1.02, "better": 1.01, "worse": 1.05}
    with monkeypatch.context() as patch:
        patch.setattr(tracking.subprocess, "Popen", start)
        for experiment, loss in losses.items():  # at once, as `dvc queue start -j 3` runs them
            workspace = tmp_path / experiment
            write_results(workspace, loss)
            monkeypatch.setenv("DVC_EXP_NAME", experiment)
            monkeypatch.chdir(workspace)
            mirror("demo")
        tuned = Live("demo", "minilm").__enter__()  # of the last experiment
    rows = [{"step": step, "train_loss": 1 / step, "holdout_loss": None} for step in (1, 2)]
    tuned.curve("fold0", rows)
    for process in processes[:3]:
        process.wait(600)

    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    deadline = time.monotonic() + 600
    while True:  # the loss curve is there while the stage still runs
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ASK],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and json.loads(done.stdout)["curve"]:
            break
        assert time.monotonic() < deadline, done.stderr
    found = json.loads(done.stdout)
    tuned.__exit__(None)
    processes[3].wait(600)

    assert found["best"] == "better"
    assert found["loss"] == 1.01
    assert found["params"] == {"members": "['svm']"}
    assert found["table"] == '"a,b"'
    assert found["data"] == [["demo", found["digest"]]]
    assert found["curve"] == [[1, 1.0], [2, 0.5]]
    parents = {
        tags["experiment"]: run for run, _, tags in found["runs"] if tags["stage"] == "pipeline"
    }
    assert set(parents) == set(losses)
    children = [(s, tags) for _, s, tags in found["runs"] if tags["stage"] != "pipeline"]
    assert len(children) == 4
    for status, tags in children:
        assert status == ("RUNNING" if tags["stage"] == "live minilm" else "FINISHED")
        assert tags["mlflow.parentRunId"] == parents[tags["experiment"]]
