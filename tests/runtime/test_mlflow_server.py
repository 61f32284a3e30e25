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

import pytest

from stages.runtime.tracking import Mirror

pytestmark = pytest.mark.slow

# MLflow's import warns; what we ask it, a process of its own asks.
ASK = """
import json, os, sys
import mlflow
from mlflow import MlflowClient

best = mlflow.search_runs(
    experiment_names=["demo"],
    filter_string="tags.stage = 'score' and params.model = 'ensemble'",
    order_by=["metrics.log_loss ASC"],
    max_results=1,
    output_format="list",
)[0]
client = MlflowClient()
runs = client.search_runs([best.info.experiment_id])
curve = [run for run in runs if run.data.tags["stage"] == "minilm"][0]
history = client.get_metric_history(curve.info.run_id, "fold0/train_loss")
print(json.dumps({
    "best": best.data.tags["experiment"],
    "loss": best.data.metrics["log_loss"],
    "table": mlflow.artifacts.load_text(best.info.artifact_uri + "/confusion.csv"),
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


def test_runs_nest_and_the_best_is_found(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERDICT_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "ensemble.csv").write_text("actual,predicted\na,b\n", encoding="utf-8")
    losses = {"first": 1.02, "better": 1.01, "worse": 1.05}
    mirrors = []
    for experiment, loss in losses.items():  # at once, as `dvc queue start -j 3` runs them
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        mirror = Mirror("score", "demo", [tmp_path / "ensemble.csv"])
        tables = {"confusion": tmp_path / "ensemble.csv"}
        mirror.finish(params={"model": "ensemble"}, metrics={"log_loss": loss}, tables=tables)
        mirrors.append(mirror)
    for mirror in mirrors:
        assert mirror._writer is not None
        mirror._writer.wait(600)
    tuned = Mirror("minilm", "demo")  # of the last experiment
    rows = [{"step": step, "train_loss": 1 / step, "holdout_loss": None} for step in (1, 2)]
    tuned.curve("fold0", rows)
    assert tuned._writer is not None

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
    tuned.finish(params={}, metrics={})
    tuned._writer.wait(600)

    assert found["best"] == "better"
    assert found["loss"] == 1.01
    assert found["table"] == "actual,predicted\na,b\n"
    assert found["curve"] == [[1, 1.0], [2, 0.5]]
    parents = {
        tags["experiment"]: run for run, _, tags in found["runs"] if tags["stage"] == "pipeline"
    }
    assert set(parents) == set(losses)
    children = [(s, tags) for _, s, tags in found["runs"] if tags["stage"] != "pipeline"]
    assert len(children) == 4
    for status, tags in children:
        assert status == ("RUNNING" if tags["stage"] == "minilm" else "FINISHED")
        assert tags["mlflow.parentRunId"] == parents[tags["experiment"]]
