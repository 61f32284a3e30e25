"""What tests put into a folder before a stage runs there."""

import json
from pathlib import Path
from typing import Any


def write_params(folder: Path, dataset: str, **sections: Any) -> None:
    """Write `params/<dataset>.yaml` with these sections; JSON is YAML."""
    (folder / "params").mkdir(exist_ok=True)
    (folder / "params" / f"{dataset}.yaml").write_text(json.dumps(sections), encoding="utf-8")


def write_build(folder: Path, models: list[str], backbones: list[str] | None = None) -> None:
    """Write a params.yaml that builds these models (of any kind) and backbones; JSON is YAML."""
    groups = {"linear": models, "dense": [], "latent": [], "backbones": backbones or []}
    content = {"datasets": [], "build": groups, "learning_curves": {"datasets": [], "models": []}}
    (folder / "params.yaml").write_text(json.dumps(content), encoding="utf-8")
