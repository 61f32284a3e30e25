import json
import math
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from stages.base.errors import InputError
from stages.base.params import Params, read_datasets, read_params


class Inner(Params):
    size: Annotated[int, Field(ge=1)]


class Section(Params):
    rate: Annotated[float, Field(gt=0, lt=1)]
    count: int
    names: tuple[str, ...]
    inner: Inner


GOOD = {"rate": 0.5, "count": 3, "names": ["x", "y"], "inner": {"size": 2}}


def read(tmp_path, text, section="model"):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return read_params(Section, "demo", section, path)


def read_section(tmp_path, **changes):
    section = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return read(tmp_path, json.dumps({"demo": {"model": section}}))


def test_section_is_read_with_its_types_and_cannot_be_changed(tmp_path):
    params = read_section(tmp_path)
    assert params == Section(rate=0.5, count=3, names=("x", "y"), inner=Inner(size=2))
    with pytest.raises(ValidationError, match="frozen"):
        params.count = 4


def test_all_faults_of_a_section_are_named_in_one_message(tmp_path):
    with pytest.raises(InputError, match=r"4 fault\(s\) in demo\.model") as caught:
        read_section(tmp_path, rate=7, count="three", inner={"size": 0, "typo": 1}, names=["x"])
    for expected in (
        "demo.model.rate: Input should be less than 1, got 7",
        "demo.model.count: Input should be a valid integer, got 'three'",
        "demo.model.inner.size: Input should be greater than or equal to 1, got 0",
        "demo.model.inner.typo: Extra inputs are not permitted",
    ):
        assert expected in str(caught.value)


def test_missing_and_unknown_keys_are_named_together(tmp_path):
    with pytest.raises(InputError, match=r"2 fault\(s\)") as caught:
        read_section(tmp_path, count=None, cuont=3)
    assert "demo.model.count: Field required" in str(caught.value)
    assert "demo.model.cuont: Extra inputs are not permitted" in str(caught.value)


def test_exponent_without_a_point_is_a_number(tmp_path):
    text = "demo: {model: {rate: 2e-5, count: 1, names: [x], inner: {size: 1}}}"
    assert math.isclose(read(tmp_path, text).rate, 2e-5)


@pytest.mark.parametrize(
    ("key", "value"), [("rate", "0.5"), ("count", "1"), ("count", 1.5), ("count", True)]
)
def test_value_is_never_coerced(tmp_path, key, value):
    with pytest.raises(InputError, match=rf"demo\.model\.{key}: .*got {value!r}"):
        read_section(tmp_path, **{key: value})


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_number_that_is_not_finite_is_refused(tmp_path, value):
    text = f"demo: {{model: {{rate: {value}, count: 1, names: [x], inner: {{size: 1}}}}}}"
    with pytest.raises(InputError, match=r"demo\.model\.rate: "):
        read(tmp_path, text)


def test_missing_section_or_dataset_names_those_that_there_are(tmp_path):
    text = "demo: {svm: {}, mlp: {}}"
    with pytest.raises(InputError, match=r"demo\.model: no section 'model', got svm, mlp"):
        read(tmp_path, text)
    with pytest.raises(InputError, match=r"no section 'demo', got arena"):
        read(tmp_path, "arena: {}")


@pytest.mark.parametrize("text", ["demo: [", "demo: {a: 1, a: 2}", ""])
def test_file_that_is_no_map_is_an_input_error(tmp_path, text):
    with pytest.raises(InputError, match=r"params\.yaml"):
        read(tmp_path, text)


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read"):
        read_params(Section, "demo", "model", tmp_path / "nowhere.yaml")


def test_dots_in_a_section_go_deeper(tmp_path):
    assert (
        read(tmp_path, json.dumps({"demo": {"outer": {"inner": GOOD}}}), "outer.inner").count == 3
    )


@pytest.mark.parametrize(
    "text", ["demo: {}\n", "datasets: demo\n", "datasets: [1]\n", "[datasets]\n"]
)
def test_datasets_that_are_no_list_of_names_are_refused(tmp_path, text):
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"datasets: got .*; expected a list of names"):
        read_datasets(file)
