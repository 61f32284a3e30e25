"""A mirror of every training, ensemble and score run in MLflow.

Git is the record, this is the view. Runs go to `mlflow.db` beside the main repository (also those
of `dvc exp run --temp` and `--queue`, whose workspace is a copy), or to the server that
MLFLOW_TRACKING_URI names. VERDICT_TRACKING=off turns the mirror off.

A process of its own writes: the stage sends it messages through a pipe, a JSON object a line, and
at its end waits for it, no longer than `PATIENCE` seconds. So neither the import of mlflow, nor the
first use of a store, nor a server that is down holds a stage up, and what goes wrong is one
warning. The runs of an experiment's stages on a dataset are children of one run, whose tag `stage`
is `pipeline`.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

log = logging.getLogger("verdict")

PATIENCE = 0.1  # seconds
PATIENCE_OF_WRITERS = 600  # seconds; they wait for each other, no stage waits for them
CODE = Path(__file__).resolve().parents[2]
# MLflow's own defaults keep at it for minutes.
NETWORK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
BATCH = 100  # params at once; MLflow takes no more, and 1,000 metrics

Message: TypeAlias = dict[str, Any]


class Mirror:
    """The mirror of one run: started with the stage, filled by `curve`, ended by `finish`.

    A stage of several runs ends each by `end_run`, and the mirror by `close`. A run that has begun
    and is not ended has failed, and is marked so.
    """

    def __init__(
        self, stage: str, dataset: str, inputs: Iterable[Path] = (), *, on: bool = True
    ) -> None:
        """Start the run, with the hash of the files `inputs` as its tag `data`."""
        self._sent: dict[str, int] = {}
        self._writer: subprocess.Popen[bytes] | None = None
        if not on or os.environ.get("VERDICT_TRACKING") == "off":
            return
        try:
            # a session of its own: Ctrl-C and a killed group end the stage, and it says so
            self._writer = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "stages.runtime.tracking"],
                cwd=CODE, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            log.warning("mlflow: %s@%s is not mirrored: %s", stage, dataset, error)
        root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
        files = [str(path.resolve()) for path in inputs]
        self._send(stage=stage, dataset=dataset, root=str(root), inputs=files)

    def curve(self, name: str, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Show those `rows` of a loss curve that came since the last call; each has its `step`."""
        new = rows[self._sent.get(name, 0) :]
        self._sent[name] = len(rows)
        if new:
            self._send(curve=name, rows=new)

    def end_run(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tables: Mapping[str, Path] | None = None,
    ) -> None:
        """End the run; what is sent next begins another of the same stage.

        Args:
            params: Nested ones are shown with dots.
            metrics: Flat.
            tables: Small files by the name under which they are shown.
        """
        texts = {
            name + path.suffix: path.read_text("utf-8") for name, path in (tables or {}).items()
        }
        numbers = {key: float(value) for key, value in metrics.items()}
        self._send(params=flatten(params), metrics=numbers, tables=texts, end=True)

    def finish(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tables: Mapping[str, Path] | None = None,
    ) -> None:
        """End the only run, as `end_run` does, and the mirror."""
        self.end_run(params=params, metrics=metrics, tables=tables)
        self.close()

    def close(self) -> None:
        """Nothing more comes."""
        if self._writer and self._writer.stdin:
            self._writer.stdin.close()
            with suppress(subprocess.TimeoutExpired):  # it goes on alone
                self._writer.wait(PATIENCE)

    def _send(self, **message: Any) -> None:
        if self._writer and self._writer.stdin:
            with suppress(BrokenPipeError):  # it has said why, and gone
                self._writer.stdin.write(json.dumps(message).encode() + b"\n")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as one level, keys joined by dots, values as text."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": str(value)}
        )
    return flat


def write(start: Message, messages: "SimpleQueue[Message | None]", server: str | None) -> None:
    """Write the runs of a stage: `start` says which, then `messages` come until None."""
    from filelock import FileLock
    from mlflow import MlflowClient

    root = Path(start["root"])
    store, tags = f"sqlite:///{root / 'mlflow.db'}", _tags(start["dataset"])
    # MLflow does not guard the tables that it makes at the first use of a store; and stages that
    # run side by side must not both find no run above theirs
    with FileLock(root / "mlflow.db.lock", timeout=PATIENCE_OF_WRITERS):
        client = MlflowClient(server or store)
        artifacts = None if server else (root / "mlruns").as_uri()
        number = _experiment(client, start["dataset"], artifacts)
        above = _pipeline(client, number, tags)
    tags |= {"stage": start["stage"], "data": _digest(start["inputs"]), "mlflow.parentRunId": above}

    def begin() -> str:
        return str(client.create_run(number, run_name=start["stage"], tags=tags).info.run_id)

    run: str | None = begin()
    while (message := messages.get()) is not None:
        run = run or begin()
        _log(client, run, message)
        if message.get("end"):
            client.set_terminated(run, "FINISHED")
            run = None
    if run:
        client.set_terminated(run, "FAILED")
    client.set_terminated(above)


def _log(client: Any, run: str, message: Message) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in message.get("metrics", {}).items()]
    metrics += [
        Metric(f"{message['curve']}/{key}", value, now, row["step"])
        for row in message.get("rows", [])
        for key, value in row.items()
        if key.endswith("_loss") and value is not None
    ]
    params = [Param(key, value) for key, value in message.get("params", {}).items()]
    for first in range(0, max(len(metrics), len(params)), BATCH):
        part = slice(first, first + BATCH)
        client.log_batch(run, metrics=metrics[part], params=params[part])
    for name, text in message.get("tables", {}).items():
        client.log_text(run, text, name)


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The number of the MLflow experiment `name`, made where there is none."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another stage was faster
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


def _pipeline(client: Any, number: str, tags: Mapping[str, str]) -> str:
    """The run above the stages' runs, made by the stage that comes first."""
    own = {"stage": "pipeline", **{key: tags[key] for key in ("experiment", "commit")}}
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in own.items())

    if found := client.search_runs([number], query, max_results=1):
        return str(found[0].info.run_id)
    name = f"{own['experiment']} {own['commit'][:7]}"
    return str(client.create_run(number, run_name=name, tags={**tags, **own}).info.run_id)


def _tags(dataset: str) -> dict[str, str]:
    """Where a run comes from; `dirty`: code or params differ from the commit."""
    changed = _git("--no-optional-locks", "status", "--porcelain", "-uno", "--", "*.py", "*.yaml")
    return {
        "dataset": dataset,
        "experiment": os.environ.get("DVC_EXP_NAME", "workspace"),
        "commit": os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD"),
        "dirty": str(bool(changed)).lower(),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout.strip()


def _digest(files: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(Path(name).read_bytes() for name in files)).hexdigest()[:16]


def _read(messages: "SimpleQueue[Message | None]") -> None:
    """Take in what the stage sends, at once, so that its pipe is never full."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    messages.put(None)


def main() -> None:
    """Write the run that the standard input tells."""
    for name, value in (NETWORK | QUIET).items():
        os.environ.setdefault(name, value)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)  # of the libraries
    log.setLevel(logging.WARNING)
    if hasattr(os, "nice"):
        os.nice(10)
    messages: SimpleQueue[Message | None] = SimpleQueue()
    threading.Thread(target=_read, args=[messages], daemon=True).start()
    if (start := messages.get()) is None:
        return
    server = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        write(start, messages, server)
    except Exception as error:  # noqa: BLE001 - the mirror must not break what it shows
        run, place = f"{start['stage']}@{start['dataset']}", server or start["root"]
        text = f"mlflow: {run} is not mirrored to {place}: {_reason(error)}"
        log.warning(re.sub(r"//[^/@\s]+@", "//", text))  # no password


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of it."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return (str(error) or repr(error)).splitlines()[0]


if __name__ == "__main__":
    main()
