"""What tests put into a folder before a stage runs there."""

import json
from pathlib import Path
from typing import Any


def write_params(folder: Path, dataset: str, **sections: Any) -> None:
    """Write `params/<dataset>.yaml` with these sections; JSON is YAML."""
    (folder / "params").mkdir(exist_ok=True)
    (folder / "params" / f"{dataset}.yaml").write_text(json.dumps(sections), encoding="utf-8")
