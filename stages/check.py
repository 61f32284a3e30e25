"""Check params.yaml and the files of all datasets that it lists, before any other stage runs.

In: params.yaml, params/, and dvc.yaml, whose commands name the modules that hold the params
classes. Out: `data/checked.txt`, a constant text that all other stages wait for, and for each
dataset `data/used_params/<dataset>.json`, the values of all its params with the defaults. All
faults are listed together; a change of the lists alone reruns nothing but this stage.

    python -m stages.check
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from stages.core.build import BuildParams, read_build
from stages.core.errors import InputError
from stages.core.layout import CHECKED, ENSEMBLE, PARAMS, USED_PARAMS, Layout
from stages.core.params import Params, check_params, read_yaml
from stages.core.tables import atomic, write_json
from stages.models.fitting.model import is_model, load_model
from stages.runtime.cli import run

log = logging.getLogger("verdict")

SOUND = "names and lists of params.yaml are sound\n"
DEMO = "demo"  # the dataset and the section of the stage that writes it
BACKBONES = "finetune"  # holds a section for each backbone, null where a dataset does without it

Kinds: TypeAlias = Mapping[str, type[Params]]  # the class of each section


def read_kinds() -> dict[str, type[Params]]:
    """The params class of each section that a stage of dvc.yaml reads, but for the models'."""
    kinds = {}
    for stage in read_yaml(Path("dvc.yaml"))["stages"].values():
        module = stage["cmd"].split()[2]  # python -m <module>
        if "${" in module:
            continue
        for value in vars(import_module(module)).values():
            if isinstance(value, type) and issubclass(value, Params) and hasattr(value, "section"):
                kinds[value.section] = value
    return kinds


def check(params: BuildParams) -> dict[str, dict[str, Any]]:
    """The values of all params of each dataset that is built, in the order of its file."""
    faults, kinds, values = list(list_faults(params)), read_kinds(), {}
    for name in params.datasets:
        path = Layout(name).params
        try:
            tree = read_yaml(path)
        except InputError as error:
            faults.append(f"datasets: {error}")
            continue
        sections = tree if isinstance(tree, dict) else {}
        values[name], wrong = check_sections(sections, kinds, path)
        faults += wrong
        faults += missing_sections(name, sections, kinds, params)
    for name in params.learning_curves.datasets:
        if name not in params.datasets:
            try:
                read_yaml(Layout(name).params)
            except InputError as error:
                faults.append(f"learning_curves.datasets: {error}")
    if faults:
        raise InputError.listing(f"{PARAMS}: {len(faults)} fault(s)", faults)
    return values


def list_faults(params: BuildParams) -> Iterator[str]:
    """What is wrong with the lists of params.yaml."""
    built = params.build.models
    for name, count in Counter([*built, *params.build.backbones, ENSEMBLE]).items():
        if count > 1:  # they would write the same files
            yield (
                f"build: duplicate name {name!r}; expected a different one for each model and "
                f"backbone, and never {ENSEMBLE!r}"
            )
    for name in dict.fromkeys(built):
        if not is_model(name):
            yield (
                f"build: no model {name!r} in stages/models; expected the name of a module there, "
                "neither a package nor private"
            )
    if unknown := [name for name in params.learning_curves.models if name not in built]:
        yield f"learning_curves.models: got {unknown}; expected models of build: {list(built)}"


def check_sections(
    sections: Mapping[str, Any], kinds: Kinds, path: Path
) -> tuple[dict[str, Any], list[str]]:
    """All values of a dataset's sections, and what is wrong with them."""
    faults: list[str] = []

    def checked(kind: type[Params], content: Any, section: str) -> Any:
        try:
            return check_params(kind, content, path, section).model_dump(mode="json")
        except InputError as error:
            first, *others = str(error).split("\n  ")
            faults.extend([f"{path}: {fault}" for fault in others] or [first])
            return None

    values: dict[str, Any] = {}
    for section, content in sections.items():
        if section == BACKBONES:
            values[section] = {
                name: None if own is None else checked(kinds[section], own, f"{section}.{name}")
                for name, own in (content if isinstance(content, dict) else {}).items()
            }
        elif section in kinds:
            values[section] = checked(kinds[section], content, section)
        elif is_model(section):
            values[section] = checked(load_model(section).params, content, section)
        else:
            faults.append(
                f"{path}: {section}: unknown section; expected a model of stages/models, or one "
                f"of {sorted(kinds)}"
            )
    return values, faults


def missing_sections(
    dataset: str, sections: Mapping[str, Any], kinds: Kinds, params: BuildParams
) -> Iterator[str]:
    """The sections that DVC asks for, though a dataset may make no use of them."""
    path = Layout(dataset).params
    needed = [kind for kind in kinds if kind != BACKBONES and (kind != DEMO or dataset == DEMO)]
    needed += filter(is_model, params.build.models)
    if missing := [section for section in needed if section not in sections]:
        yield (
            f"{path}: no section {missing}; expected one for each stage and each model that is "
            "built, {} where the defaults do"
        )
    backbones = sections.get(BACKBONES)
    known = list(backbones) if isinstance(backbones, dict) else []
    if missing := [name for name in params.build.backbones if name not in known]:
        yield (
            f"{path}: {BACKBONES}: no section for {missing}, got {known}; expected one for each "
            "of build.backbones, or null where the dataset does without it"
        )


def main() -> None:
    """Check all params, and write the text that says so and the values that are used."""
    params = read_build()
    values = check(params)
    with atomic(USED_PARAMS) as folder:
        folder.mkdir()
        for name, sections in values.items():
            write_json(sections, folder / Layout(name).used_params.name)
    with atomic(CHECKED) as temporary:
        temporary.write_text(SOUND, encoding="utf-8")
    log.info("check: all params are sound; datasets to build: %s", ", ".join(params.datasets))


if __name__ == "__main__":
    run(main)
