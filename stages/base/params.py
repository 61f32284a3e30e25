"""One strict, typed section of a dataset's params file."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.base.errors import InputError

FILE = Path("params.yaml")  # what `dvc repro` builds
FOLDER = Path("params")  # a file for each dataset, since DVC parses it whole once a stage


class Params(BaseModel):
    """Base of all params classes: no coercion, no unknown key, no change after reading."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


P = TypeVar("P", bound=BaseModel)


def read_params(kind: type[P], dataset: str, section: str, folder: Path = FOLDER) -> P:
    """Read and check a section of `<folder>/<dataset>.yaml`; dots in `section` go deeper.

    ruamel.yaml reads YAML 1.2 as DVC does, where PyYAML takes `2e-5` for a string. Validation runs
    in JSON mode, so that a list becomes a tuple and a quoted number is refused.

    Raises:
        InputError: The file or the section is missing, or any of its keys is unknown, missing or
        wrong; lists every fault.
    """
    path = folder / f"{dataset}.yaml"
    tree = _read_tree(path)
    for step in section.split("."):
        if not isinstance(tree, dict) or step not in tree:
            known = ", ".join(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
            raise InputError(
                f"{path}: {section}: no section {step!r}, got {known}; "
                "expected a section of that name"
            )
        tree = tree[step]
    try:
        return kind.model_validate_json(json.dumps(tree))
    except (TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            faults = [_fault(section, fault) for fault in error.errors()]
            raise InputError.listing(
                f"{path}: {len(faults)} fault(s) in {section}", faults
            ) from None
        raise InputError(
            f"{path}: {section}: {error}; expected numbers, strings, lists and maps"
        ) from error


def read_datasets() -> list[str]:
    """Names of the datasets that `dvc repro` builds: the list `datasets` of params.yaml.

    Raises:
        InputError: The file cannot be read, or has no such list.
    """
    tree = _read_tree(FILE)
    found = tree.get("datasets") if isinstance(tree, dict) else None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{FILE}: datasets: got {found!r}; expected a list of names")
    return found


def _read_tree(path: Path) -> Any:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _fault(name: str, fault: Any) -> str:
    where = ".".join([name, *map(str, fault["loc"])])
    got = "" if fault["type"] in {"missing", "extra_forbidden"} else f", got {fault['input']!r}"
    return f"{where}: {fault['msg']}{got}"
