"""A stage as the command line starts it."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import InputError
from stages.runtime.cli import run

# run() reads the command line, and cyclopts takes that for a slip where pytest runs
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def start(monkeypatch, main, *arguments):
    monkeypatch.setattr("sys.argv", ["stage", *arguments])
    monkeypatch.setattr(logging.getLogger("verdict"), "level", logging.INFO)
    run(main)


def test_options_come_typed_from_the_hints(monkeypatch, caplog):
    got = {}

    def main(*, dataset: str, folds: Path, models: list[str], fast: bool = False) -> None:
        got.update(locals())

    start(
        monkeypatch, main,
        *("--dataset", "demo", "--folds", "data/x.parquet", "--models", "svm", "--models", "mlp"),
    )  # fmt: skip
    assert got["dataset"] == "demo"
    assert got["folds"] == Path("data/x.parquet")
    assert got["models"] == ["svm", "mlp"]
    assert " s" in caplog.messages[-1]


def test_bad_input_ends_with_its_message_and_status_1(monkeypatch, capsys):
    def main(*, dataset: str) -> None:
        raise InputError.listing(f"{dataset}: 2 faults", ["first", "second"])

    with pytest.raises(SystemExit, match="1"):
        start(monkeypatch, main, "--dataset", "demo")
    assert capsys.readouterr().err == "error: demo: 2 faults\n  first\n  second\n"


def test_bug_keeps_its_traceback(monkeypatch):
    def main(*, dataset: str) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        start(monkeypatch, main, "--dataset", "demo")


@pytest.mark.parametrize("arguments", [(), ("--dataset", "demo", "--typo", "1")])
def test_missing_or_unknown_option_is_named(monkeypatch, capsys, arguments):
    def main(*, dataset: str) -> None:
        raise AssertionError("must not run")

    with pytest.raises(SystemExit, match=r"[^0]"):
        start(monkeypatch, main, *arguments)
    output = capsys.readouterr()
    assert ("--typo" if arguments else "--dataset") in output.out + output.err


STAGE = """
import time
from stages.runtime.cli import run
def main():
    print("started", flush=True)
    time.sleep(600)
run(main)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_stage_ends_when_the_dvc_that_started_it_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, STAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2], env=os.environ | {"DVC_STAGE": "svm@demo"}, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "started\n"
        process.kill()
        try:
            _, errors = process.communicate(timeout=60)  # until the stage has closed its pipes
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert errors == "stopped, since the DVC run that started this stage has ended\n"
