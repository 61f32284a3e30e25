"""All sections of a dataset's file, checked by the params classes of the stages that read them.

The commands in dvc.yaml name the modules of the stages, and these hold the classes. The modules are
imported by name, which the rooms before them may not do otherwise: no stage is called, and none
imports a heavy library at its top.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.params import Params, check_params, read_yaml

PIPELINE = Path("dvc.yaml")
MODELS = "stages.models"
DEMO = "demo"  # the dataset and the section of the stage that writes it
BACKBONES = "finetune"  # holds a section for each backbone, or null


def is_model(name: str) -> bool:
    """Whether `stages.models` has a module of that name, neither a package nor a private one."""
    if name.startswith("_") or not name.isidentifier():
        return False
    found = find_spec(f"{MODELS}.{name}")
    return found is not None and found.submodule_search_locations is None


def read_kinds(root: Path = Path()) -> dict[str, type[Params]]:
    """The params class of each section that a stage reads, but for those of the models."""
    kinds = {}
    for stage in read_yaml(root / PIPELINE)["stages"].values():
        module = stage["cmd"].split()[2]  # python -m <module>
        if "${" in module:
            continue
        for value in vars(import_module(module)).values():
            if isinstance(value, type) and issubclass(value, Params) and hasattr(value, "section"):
                kinds[value.section] = value
    return kinds


class Sections:
    """What a dataset's file holds.

    Attributes:
        values: All values of each section, in the order of the file: those that it leaves out are
            the defaults of their classes.
        faults: What is wrong, a line each.
    """

    def __init__(self, layout: Layout, kinds: Mapping[str, type[Params]]) -> None:
        self.values: dict[str, Any] = {}
        self.faults: list[str] = []
        self._path = layout.params
        tree = read_yaml(layout.params)
        self._tree: dict[Any, Any] = tree if isinstance(tree, dict) else {}
        for section, content in self._tree.items():
            if section == BACKBONES:
                backbones = content if isinstance(content, dict) else {}
                self.values[section] = {
                    name: self._checked(kinds[section], given, f"{section}.{name}")
                    for name, given in backbones.items()
                }
            elif section in kinds:
                self.values[section] = self._checked(kinds[section], content, section)
            elif isinstance(section, str) and is_model(section):
                kind = import_module(f"{MODELS}.{section}").MODEL.params
                self.values[section] = self._checked(kind, content, section)
            else:
                self.faults.append(
                    f"{self._path}: {section}: unknown section; expected a model of "
                    f"stages/models, or one of {sorted(kinds)}"
                )

    def _checked(self, kind: type[Params], content: Any, section: str) -> Any:
        if content is None and section.startswith(f"{BACKBONES}."):
            return None  # the dataset does without it
        try:
            return check_params(kind, content, self._path, section).model_dump(mode="json")
        except InputError as error:
            first, *faults = str(error).split("\n  ")
            self.faults += [f"{self._path}: {fault}" for fault in faults] or [first]
            return None

    def missing(self, needed: Iterable[str]) -> Iterator[str]:
        """A line for the sections that the file must have and has not."""
        if missing := [section for section in needed if section not in self._tree]:
            yield (
                f"{self._path}: no section {missing}; expected one for each stage and each model "
                "that is built, {} where the defaults do"
            )
