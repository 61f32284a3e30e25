"""The process that writes to MLflow. `stages.runtime.tracking` starts it; no stage imports it.

An MLflow experiment for each dataset; in it a parent run for each DVC experiment on a commit, whose
tag `stage` is `pipeline`; below that a run for each model, and for each fine-tune that trains.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.build import judged_models, read_build
from stages.core.layout import ENSEMBLE, Layout
from stages.core.tables import flatten

log = logging.getLogger("verdict")

PATIENCE = 600  # seconds; the processes wait for each other, no stage waits for them
# MLflow's own defaults keep at it for minutes.
NETWORK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
SERVER = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
TABLES = ("trials", "loss_curve", "classes", "confusion", "reliability")  # of `Layout`


@dataclass(frozen=True)
class Result:
    """What is known of a model: params, metrics, and the text of its tables by file name."""

    model: str
    params: dict[str, str]
    metrics: dict[str, float]
    tables: dict[str, str]

    @property
    def content(self) -> str:
        """A hash of all of it."""
        parts = [self.params, self.metrics, self.tables]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_results(layout: Layout) -> Iterator[Result]:
    """The results of all models that have scores."""
    classical, used = read_build(layout.root).build.models, _read_json(layout.used_params)
    for model in judged_models(layout):
        if not (scores := _read_json(layout.scores(model))):
            continue
        if model in classical:
            params = _read_json(layout.model(model) / "params.json")
        else:
            params = used["ensemble"] if model == ENSEMBLE else used["finetune"][model]
        numbers = flatten(scores) | flatten(_read_json(layout.cost(model)))
        paths = [(kind, getattr(layout, kind)(model)) for kind in TABLES]
        yield Result(
            model,
            {key: str(value) for key, value in flatten(params).items()},
            {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)},
            {kind + file.suffix: file.read_text("utf-8") for kind, file in paths if file.exists()},
        )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def tags_of(layout: Layout) -> dict[str, str]:
    """Where runs come from; `dirty`: code or params differ from the commit. None is empty."""
    files = [path for path in (layout.labels, layout.folds) if path.exists()]
    data = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    head = _git(layout.root, "rev-parse", "HEAD")
    words = ("--no-optional-locks", "status", "--porcelain", "-uno", "--", "*.py", "*.yaml")
    tags = {
        "dataset": layout.dataset,
        "experiment": os.environ.get("DVC_EXP_NAME") or "workspace",
        "commit": os.environ.get("DVC_EXP_BASELINE_REV") or head,
        "dirty": head and str(bool(_git(layout.root, *words))).lower(),
        "data": data if len(files) == 2 else "",
    }
    return {key: value for key, value in tags.items() if value}


def _git(folder: Path, *words: str) -> str:
    """What git answers; nothing where it refuses, as in the repository of another owner."""
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


@dataclass(frozen=True)
class Store:
    """An MLflow experiment, the parent run in it, and the tags of the runs below that."""

    client: Any
    experiment: str
    parent: str
    tags: dict[str, str]

    @contextmanager
    def run(self, stage: str) -> Iterator[str]:
        """A run below the parent, which failed if the block ends by an exception."""
        tags = {**self.tags, "stage": stage, "mlflow.parentRunId": self.parent}
        run = self.client.create_run(self.experiment, run_name=stage, tags=tags).info.run_id
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        finally:
            self.client.set_terminated(run, status)

    def has(self, result: Result) -> bool:
        """Whether a run below the parent shows just this."""
        wanted = {"mlflow.parentRunId": self.parent, "content": result.content}
        query = _query(wanted | {"stage": result.model})
        return bool(self.client.search_runs([self.experiment], query, max_results=1))


def write_results(layout: Layout, root: Path) -> None:
    """Write a run for each model whose results are not in the store yet."""
    # first of all: the workspace of `dvc exp run --temp` is removed when the experiment ends
    results, tags = list(read_results(layout)), tags_of(layout)
    os.chdir(root)
    from mlflow.entities import Metric, Param

    with _locked():
        store = _open(layout.dataset, tags)
        now = int(time.time() * 1000)
        for result in results:
            if store.has(result):
                continue
            with store.run(result.model) as run:
                metrics = [Metric(key, value, now, 0) for key, value in result.metrics.items()]
                params = [Param(key, value) for key, value in result.params.items()]
                store.client.log_batch(run, metrics, params)
                for name, text in result.tables.items():
                    store.client.log_text(run, text, name)
                _log_data(store, run, Layout(layout.dataset, root).raw)
                # last: what is cut off is written again
                store.client.set_tag(run, "content", result.content)
        store.client.set_terminated(store.parent)


def _log_data(store: Store, run: str, raw: Path) -> None:
    """Tell which data set a run is about."""
    from mlflow.entities import Dataset, DatasetInput

    name, digest = store.tags["dataset"], store.tags.get("data")
    if digest:
        data = Dataset(name, digest, source_type="local", source=json.dumps({"uri": str(raw)}))
        store.client.log_inputs(run, [DatasetInput(data)])


def write_live(layout: Layout, root: Path, model: str, lines: Iterable[str]) -> None:
    """Write the loss curves of one fine-tune, until it says that it ended; else it failed."""
    tags = tags_of(layout)
    os.chdir(root)
    from mlflow.entities import Metric

    with _locked():
        store = _open(layout.dataset, tags)
    with suppress(EOFError), store.run(f"live {model}") as run:
        for line in lines:
            message: dict[str, Any] = {}
            with suppress(ValueError):  # half a line, of a stage that was killed
                message = json.loads(line)
            if "end" in message:
                break
            now = int(time.time() * 1000)
            metrics = [
                Metric(f"{message['curve']}/{key}", value, now, int(row["step"]))
                for row in message.get("rows", ())
                for key, value in row.items()
                if key.endswith("_loss") and value is not None
            ]
            store.client.log_batch(run, metrics)
        else:
            raise EOFError
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
    if not server:  # MLflow tries for two minutes where it cannot write
        with closing(sqlite3.connect(STORE)) as connection:
            connection.execute("begin immediate")
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
            write_live(layout, root, options.live, sys.stdin)
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
