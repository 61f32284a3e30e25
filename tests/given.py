"""What tests put into a folder before a stage runs there."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def write_params(folder: Path, dataset: str, **sections: Any) -> None:
    """Write `params/<dataset>.yaml` with these sections."""
    (folder / "params").mkdir(exist_ok=True)
    YAML(typ="safe").dump(sections, folder / "params" / f"{dataset}.yaml")
