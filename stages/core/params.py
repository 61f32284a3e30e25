"""One strict, typed section of a dataset's params file.

A param that a file leaves out has the default of its class. The class stands in a module of its
stage, or in the core: DVC runs the stage again when a default changes.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import InputError
from stages.core.layout import Layout

TAGS = ("format", "kind")  # the key that tells which type of a union is meant
LONGEST = 200  # letters of a value that an error shows


class Params(BaseModel):
    """Base of all params classes: no coercion, no unknown key, no change after reading.

    A class that stands for one section of a dataset's file names it as its `section`.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
    section: ClassVar[str]


P = TypeVar("P", bound=Params)
V = TypeVar("V")


def each_once(values: tuple[V, ...]) -> tuple[V, ...]:
    """The values of a param, for `AfterValidator`, if they differ."""
    if len(set(values)) < len(values):
        raise ValueError("duplicate value")
    return values


def read_params(kind: type[P], layout: Layout, section: str | None = None) -> P:
    """Read and check a section of a dataset's file: `section`, or the one that the class names."""
    name = kind.section if section is None else section
    return check_params(kind, read_section(layout.params, name), layout.params, name)


def read_section(path: Path, section: str) -> Any:
    """What a section of a YAML file holds; dots in `section` go deeper."""
    tree = read_yaml(path)
    for step in section.split("."):
        if not isinstance(tree, dict) or step not in tree:
            known = ", ".join(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
            raise InputError(
                f"{path}: {section}: no section {step!r}, got {known}; "
                "expected a section of that name"
            )
        tree = tree[step]
    return tree


def check_params(kind: type[P], tree: Any, path: Path, section: str = "") -> P:
    """The params that `tree` holds: those of the file `path`, or of its `section`.

    Validation runs in JSON mode, so that a list becomes a tuple and a quoted number is refused.

    Raises:
        InputError: Any of its keys is unknown, missing or wrong; lists every fault.
    """
    try:
        return kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        faults = faults_of(kind, tree, section, error)
        where = f" in {section}" if section else ""
        raise InputError.listing(f"{path}: {len(faults)} fault(s){where}", faults) from None
    except TypeError as error:
        raise InputError(
            f"{path}: {section or 'params'}: {error}; expected numbers, strings, lists and maps"
        ) from error


@contextmanager
def in_section(kind: type[Params], layout: Layout, section: str | None = None) -> Iterator[None]:
    """Put the file and the section before an `InputError` that begins with a key of `kind`.

    Some faults show only where params meet data or a network, in code that does not know which
    section its params come from. The section is that of the class where none is given.
    """
    try:
        yield
    except InputError as error:
        key = str(error).partition(":")[0].partition(".")[0]
        if key not in kind.model_fields:
            raise
        name = kind.section if section is None else section
        raise InputError(f"{layout.params}: {name}.{error}") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as DVC reads it: 1.2, where PyYAML takes `2e-5` for a string."""
    if not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise InputError(f"{path}: no such file; expected one of {known} in {path.parent}")
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def faults_of(kind: type[BaseModel], tree: Any, name: str, error: ValidationError) -> list[str]:
    """A line for each fault of `tree`: where it stands below `name`, what came, what is allowed.

    Of a value that may be one of several types, each type has its faults: those that reach deeper
    tell what was meant.
    """
    found = [(_place(tree, fault), fault) for fault in error.errors(include_url=False)]
    places = {place for place, _ in found}
    deeper = {place[:end] for place in places for end in range(len(place))}
    return [
        ".".join(filter(None, [name, *place])) + _wrong(kind, tree, place, fault)
        for place, fault in found
        if place not in deeper or fault["type"] == "value_error"
    ]


def _place(tree: Any, fault: Any) -> tuple[str, ...]:
    """The keys that lead to a fault, without what pydantic puts in for the type it tried."""
    place: list[str] = []
    is_tagged = False
    for step in fault["loc"]:
        is_map = isinstance(tree, dict)
        if is_map and step in map(tree.get, TAGS) and not is_tagged:
            is_tagged = True  # of a union: its own key may follow
        elif (is_map and step in tree) or (isinstance(tree, list) and isinstance(step, int)):
            tree, is_tagged = tree[step], False
            place.append(str(step))
    return (*place, str(fault["loc"][-1])) if fault["type"] == "missing" else tuple(place)


def _wrong(kind: type[BaseModel], tree: Any, place: tuple[str, ...], fault: Any) -> str:
    got = repr(fault["input"])
    got = got if len(got) <= LONGEST else got[:LONGEST] + "..."
    match fault["type"]:
        case "missing":
            return ": missing; expected a value"
        case "extra_forbidden":
            return f": unknown key, got {got}; expected one of {_keys(kind, tree, place[:-1])}"
        case "union_tag_invalid" | "union_tag_not_found" as what:
            key, about = fault["ctx"]["discriminator"].strip("'"), fault["ctx"]
            if what == "union_tag_not_found":
                return f".{key}: missing; expected a value"
            return f".{key}: got {about['tag']!r}; expected {about['expected_tags']}"
        case "model_type":
            return f": got {got}; expected an object with keys of {_keys(kind, tree, place)}"
        case "value_error" if isinstance(fault["input"], dict):
            return f": {fault['ctx']['error']}"
    return f": {fault['msg'].removeprefix('Value error, ')}, got {got}"


def _keys(kind: type[BaseModel], tree: Any, place: Iterable[str]) -> list[str]:
    """The keys that are known at a place; names in a mapping and numbers in a list lead nowhere."""
    kinds = [kind]
    for step in place:
        fields = [one.model_fields[step] for one in kinds if step in one.model_fields]
        kinds = [found for field in fields for found in _models(field.annotation)] or kinds
        tree = tree[int(step) if isinstance(tree, list) else step]
        kinds = [one for one in kinds if _is_meant(one, tree)] or kinds
    return sorted({key for one in kinds for key in one.model_fields})


def _is_meant(kind: type[BaseModel], tree: Any) -> bool:
    """Whether the map `tree` has the tag of `kind`, where that is one of a union."""
    tags = {key: kind.model_fields[key] for key in TAGS if key in kind.model_fields}
    return isinstance(tree, dict) and all(
        tree.get(key) in get_args(field.annotation) for key, field in tags.items()
    )


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
