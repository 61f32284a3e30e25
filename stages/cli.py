"""The command `verdict`: what people call by hand. DVC calls the stages by `python -m`."""

import os
import sys
from pathlib import Path

import cyclopts

from stages.core.build import read_build
from stages.core.layout import LEADERBOARD_TEXT, Layout
from stages.runtime.cli import start

# Imported when they are called: some take seconds
COMMANDS = {
    "build": ("stages.tools.build:main", "Run independent stages side by side."),
    "compare": ("stages.tools.compare.compare:main", "Compare two revisions: better or worse?"),
    "fetch": ("stages.tools.fetch:main", "Fetch a public dataset."),
    "predict": ("stages.serving.predict:main", "Predict new rows with a trained pipeline."),
    "publish": ("stages.serving.publish:main", "Log a trained pipeline as an MLflow model."),
    "sweep": ("stages.tools.sweep:main", "Search the params of a whole pipeline."),
}


def repro(*targets: str) -> None:
    """Run `dvc repro`, then show the leaderboard and where the submissions are.

    Args:
        targets: Stages; none for everything.
    """
    from dvc.cli import main as dvc

    if status := dvc(["repro", *targets]):
        sys.exit(status)
    print(LEADERBOARD_TEXT.read_text(encoding="utf-8"))  # noqa: T201 - for the person at the terminal
    for dataset in read_build().datasets:
        print("submission:", Layout(dataset).submission)  # noqa: T201


def main() -> None:
    """Run a command of `verdict`."""
    app = cyclopts.App(name="verdict", help=__doc__, help_format="plaintext")
    app.command(repro)
    for name, (place, text) in COMMANDS.items():
        app.command(place, name=name, help=text)
    # the `python` of the stages is this one, also where its environment is not activated
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start(app)


if __name__ == "__main__":
    main()
