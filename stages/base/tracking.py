"""A mirror of every training, ensemble and score run in MLflow.

Git is the record, this is the view. Runs go to `mlflow.db` beside the main repository (also those
of `dvc exp run --temp` and `--queue`, whose workspace is a copy), or to the server that
MLFLOW_TRACKING_URI names. VERDICT_TRACKING=off turns the mirror off. What goes wrong here is a
warning: a stage never fails for its mirror.
"""

import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("verdict")


def mirror(
    stage: str, dataset: str, *, params: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Log one run: `params` (nested ones with dots), `metrics`, and where it comes from as tags."""
    if os.environ.get("VERDICT_TRACKING") == "off":
        return
    try:
        _log_run(stage, dataset, flatten(params), metrics)
    except Exception as error:  # noqa: BLE001 - the mirror must not break what it shows
        log.warning("mlflow: %s@%s is not mirrored: %s", stage, dataset, error)


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


def _log_run(
    stage: str, dataset: str, params: Mapping[str, str], metrics: Mapping[str, float]
) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    main_repository = Path(os.environ.get("DVC_ROOT", "."))
    store = f"sqlite:///{(main_repository / 'mlflow.db').resolve()}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", store))
    experiment = client.get_experiment_by_name(dataset)
    number = experiment.experiment_id if experiment else client.create_experiment(dataset)
    run = client.create_run(number, run_name=stage, tags=_tags(stage, dataset))
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
        params=[Param(key, value) for key, value in params.items()],
    )
    client.set_terminated(run.info.run_id)


def _tags(stage: str, dataset: str) -> dict[str, str]:
    return {
        "stage": stage,
        "dataset": dataset,
        "experiment": os.environ.get("DVC_EXP_NAME", "workspace"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout.strip()
