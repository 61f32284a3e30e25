"""The command `verdict`: one place for all tools, none imported before it is called."""

import subprocess
import sys
from importlib import import_module

import pytest

from stages import cli
from stages.core.layout import LEADERBOARD_TEXT


def verdict(*words, cwd=None):
    code = "import sys; from stages import cli; sys.argv = ['verdict', *sys.argv[1:]]; cli.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_is_the_main_of_its_module(name):
    place, text = cli.COMMANDS[name]
    module, function = place.split(":")
    assert callable(getattr(import_module(module), function))
    assert text.endswith((".", "?"))


def test_help_names_every_command_and_imports_none_of_them():
    code = (
        "import sys; from stages import cli; sys.argv = ['verdict', '--help']\n"
        "try: cli.main()\n"
        "finally: assert not {'stages.tools', 'stages.serving', 'dvc', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" {name} " in done.stdout for name in (*cli.COMMANDS, "repro"))


def test_bad_input_is_one_line_and_status_1():
    done = verdict("fetch", "imdb")
    assert done.returncode == 1
    assert done.stderr.startswith("error: got 'imdb'; expected one of [")


def test_repro_shows_what_was_built_and_keeps_the_status_of_dvc(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("dvc.cli.main", lambda words: calls.append(words) or len(calls) - 1)
    monkeypatch.chdir(tmp_path)
    groups = "{linear: [], dense: [], latent: [], backbones: []}"
    (tmp_path / "params.yaml").write_text(
        f"datasets: [mine]\nbuild: {groups}\nlearning_curves: {{datasets: [], models: []}}\n"
    )
    LEADERBOARD_TEXT.parent.mkdir()
    LEADERBOARD_TEXT.write_text("## mine")
    cli.repro("score@mine")
    assert calls == [["repro", "score@mine"]]
    assert capsys.readouterr().out.splitlines() == [
        "## mine",
        "submission: data/mine/submission.csv",
    ]
    with pytest.raises(SystemExit, match="1"):
        cli.repro()
