import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from stages.base import tracking


def test_nested_params_become_one_level_of_text():
    flat = tracking.flatten({"C": 0.5, "style": {"parts": ["sum"], "deep": {"x": None}}})
    assert flat == {"C": "0.5", "style.parts": "['sum']", "style.deep.x": "None"}


def test_failure_is_a_warning_and_no_error(monkeypatch, caplog):
    monkeypatch.setenv("VERDICT_TRACKING", "on")

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr(tracking, "_log_run", fail)
    tracking.mirror("svm", "demo", params={}, metrics={})
    assert caplog.messages == ["mlflow: svm@demo is not mirrored: no room"]


def test_switched_off_nothing_is_logged(monkeypatch):
    monkeypatch.setenv("VERDICT_TRACKING", "off")
    monkeypatch.setattr(tracking, "_log_run", lambda *_: pytest.fail("must not be called"))
    tracking.mirror("svm", "demo", params={}, metrics={})


@pytest.mark.slow
def test_run_is_stored_beside_the_main_repository(tmp_path):
    code = """from stages.base.tracking import mirror
mirror("svm", "demo", params={"C": 0.5}, metrics={"log_loss": 1.25})"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = kept | {"VERDICT_TRACKING": "on", "DVC_ROOT": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select key, value from params").fetchall() == [("C", "0.5")]
        assert store.execute("select key, value from metrics").fetchall() == [("log_loss", 1.25)]
        tags = dict(store.execute("select key, value from tags").fetchall())
    assert tags["stage"] == "svm"
    assert tags["dataset"] == "demo"
