import json
import re
from pathlib import Path

import pytest

from stages.core.build import built_models, judged_models, read_build
from stages.core.errors import InputError
from stages.core.layout import Layout
from tests.given import write_params

GROUPS = {"linear": ["svm"], "dense": ["xgb", "mlp"], "latent": ["lgbm"], "backbones": ["mini"]}
CURVES = {"datasets": [], "models": ["svm"]}
SOUND = "expected letters, digits, _ and -, no number and not null"


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder=Path(), **changes):
    """Write params.yaml; JSON is YAML."""
    content = {"datasets": ["demo"], "build": GROUPS, "learning_curves": CURVES} | changes
    (folder / "params.yaml").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def faults(**changes):
    write(**changes)
    with pytest.raises(InputError, match=r"^params\.yaml: [0-9]+ fault\(s\)\n") as caught:
        read_build()
    first, *found = str(caught.value).splitlines()
    assert first == f"params.yaml: {len(found)} fault(s)"
    return [fault.strip() for fault in found]


def test_lists_are_read_in_their_order():
    write(datasets=["two", "one"])
    params = read_build()
    assert params.datasets == ("two", "one")
    assert params.build.models == ("svm", "xgb", "mlp", "lgbm")
    assert params.build.backbones == ("mini",)
    assert (params.learning_curves.datasets, params.learning_curves.models) == ((), ("svm",))


def test_lists_may_be_empty():
    build, curves = ({key: [] for key in lists} for lists in (GROUPS, CURVES))
    write(datasets=[], build=build, learning_curves=curves)
    assert read_build().datasets == read_build().build.models == ()


@pytest.mark.parametrize("name", ["demo", "goemotions_single", "a-b", "_", "A2024", "nulls"])
def test_letters_digits_and_two_signs_make_a_name(name):
    write(datasets=[name])
    assert read_build().datasets == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("2024", "7", "null", "NULL", "true", "False"),  # YAML and DVC take these for other things
        *("", " ", "a b", "a\n", "a.b", "../a", "a/b", "naïve", "🦦", "\0"),
        *("$(touch x)", "a'b", 'a"b', "a;b", "`a`", "${datasets}", "a,b", "[a]", "a=b", "a@b"),
    ],
)
def test_name_that_cannot_stand_in_a_path_or_command_is_refused(name):
    assert faults(datasets=["demo", name]) == [f"datasets.1: {SOUND}, got {name!r}"]
    for group in GROUPS:
        build = GROUPS | {group: [name]}
        assert faults(build=build) == [f"build.{group}.0: {SOUND}, got {name!r}"]
    for key in CURVES:
        curves = CURVES | {key: [name]}
        assert faults(learning_curves=curves) == [f"learning_curves.{key}.0: {SOUND}, got {name!r}"]


@pytest.mark.parametrize("value", [7, 1.5, None, True, ["demo"], {"demo": 1}])
def test_value_that_is_no_text_is_refused(value):
    assert faults(datasets=[value]) == [
        f"datasets.0: Input should be a valid string, got {value!r}"
    ]


def test_names_that_yaml_reads_as_something_else_are_refused():
    Path("params.yaml").write_text(
        "datasets: [2024, null, ~, true, 1e5]\nlearning_curves: {datasets: [], models: []}\n"
        "build: {linear: [], dense: [], latent: [], backbones: []}\n"
    )
    with pytest.raises(InputError, match=r"5 fault\(s\)") as caught:
        read_build()
    assert re.findall(r"got (.*)", str(caught.value)) == [
        "2024",
        "None",
        "None",
        "True",
        "100000.0",
    ]


@pytest.mark.parametrize("value", ["demo", {"demo": 1}, None])
def test_value_that_is_no_list_is_refused(value):
    build = GROUPS | {"dense": value}
    assert faults(build=build) == [f"build.dense: Input should be a valid array, got {value!r}"]


def test_duplicate_is_refused():
    (fault,) = faults(build=GROUPS | {"dense": ["xgb", "mlp", "xgb"]})
    assert re.fullmatch(r"build\.dense: .+, got \['xgb', 'mlp', 'xgb'\]", fault)
    (fault,) = faults(datasets=["demo", "demo"])
    assert re.fullmatch(r"datasets: .+, got \['demo', 'demo'\]", fault)


def test_all_faults_are_named_at_once():
    found = faults(
        datasets=["2024", "demo", "null"],
        build=GROUPS | {"linear": ["svm", "svm"], "latent": "lgbm", "sparse": []},
        learning_curves={"datasets": [None]},
        data=["demo"],
    )
    places = [fault.partition(": ")[0] for fault in found]
    assert sorted(places) == [
        "build.latent", "build.linear", "build.sparse", "data", "datasets.0", "datasets.2",
        "learning_curves.datasets.0", "learning_curves.models",
    ]  # fmt: skip
    by_place = dict(zip(places, found, strict=True))
    assert by_place["build.sparse"] == (
        "build.sparse: unknown key, got []; expected one of "
        "['backbones', 'dense', 'latent', 'linear']"
    )
    assert by_place["learning_curves.models"] == (
        "learning_curves.models: missing; expected a value"
    )


@pytest.mark.parametrize("text", ["", "demo\n", "[datasets]\n", "datasets: ["])
def test_file_that_is_no_map_is_an_input_error(text):
    Path("params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"^params\.yaml: "):
        read_build()


def test_missing_file_is_an_input_error():
    with pytest.raises(InputError, match=r"^params\.yaml: no such file"):
        read_build()


def test_models_come_before_backbones_and_the_ensemble_last():
    write()
    write_params(Path(), "demo", finetune={"other": {}, "mini": {"seed": 0}})
    assert built_models(Layout("demo")) == ["svm", "xgb", "mlp", "lgbm", "mini"]
    assert judged_models(Layout("demo")) == ["svm", "xgb", "mlp", "lgbm", "mini", "ensemble"]


def test_backbone_whose_section_is_null_is_left_out():
    write(build=GROUPS | {"backbones": ["mini", "big"]})
    write_params(Path(), "demo", finetune={"mini": None, "big": {}})
    assert built_models(Layout("demo")) == ["svm", "xgb", "mlp", "lgbm", "big"]


@pytest.mark.parametrize("finetune", [None, {"other": {}}])
def test_backbone_without_a_section_is_left_out(finetune):
    write()
    write_params(Path(), "demo", finetune=finetune)
    assert built_models(Layout("demo")) == ["svm", "xgb", "mlp", "lgbm"]


def test_dataset_without_the_section_of_backbones_is_refused():
    write()
    write_params(Path(), "demo")
    with pytest.raises(InputError, match=r"params/demo\.yaml: finetune: no section 'finetune'"):
        built_models(Layout("demo"))


def test_file_of_the_dataset_is_not_read_where_no_backbone_is_built():
    write(build=GROUPS | {"backbones": []})
    assert built_models(Layout("nowhere")) == ["svm", "xgb", "mlp", "lgbm"]


def test_dataset_without_a_file_is_an_input_error():
    write()
    with pytest.raises(InputError, match=r"params/nowhere\.yaml: no such file"):
        built_models(Layout("nowhere"))


def test_another_folder_has_its_own_lists(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write()
    write(other, datasets=["mine"], build=GROUPS | {"latent": []})
    write_params(other, "mine", finetune={"mini": {}})
    assert read_build(other).datasets == ("mine",)
    assert built_models(Layout("mine", other)) == ["svm", "xgb", "mlp", "mini"]
