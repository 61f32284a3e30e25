"""Check params.yaml and the files of all datasets that it lists, before any other stage runs.

In: params.yaml, params/, and dvc.yaml, whose commands name the modules that hold the params
classes. Out: `data/checked.txt`, a constant text that all other stages wait for, and for each
dataset `data/used_params/<dataset>.json`, the values of all its params with the defaults. A wrong
name or value thus ends the pipeline at once, and all faults are listed together. A change of the
lists alone reruns nothing but this stage.

    python -m stages.data.check
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.build import BuildParams, read_build
from stages.core.errors import InputError
from stages.core.layout import CHECKED, ENSEMBLE, PARAMS, USED_PARAMS, Layout
from stages.core.params import read_yaml
from stages.core.tables import atomic, write_json
from stages.data._sections import BACKBONES, DEMO, Sections, is_model, read_kinds
from stages.runtime.cli import run

log = logging.getLogger("verdict")

SOUND = "names and lists of params.yaml are sound\n"


def check(params: BuildParams, root: Path = Path()) -> dict[str, dict[str, Any]]:
    """The values of all params of each dataset that is built.

    Args:
        params: What params.yaml holds; its names are well-formed.
        root: The folder of params.yaml, params/ and dvc.yaml.

    Raises:
        InputError: Anything is wrong with the lists in `params` or in a dataset's file; lists
            every fault.
    """
    faults = [*_duplicate_names(params), *_missing_models(params), *_unknown_in_curves(params)]
    values, kinds = {}, read_kinds(root)
    # the section of a stage, even where a dataset makes no use of it: DVC asks for it
    needed = [kind for kind in kinds if kind not in (DEMO, BACKBONES)]
    needed += filter(is_model, params.build.models)
    for name in params.datasets:
        layout = Layout(name, root)
        try:
            found = Sections(layout, kinds)
        except InputError as error:
            faults.append(f"datasets: {error}")
            continue
        values[name] = found.values
        faults += found.faults
        faults += found.missing([DEMO, *needed] if name == DEMO else needed)
        faults += _missing_backbones(params, layout, found)
    for name in params.learning_curves.datasets:
        try:
            if name not in params.datasets:
                read_yaml(Layout(name, root).params)
        except InputError as error:
            faults.append(f"learning_curves.datasets: {error}")
    if faults:
        raise InputError.listing(f"{PARAMS}: {len(faults)} fault(s)", faults)
    return values


def _duplicate_names(params: BuildParams) -> Iterator[str]:
    """Two models of one name would write the same files."""
    names = Counter([*params.build.models, *params.build.backbones, ENSEMBLE])
    for name, count in names.items():
        if count > 1:
            yield (
                f"build: duplicate name {name!r}; expected a different one for each model and "
                f"backbone, and never {ENSEMBLE!r}"
            )


def _missing_models(params: BuildParams) -> Iterator[str]:
    for name in dict.fromkeys(params.build.models):
        if not is_model(name):
            yield (
                f"build: no model {name!r} in stages/models; expected the name of a module there, "
                "neither a package nor private"
            )


def _unknown_in_curves(params: BuildParams) -> Iterator[str]:
    built = params.build.models
    if unknown := [name for name in params.learning_curves.models if name not in built]:
        yield f"learning_curves.models: got {unknown}; expected models of build: {list(built)}"


def _missing_backbones(params: BuildParams, layout: Layout, found: Sections) -> Iterator[str]:
    known = list(found.values.get(BACKBONES, ()))
    if missing := [name for name in params.build.backbones if name not in known]:
        yield (
            f"{layout.params}: {BACKBONES}: no section for {missing}, got {known}; expected one "
            "for each of build.backbones, or null where the dataset does without it"
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
