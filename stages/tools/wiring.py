"""Write the code deps of all stages into dvc.yaml: what each stage imports, directly or not.

DVC does not follow imports. A stage depends on its own module and on all modules of the project
that it imports, but for those of `stages/runtime`, which cannot change a result. Some folders are
deps as a whole; folders that dvc.yaml names already stay as they are written. A stage that stands
for several models depends on the module of its own one, and on whatever any of them imports.

    python -m stages.tools.wiring
"""

import ast
import logging
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from stages.core.build import read_build
from stages.core.params import read_yaml
from stages.core.tables import atomic
from stages.runtime.cli import run

log = logging.getLogger("verdict")

FILE = Path("dvc.yaml")
WHOLE = (  # folders that a stage depends on as a whole, if it does at all
    "stages/core",
    "stages/data/readers",
    "stages/evaluation/scoring",
    "stages/models/fitting",
    "stages/transformer/network",
    "stages/transformer/training",
)
FREE = "stages/runtime"  # cannot change a result
MODEL = "${item.model}"
GROUPS = ("linear", "dense", "latent")  # stages that stand for several models


@cache
def imports_of(file: Path) -> frozenset[Path]:
    """Files of the project that a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {Path(*name.split(".")).with_suffix(".py") for name in names}
    return frozenset(file for file in files if file.parts[0] == "stages" and file.is_file())


def closure_of(files: Iterable[Path]) -> set[Path]:
    """The files, and all that they import, directly or not."""
    seen: set[Path] = set()
    todo = list(files)
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imports_of(file)
    return seen


def code_deps(stage: dict[str, Any]) -> list[str]:
    """The code deps of a stage of dvc.yaml, sorted."""
    module = stage["cmd"].replace("'", "").split()[2]
    names = models_of(stage) if MODEL in stage["cmd"] else ()
    models = {Path("stages/models", f"{name}.py") for name in names}
    found = {f"stages/models/{MODEL}.py"} if models else set()
    own = set() if MODEL in module else {Path(*module.split(".")).with_suffix(".py")}
    for file in closure_of(models | own) - models:
        name = file.as_posix()
        whole = next((folder for folder in WHOLE if name.startswith(f"{folder}/")), None)
        if not name.startswith(f"{FREE}/"):
            found.add(whole or name)
    return sorted(found)


def models_of(stage: dict[str, Any]) -> tuple[str, ...]:
    """The models that a templated stage stands for."""
    key = stage["matrix"]["model"].strip("${}")
    if key == "learning_curves.models":  # may be any of those that are built
        return read_build().build.models
    models: tuple[str, ...] = getattr(read_build().build, key.removeprefix("build."))
    return models


def rewritten(text: str) -> str:
    """dvc.yaml with the code deps of all stages."""
    for name, stage in read_yaml(FILE)["stages"].items():
        block = re.search(rf"^  {name}:\n(?:    .*\n|\n)+", text, flags=re.MULTILINE)
        if block is None:
            raise ValueError(f"{FILE}: {name}: not laid out as expected")
        if "\n    deps: [" in block[0]:
            continue
        # folders without Python stay as they are written: templates, say
        kept = [
            dep
            for dep in stage["deps"]
            if dep.startswith("stages/") and not dep.endswith(".py") and dep not in WHOLE
        ]
        lines = "".join(f"    - {dep}\n" for dep in sorted([*code_deps(stage), *kept]))
        old = re.sub(r"^    - stages/.*\n", "", block[0], flags=re.MULTILINE)
        deps = re.search(r"^    deps:.*\n(?:    - .*\n)*", old, flags=re.MULTILINE)
        if deps is None:
            raise ValueError(f"{FILE}: {name}: deps: not laid out as expected")
        new = old.replace(deps[0], deps[0] + lines, 1)
        text = text.replace(block[0], new, 1)
    return text


def main() -> None:
    """Write the code deps into dvc.yaml."""
    text = FILE.read_text(encoding="utf-8")
    new = rewritten(text)
    with atomic(FILE) as temporary:
        temporary.write_text(new, encoding="utf-8")
    log.info("wiring: %s", "nothing changed" if new == text else f"{FILE} written anew")


if __name__ == "__main__":
    run(main)
