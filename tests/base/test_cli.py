"""A stage as the command line starts it."""

import logging
from pathlib import Path

import pytest

from stages.base.cli import run
from stages.base.errors import InputError

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
