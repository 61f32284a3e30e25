"""Runs in MLflow, and the loss curve of a fine-tune while it trains.

Git is the record, MLflow is a view of it. `mirror` copies what changed in a dataset's params,
scores, cost and plots after they are written; `Live` shows a loss curve as it grows. Runs go to
`mlflow.db` beside the main repository, also those of `dvc exp run --temp` and `--queue`, whose
workspace is a copy, or to the server that MLFLOW_TRACKING_URI names. VERDICT_TRACKING=off turns
both off.

A process of its own writes (`stages/runtime/_mlflow.py`), and no stage waits for it. So neither the
import of mlflow nor a server that is down holds a stage up, and what goes wrong is one warning.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

from stages.core.layout import SCRATCH
from stages.core.tables import atomic, write_json

log = logging.getLogger("verdict")

SWITCH = "VERDICT_TRACKING"
CODE = Path(__file__).resolve().parents[2]

Row: TypeAlias = Mapping[str, float | None]  # of a loss curve: its `step`, epoch and losses


def mirror(dataset: str) -> None:
    """Mirror what changed in the results of a dataset; goes on when the stage has ended."""
    _start(dataset, subprocess.DEVNULL)


class Live:
    """Shows the loss curves of a fine-tune while it trains.

    In MLflow they are a run of the dataset, marked as failed where the block ends by an exception.
    In `scratch/live/<dataset>/<model>` they have DVCLive's layout, for tools that read it:

        dvc plots show scratch/live/demo/minilm/plots -x step
    """

    def __init__(self, dataset: str, model: str, *, on: bool = True) -> None:
        self._dataset, self._model = dataset, model
        self._on = on and os.environ.get(SWITCH) != "off"
        self._folder = SCRATCH / "live" / dataset / model
        self._sent: dict[str, int] = {}  # rows of each curve
        self._last: dict[str, dict[str, float]] = {}  # losses of each curve
        self._writer: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._on:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = _start(self._dataset, subprocess.PIPE, f"--live={self._model}")
            if self._writer and self._writer.stdin:  # what a full pipe has no room for is not shown
                os.set_blocking(self._writer.stdin.fileno(), False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._send(end=True)
        if self._writer and self._writer.stdin:
            self._writer.stdin.close()

    def curve(self, name: str, rows: Sequence[Row]) -> None:
        """Show those `rows` of the loss curve `name` that came since the last call."""
        new = rows[self._sent.get(name, 0) :]
        self._sent[name] = len(rows)
        if not new:
            return
        self._send(curve=name, rows=[dict(row) for row in new])
        if self._on:
            try:
                self._draw(name, rows)
            except Exception as error:  # noqa: BLE001 - what shows the training must not break it
                log.warning("%s: the loss curve is not shown: %s", self._folder, error)
                self._on = False

    def _send(self, **message: Any) -> None:
        if self._writer and self._writer.stdin:
            with suppress(OSError):  # it has said why, and gone
                self._writer.stdin.write(json.dumps(message, default=float).encode() + b"\n")

    def _draw(self, name: str, rows: Sequence[Row]) -> None:
        """Write the losses of a curve, a table each, and the last ones of all curves."""
        for key in (key for key in rows[-1] if key.endswith("_loss")):
            losses = [(row["step"], loss) for row in rows if (loss := row.get(key)) is not None]
            if losses:
                lines = [f"{step}\t{loss}\n" for step, loss in [("step", key), *losses]]
                with atomic(self._folder / "plots" / "metrics" / name / f"{key}.tsv") as table:
                    table.write_text("".join(lines), encoding="utf-8")
                self._last.setdefault(name, {})[key] = float(losses[-1][1])
        write_json({"step": rows[-1]["step"], **self._last}, self._folder / "metrics.json")


def _start(dataset: str, stdin: int, *options: str) -> subprocess.Popen[bytes] | None:
    """Start the process that writes to MLflow, unless tracking is off."""
    if os.environ.get(SWITCH) == "off":
        return None
    try:
        root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
        options = (f"--dataset={dataset}", f"--workspace={Path.cwd()}", f"--root={root}", *options)
        # a session of its own: Ctrl-C and a killed group end the stage, and it says so
        return subprocess.Popen(  # noqa: S603 - own command
            [sys.executable, "-W", "ignore", "-m", "stages.runtime._mlflow", *options],
            cwd=CODE, stdin=stdin, stdout=subprocess.DEVNULL, bufsize=0, start_new_session=True,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - a stage must not fail by what shows it
        log.warning("mlflow: %s is not mirrored: %s", dataset, error)
        return None
