"""The process that writes to MLflow. `stages.runtime.tracking` starts it; no stage imports it.

An MLflow experiment for each dataset; in it a parent run for each DVC experiment on a commit, whose
tag `stage` is `pipeline`; below that a run for each model, and for each fine-tune that trains.
"""

import argparse
import json
import logging
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from stages.core.layout import Layout
from stages.runtime._results import Result, read_results, tags_of

log = logging.getLogger("verdict")

PATIENCE = 600  # seconds; the processes wait for each other, no stage waits for them
# MLflow's own defaults keep at it for minutes.
NETWORK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
SERVER = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
BATCH = 100  # params at once; MLflow takes no more, and 1,000 metrics

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """An MLflow experiment, the parent run in it, and the tags of the runs below that."""

    client: Any
    experiment: str
    parent: str
    tags: dict[str, str]

    def begin(self, stage: str) -> str:
        """Start a run below the parent."""
        tags = {**self.tags, "stage": stage, "mlflow.parentRunId": self.parent}
        return str(self.client.create_run(self.experiment, run_name=stage, tags=tags).info.run_id)

    def holds(self, result: Result) -> bool:
        """Whether a run below the parent shows just this."""
        wanted = {
            "mlflow.parentRunId": self.parent,
            "stage": result.model,
            "content": result.content,
        }
        return bool(self.client.search_runs([self.experiment], _query(wanted), max_results=1))

    def log(self, run: str, *, params: Mapping[str, str] | None = None, metrics: list[Any]) -> None:
        """Add params and metrics to a run."""
        from mlflow.entities import Param

        shown = [Param(key, value) for key, value in (params or {}).items()]
        for first in range(0, max(len(metrics), len(shown)), BATCH):
            part = slice(first, first + BATCH)
            self.client.log_batch(run, metrics=metrics[part], params=shown[part])


def write_results(layout: Layout, root: Path) -> None:
    """Write a run for each model whose results are not in the store yet."""
    # first of all: the workspace of `dvc exp run --temp` is removed when the experiment ends
    results, tags = read_results(layout), tags_of(layout)
    os.chdir(root)
    from mlflow.entities import Metric

    with _locked():
        store = _open(layout.dataset, tags)
        now = int(time.time() * 1000)
        for result in results:
            if store.holds(result):
                continue
            run, status = store.begin(result.model), "FAILED"
            try:
                metrics = [Metric(key, value, now, 0) for key, value in result.metrics.items()]
                store.log(run, params=result.params, metrics=metrics)
                for name, text in result.tables.items():
                    store.client.log_text(run, text, name)
                _log_data(store, run, Layout(layout.dataset, root).raw)
                # last: what is cut off is written again
                store.client.set_tag(run, "content", result.content)
                status = "FINISHED"
            finally:
                store.client.set_terminated(run, status)
        store.client.set_terminated(store.parent)


def _log_data(store: Store, run: str, raw: Path) -> None:
    """Tell which data set a run is about."""
    from mlflow.entities import Dataset, DatasetInput

    name, digest = store.tags["dataset"], store.tags.get("data")
    if digest:
        data = Dataset(name, digest, source_type="local", source=json.dumps({"uri": str(raw)}))
        store.client.log_inputs(run, [DatasetInput(data)])


def write_live(layout: Layout, root: Path, model: str, messages: "SimpleQueue[Message]") -> None:
    """Write the loss curves of one fine-tune, until the message that it has ended."""
    tags = tags_of(layout)
    os.chdir(root)
    from mlflow.entities import Metric

    with _locked():
        store = _open(layout.dataset, tags)
    run, status = store.begin(f"live {model}"), "FAILED"
    try:
        while "end" not in (message := messages.get()):
            now = int(time.time() * 1000)
            metrics = [
                Metric(f"{message['curve']}/{key}", value, now, int(row["step"]))
                for row in message["rows"]
                for key, value in row.items()
                if key.endswith("_loss") and value is not None
            ]
            store.log(run, metrics=metrics)
        status = "FINISHED" if message["end"] else "FAILED"
    finally:
        store.client.set_terminated(run, status)
    store.client.set_terminated(store.parent)


@contextmanager
def _locked() -> Iterator[None]:
    """Keep other processes out, in the folder of the store.

    MLflow does not guard the tables that it makes at the first use of a store, and two processes
    must not both miss the same run and make it.
    """
    from filelock import FileLock

    with FileLock(f"{STORE}.lock", timeout=PATIENCE):
        yield


def _open(dataset: str, tags: dict[str, str]) -> Store:
    """The store, with an experiment and a parent run, made where there is none."""
    from mlflow import MlflowClient

    server = os.environ.get(SERVER)
    if not server:
        _check_store()
    # relative, since in the address of a database `%` and `?` have a meaning
    client = MlflowClient(server or f"sqlite:///{STORE}")
    artifacts = None if server else Path("mlruns").resolve().as_uri()
    number = _experiment(client, dataset, artifacts)
    own = {"stage": "pipeline", "experiment": tags["experiment"]}
    own |= {"commit": tags["commit"]} if "commit" in tags else {}
    found = [
        run
        for run in client.search_runs([number], _query(own))
        if run.data.tags.get("commit") == own.get("commit")
    ]
    if found:
        return Store(client, number, str(found[0].info.run_id), tags)
    name = f"{own['experiment']} {own.get('commit', '')[:7]}".strip()
    shared = {key: value for key, value in tags.items() if key != "data"}
    parent = client.create_run(number, run_name=name, tags={**shared, **own})
    return Store(client, number, str(parent.info.run_id), tags)


def _check_store() -> None:
    """Raise an error if the store cannot be written: MLflow tries for two minutes, and logs it."""
    with closing(sqlite3.connect(STORE)) as connection:
        connection.execute("begin immediate")


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The number of the MLflow experiment `name`, made where there is none."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another machine was faster
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


def _query(tags: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{key}` = {value!r}" for key, value in tags.items())


def _read(messages: "SimpleQueue[Message]") -> None:
    """Take in what the stage sends, at once, so that its pipe is never full."""
    for line in sys.stdin:
        with suppress(ValueError):  # half a line, of a stage that was killed
            messages.put(json.loads(line))
    messages.put({"end": False})  # unless it has said before that all is well


def main() -> None:
    """Mirror the results of a dataset, or with `--live` the loss curves that come on stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--dataset", "--workspace", "--root"):
        parser.add_argument(name, required=True)
    parser.add_argument("--live", metavar="MODEL")
    options = parser.parse_args()
    for name, value in (NETWORK | QUIET).items():
        os.environ.setdefault(name, value)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)  # of the libraries
    log.setLevel(logging.WARNING)
    if hasattr(os, "nice"):
        os.nice(10)
    layout, root = Layout(options.dataset, Path(options.workspace)), Path(options.root)
    try:
        if options.live:
            messages: SimpleQueue[Message] = SimpleQueue()
            threading.Thread(target=_read, args=[messages], daemon=True).start()
            write_live(layout, root, options.live, messages)
        else:
            write_results(layout, root)
    except Exception as error:  # noqa: BLE001 - the mirror must not break what it shows
        shown = f"live {options.live}@{layout.dataset}" if options.live else layout.dataset
        place = os.environ.get(SERVER) or root
        text = f"mlflow: {shown} is not mirrored to {place}: {_reason(error)}"
        log.warning(re.sub(r"//[^/\s]+@", "//", text))  # no password


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of it."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return (str(error) or repr(error)).splitlines()[0]


if __name__ == "__main__":
    main()
