"""What the mirror shows: the results of a dataset's models, and where they come from."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.build import judged_models, read_build
from stages.core.layout import ENSEMBLE, Layout
from stages.core.tables import flatten

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


def read_results(layout: Layout) -> list[Result]:
    """The results of all models that have scores."""
    classical, used = read_build(layout.root).build.models, _read_json(layout.used_params)

    def params_of(model: str) -> dict[str, Any]:
        if model in classical:
            return _read_json(layout.model(model) / "params.json")
        return dict(used["ensemble"] if model == ENSEMBLE else used["finetune"][model])

    results = []
    for model in judged_models(layout):
        if not (scores := _read_json(layout.scores(model))):
            continue
        paths = {kind: getattr(layout, kind)(model) for kind in TABLES}
        tables = {
            kind + path.suffix: path.read_text("utf-8")
            for kind, path in paths.items()
            if path.exists()
        }
        metrics = _numbers(scores) | _numbers(_read_json(layout.cost(model)))
        params = {key: str(value) for key, value in flatten(params_of(model)).items()}
        results.append(Result(model, params, metrics, tables))
    return results


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _numbers(tree: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for key, value in flatten(tree).items():
        with suppress(TypeError, ValueError):  # null, where a metric is not defined
            numbers[key] = float(value)
    return numbers


def tags_of(layout: Layout) -> dict[str, str]:
    """Where runs come from; `dirty`: code or params differ from the commit. None is empty."""
    files = [path for path in (layout.labels, layout.folds) if path.exists()]
    data = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    head = _git(layout.root, "rev-parse", "HEAD")
    words = ("--no-optional-locks", "status", "--porcelain", "-uno", "--", "*.py", "*.yaml")
    changed = _git(layout.root, *words)
    tags = {
        "dataset": layout.dataset,
        "experiment": os.environ.get("DVC_EXP_NAME") or "workspace",
        "commit": os.environ.get("DVC_EXP_BASELINE_REV") or head,
        "dirty": None if changed is None else str(bool(changed)).lower(),
        "data": data if len(files) == 2 else None,
    }
    return {key: value for key, value in tags.items() if value}


def _git(folder: Path, *words: str) -> str | None:
    """What git answers; None where it refuses, as in the repository of another owner."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
