import io
import json
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from stages.runtime import tracking
from stages.runtime.tracking import Mirror

ROW = {"epoch": 0.5, "holdout_loss": None}


class Writer:
    """Stands for the process that writes."""

    def __init__(self, *words, **options):
        self.stdin = io.BytesIO()
        self.stdin.close = lambda: None

    def wait(self, seconds):
        return 0

    @property
    def messages(self):
        return [json.loads(line) for line in self.stdin.getvalue().splitlines()]


@pytest.fixture
def _on(monkeypatch, tmp_path):
    """The mirror, in a store of its own."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VERDICT_TRACKING", "on")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def _fake(_on, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Writer)


def rows_of(store, query):
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(query).fetchall()


def test_nested_params_become_one_level_of_text():
    flat = tracking.flatten({"C": 0.5, "style": {"parts": ["sum"], "deep": {"x": None}}})
    assert flat == {"C": "0.5", "style.parts": "['sum']", "style.deep.x": "None"}


def test_switched_off_nothing_is_started(monkeypatch):
    monkeypatch.setenv("VERDICT_TRACKING", "off")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("must not be called"))
    mirror = Mirror("svm", "demo")
    mirror.curve("fold0", [ROW | {"step": 1, "train_loss": 1.0}])
    mirror.finish(params={}, metrics={})


@pytest.mark.usefixtures("_on")
def test_only_one_of_several_processes_mirrors(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("must not be called"))
    Mirror("minilm", "demo", on=False).finish(params={}, metrics={})


@pytest.mark.usefixtures("_fake")
def test_each_row_of_a_curve_is_sent_once():
    mirror, rows = Mirror("minilm", "demo"), []
    for step in (1, 2, 2, 3):
        rows += [ROW | {"step": step, "train_loss": 1 / step}] if len(rows) < step else []
        mirror.curve("fold0", rows)
    sent = [m["rows"] for m in mirror._writer.messages if "rows" in m]
    assert [[row["step"] for row in new] for new in sent] == [[1], [2], [3]]


@pytest.mark.usefixtures("_fake")
def test_finish_sends_params_metrics_and_tables(tmp_path):
    (tmp_path / "svm.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    mirror = Mirror("score", "demo", [tmp_path / "folds.parquet"])
    tables = {"confusion": tmp_path / "svm.csv"}
    mirror.finish(params={"model": "svm"}, metrics={"log_loss": 1, "f1": 0.5}, tables=tables)
    start, end = mirror._writer.messages
    assert start["inputs"] == [str(tmp_path / "folds.parquet")]
    assert end == {
        "params": {"model": "svm"},
        "metrics": {"log_loss": 1.0, "f1": 0.5},
        "tables": {"confusion.csv": "a,b\n1,2\n"},
        "end": True,
    }


@pytest.mark.usefixtures("_on")
def test_what_cannot_be_started_is_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    Mirror("svm", "demo").finish(params={}, metrics={})
    (message,) = caplog.messages
    assert message.startswith("mlflow: svm@demo is not mirrored: ")


@pytest.mark.usefixtures("_on")
def test_server_that_does_not_answer_costs_no_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        mirror = Mirror("svm", "demo")
        mirror.finish(params={}, metrics={"log_loss": 1.0})
        assert time.perf_counter() - started < tracking.PATIENCE + 1
        mirror._writer.kill()
        mirror._writer.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("_on")
def test_server_that_refuses_is_one_warning_without_its_password(monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    mirror = Mirror("svm", "demo")
    mirror._writer.wait(600)
    mirror.curve("fold0", [ROW | {"step": 1, "train_loss": 1.0}])  # into a closed pipe
    mirror.finish(params={"C": 0.5}, metrics={"log_loss": 1.0})
    warning = f"mlflow: svm@demo is not mirrored to http://127.0.0.1:{port}: "
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(warning)
    assert line.endswith("Connection refused")


@pytest.mark.slow
@pytest.mark.usefixtures("_on")
def test_runs_at_once_into_a_fresh_store_stand_under_one_parent(tmp_path, capfd):
    (tmp_path / "labels.json").write_text("{}", encoding="utf-8")
    many = {f"p{i}": i for i in range(250)}
    mirrors = [Mirror(name, "demo", [tmp_path / "labels.json"]) for name in ("svm", "xgb", "lgbm")]
    mirrors[0].finish(params=many, metrics={"log_loss": 1.25})
    mirrors[1].finish(params={}, metrics={})
    for mirror in mirrors[:2]:
        mirror._writer.wait(600)
    mirrors[2]._writer.stdin.close()  # as of a stage that failed
    mirrors[2]._writer.wait(600)
    assert capfd.readouterr().err == ""
    store = tmp_path / "mlflow.db"
    runs = dict(rows_of(store, "select name, status from runs"))
    (parent,) = (name for name in runs if name.startswith("workspace "))
    assert runs == {parent: "FINISHED", "svm": "FINISHED", "xgb": "FINISHED", "lgbm": "FAILED"}
    assert rows_of(store, "select key, value from metrics") == [("log_loss", 1.25)]
    assert dict(rows_of(store, "select key, value from params")) == {
        key: str(value) for key, value in many.items()
    }
    tags = rows_of(store, "select key, value from tags natural join runs where name = 'svm'")
    names = {"stage", "dataset", "experiment", "commit", "dirty", "data", "mlflow.parentRunId"}
    assert names <= {key for key, _ in tags}
    assert {("stage", "svm"), ("dataset", "demo"), ("experiment", "workspace")} <= set(tags)


@pytest.mark.slow
@pytest.mark.usefixtures("_on")
def test_stage_of_several_runs_fails_only_in_the_one_that_has_begun(tmp_path):
    mirror = Mirror("score", "demo")
    for loss in (1.0, 2.0):
        mirror.end_run(params={"model": f"model {loss}"}, metrics={"log_loss": loss})
    mirror.curve("fold0", [ROW | {"step": 1, "train_loss": 1.0}])  # of a third
    mirror.close()
    mirror._writer.wait(600)
    runs = rows_of(tmp_path / "mlflow.db", "select status from runs where name = 'score'")
    assert sorted(runs) == [("FAILED",), ("FINISHED",), ("FINISHED",)]
    query = "select p.value, m.value from params p join metrics m using (run_uuid)"
    found = rows_of(tmp_path / "mlflow.db", f"{query} where m.key = 'log_loss'")
    assert sorted(found) == [("model 1.0", 1.0), ("model 2.0", 2.0)]
