import json
import math
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.params import Params, in_section, read_params


class Inner(Params):
    size: Annotated[int, Field(ge=1)]


class Section(Params):
    section = "model"

    rate: Annotated[float, Field(gt=0, lt=1)]
    count: int
    names: tuple[str, ...]
    inner: Inner


GOOD = {"rate": 0.5, "count": 3, "names": ["x", "y"], "inner": {"size": 2}}


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(text, section=None):
    Path("params").mkdir()
    Path("params/demo.yaml").write_text(text, encoding="utf-8")
    return read_params(Section, Layout("demo"), section)


def read_section(**changes):
    section = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return read(json.dumps({"model": section}))


def test_section_is_read_with_its_types_and_cannot_be_changed():
    params = read_section()
    assert params == Section(rate=0.5, count=3, names=("x", "y"), inner=Inner(size=2))
    with pytest.raises(ValidationError, match="frozen"):
        params.count = 4


def test_all_faults_of_a_section_are_named_in_one_message():
    with pytest.raises(InputError, match=r"4 fault\(s\) in model") as caught:
        read_section(rate=7, count="three", inner={"size": 0, "typo": 1}, names=["x"])
    for expected in (
        "model.rate: Input should be less than 1, got 7",
        "model.count: Input should be a valid integer, got 'three'",
        "model.inner.size: Input should be greater than or equal to 1, got 0",
        "model.inner.typo: unknown key, got 1; expected one of ['size']",
    ):
        assert expected in str(caught.value)


def test_missing_and_unknown_keys_are_named_together():
    with pytest.raises(InputError, match=r"2 fault\(s\)") as caught:
        read_section(count=None, cuont=3)
    assert "model.count: missing; expected a value" in str(caught.value)
    assert "model.cuont: unknown key, got 3; expected one of ['count'," in str(caught.value)


@pytest.mark.parametrize("given", [3, [1, 2], "size"])
def test_value_in_place_of_a_map_is_told_with_the_keys_of_that(given):
    with pytest.raises(InputError) as caught:
        read_section(inner=given)
    expected = f"model.inner: got {given!r}; expected an object with keys of ['size']"
    assert str(caught.value).splitlines()[1].strip() == expected


class Shape(Params):
    kind: Literal["corners"]
    corners: tuple[str, ...] | str


class Disc(Params):
    kind: Literal["disc"]
    radius: int


class Drawing(Params):
    section = "model"

    shape: Annotated[Shape | Disc, Field(discriminator="kind")]
    named: dict[str, Disc]

    @model_validator(mode="after")
    def _fits(self):
        raise ValueError("nothing fits; expected less")


@pytest.mark.parametrize(
    ("shape", "faults"),
    [
        ({"kind": "corners", "corners": [1]}, ["shape.corners.0: Input should be a valid string"]),
        ({"kind": "corners"}, ["shape.corners: missing; expected a value"]),
        (
            {"kind": "disc", "radius": 1, "size": 2},
            ["shape.size: unknown key, got 2; expected one of ['kind', 'radius']"],
        ),
        ({"kind": "square"}, ["shape.kind: got 'square'; expected 'corners', 'disc'"]),
        ({"radius": 1}, ["shape.kind: missing; expected a value"]),
        ({"kind": "disc", "radius": "x" * 300}, ["shape.radius: Input should be a valid integer"]),
    ],
)  # fmt: skip
def test_fault_within_a_union_is_told_where_it_stands_in_the_file(shape, faults):
    text = json.dumps({"model": {"shape": shape, "named": {}}})
    Path("params").mkdir()
    Path("params/demo.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_params(Drawing, Layout("demo"))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(faults)
    for line, fault in zip(lines, faults, strict=True):
        assert line.startswith(f"  model.{fault}")
        assert len(line) < 300


def test_fault_in_a_mapping_names_its_key_and_a_rule_over_all_shows_no_dump():
    disc = {"kind": "disc", "radius": 1}
    Path("params").mkdir()
    unknown = "named.big.r: unknown key, got 2; expected one of ['kind', 'radius']"
    for named, fault in (
        ({"big": disc | {"r": 2}}, unknown),
        ({"big": disc}, "nothing fits; expected less"),
    ):
        text = json.dumps({"model": {"shape": disc, "named": named}})
        Path("params/demo.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_params(Drawing, Layout("demo"))
        assert str(caught.value).splitlines()[1:] in ([f"  model.{fault}"], [f"  model: {fault}"])


@pytest.mark.parametrize("fault", ["named: got 1", "shape.radius: got 1"])
def test_fault_that_begins_with_a_key_gets_its_file_and_section(fault):
    with pytest.raises(InputError) as caught, in_section(Drawing, Layout("demo"), "deep.model"):
        raise InputError(fault)
    assert str(caught.value) == f"params/demo.yaml: deep.model.{fault}"


def test_other_fault_stays_as_it_is():
    with (
        pytest.raises(InputError, match=r"^/a/shape.csv: missing$"),
        in_section(Drawing, Layout("x")),
    ):
        raise InputError("/a/shape.csv: missing")


def test_exponent_without_a_point_is_a_number():
    text = "model: {rate: 2e-5, count: 1, names: [x], inner: {size: 1}}"
    assert math.isclose(read(text).rate, 2e-5)


@pytest.mark.parametrize(
    ("key", "value"), [("rate", "0.5"), ("count", "1"), ("count", 1.5), ("count", True)]
)
def test_value_is_never_coerced(key, value):
    with pytest.raises(InputError, match=rf"model\.{key}: .*got {value!r}"):
        read_section(**{key: value})


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_number_that_is_not_finite_is_refused(value):
    text = f"model: {{rate: {value}, count: 1, names: [x], inner: {{size: 1}}}}"
    with pytest.raises(InputError, match=r"model\.rate: "):
        read(text)


def test_missing_section_names_those_that_there_are():
    with pytest.raises(InputError, match=r"model: no section 'model', got svm, mlp"):
        read("{svm: {}, mlp: {}}")


@pytest.mark.parametrize("text", ["demo: [", "demo: {a: 1, a: 2}", ""])
def test_file_that_is_no_map_is_an_input_error(text):
    with pytest.raises(InputError, match=r"params/demo\.yaml"):
        read(text)


def test_missing_file_is_an_input_error():
    Path("params").mkdir()
    Path("params/demo.yaml").touch()
    missing = r"params/nowhere\.yaml: no such file; expected one of \['demo'\] in params$"
    with pytest.raises(InputError, match=missing):
        read_params(Section, Layout("nowhere"))


def test_dots_in_a_section_go_deeper():
    assert read(json.dumps({"outer": {"inner": GOOD}}), "outer.inner").count == 3


def test_fault_of_a_class_with_a_section_gets_that():
    told = r"^params/demo\.yaml: model\.named: got 1$"
    with pytest.raises(InputError, match=told), in_section(Drawing, Layout("demo")):
        raise InputError("named: got 1")


class Defaults(Params):
    section = "model"

    rate: Annotated[float, Field(gt=0)] = 0.5
    inner: Inner = Inner(size=3)


def test_what_a_section_leaves_out_is_the_default():
    Path("params").mkdir()
    Path("params/demo.yaml").write_text("model: {rate: 2.0}", encoding="utf-8")
    assert read_params(Defaults, Layout("demo")) == Defaults(rate=2.0, inner=Inner(size=3))


def test_default_is_checked_like_a_given_value():
    class Wrong(Params):
        rate: Annotated[float, Field(gt=0)] = -1.0

    with pytest.raises(ValidationError, match="greater than 0"):
        Wrong()
