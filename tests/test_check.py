import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import check
from stages.core.errors import InputError
from stages.core.layout import CHECKED, USED_PARAMS, Layout
from tests.given import write_params

ROOT = Path(__file__).parents[1]
HEAVY = {"gensim", "lightgbm", "nltk", "numba", "optuna", "sklearn", "torch", "xgboost"}
SECTIONS = YAML(typ="safe").load(ROOT / "params/demo.yaml")
TUNED = SECTIONS["finetune"]["minilm"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def write(folder, datasets=("one",), curves=(), curve_models=(), **groups):
    """Write params.yaml, and a file for each of two datasets that use one backbone."""
    build = {"linear": ["svm"], "dense": ["mlp"], "latent": [], "backbones": ["mini"]} | groups
    content = {
        "datasets": list(datasets),
        "build": build,
        "learning_curves": {"datasets": list(curves), "models": list(curve_models)},
    }
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(content, file)
    write_dataset(folder, "one", finetune={"mini": TUNED})
    write_dataset(folder, "two", finetune={"mini": None})


def write_dataset(folder, name, **changes):
    """Write the demo's params with some sections changed, those without a value left out."""
    sections = SECTIONS | changes
    given = {key: value for key, value in sections.items() if value is not ...}
    write_params(folder, name, **given)


def faults(folder, **changes):
    """The faults that the stage names, after which it has written nothing."""
    write(folder, **changes)
    return faults_now()


def faults_now():
    """As `faults`, of the files that there are."""
    with pytest.raises(InputError, match=r"^params\.yaml: [0-9]+ fault\(s\)\n") as caught:
        check.main()
    assert not CHECKED.exists()
    assert not USED_PARAMS.exists()
    first, *found = str(caught.value).splitlines()
    assert first == f"params.yaml: {len(found)} fault(s)"
    return [fault.strip() for fault in found]


def test_sound_lists_give_the_same_text_whatever_they_are(folder):
    write(folder)
    check.main()
    assert CHECKED.read_bytes() == b"names and lists of params.yaml are sound\n"
    write(folder, datasets=["two", "one"], curves=["two"], curve_models=["mlp"], latent=["lgbm"])
    check.main()
    assert CHECKED.read_bytes() == b"names and lists of params.yaml are sound\n"


def test_command_takes_no_option_and_imports_no_heavy_library(folder):
    write(folder)
    code = (
        "import runpy, sys; runpy.run_module('stages.check', run_name='__main__');"
        f"assert not {HEAVY} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert CHECKED.exists()
    command = [sys.executable, "-m", "stages.check", "--dataset", "one"]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode


def test_params_of_all_datasets_of_the_project_are_sound(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = tuple(sorted(file.stem for file in Path("params").glob("*.yaml")))
    lists = check.read_build()
    values = check.check(lists.model_copy(update={"datasets": names}))
    assert tuple(values) == names
    assert len(names) >= 8


def test_all_values_are_written_in_the_order_of_the_file(folder):
    write(folder, datasets=["one", "two"])
    check.main()
    assert sorted(path.name for path in USED_PARAMS.iterdir()) == ["one.json", "two.json"]
    used = json.loads(Layout("one").used_params.read_text(encoding="utf-8"))
    assert list(used) == list(SECTIONS)
    assert used["svm"]["C"] == SECTIONS["svm"]["C"]
    assert used["svm"]["calibration_folds"] == 3  # the default of the class
    assert used["finetune"]["mini"]["batch_size"] == 32
    other = json.loads(Layout("two").used_params.read_text(encoding="utf-8"))
    assert other["finetune"] == {"mini": None}


def test_datasets_that_are_no_longer_built_leave_no_values(folder):
    write(folder, datasets=["one", "two"])
    check.main()
    write(folder, datasets=["two"])
    check.main()
    assert [path.name for path in USED_PARAMS.iterdir()] == ["two.json"]


def test_all_faults_of_all_sections_and_files_are_named_at_once(folder):
    write(folder, datasets=["one", "two"])
    write_dataset(folder, "one", split={"n_folds": 1, "typo": 2}, tyop={}, cascade=...)
    tuned = TUNED | {"seeds": 0}
    write_dataset(
        folder, "two", finetune={"mini": tuned, "other": 3}, svm=None, card=..., xgb={"C": 1}
    )
    starts = [
        "params/one.yaml: split.n_folds: Input should be greater than or equal to 2, got 1",
        "params/one.yaml: split.typo: unknown key, got 2; expected one of ['max_leak_share'",
        "params/one.yaml: tyop: unknown section; expected a model of stages/models, or one of",
        "params/one.yaml: no section ['cascade']; expected one for each stage and each model",
        "params/one.yaml: finetune: no section for ['mini'], got ['minilm']",
        "params/two.yaml: svm: got None; expected an object with keys of ['C'",
        "params/two.yaml: xgb.C: unknown key, got 1; expected one of",
        "params/two.yaml: finetune.mini.seeds: Input should be greater than or equal to 1, got 0",
        "params/two.yaml: finetune.other: got 3; expected an object with keys of",
        "params/two.yaml: no section ['card']; expected one for each stage and each model",
    ]
    found = faults_now()
    assert [fault[: len(start)] for fault, start in zip(found, starts, strict=True)] == starts


def test_section_of_a_model_that_is_not_built_is_known_and_checked(folder):
    write(folder)
    write_dataset(folder, "one", finetune={"mini": TUNED}, logreg={"C": -1.0})
    assert faults_now() == ["params/one.yaml: logreg.C: Input should be greater than 0, got -1.0"]


def test_only_the_demo_needs_the_section_of_its_stage(folder):
    write(folder, datasets=["demo", "one"])
    write_dataset(folder, "one", finetune={"mini": None}, demo=...)
    write_dataset(folder, "demo", finetune={"mini": None}, demo=...)
    assert [fault.split(";")[0] for fault in faults_now()] == [
        "params/demo.yaml: no section ['demo']"
    ]


def test_names_that_params_refuse_end_the_stage_first(folder):
    write(folder, datasets=["a b"], linear=["nosuch"])
    with pytest.raises(InputError, match=r"1 fault\(s\)\n  datasets\.0: expected letters"):
        check.main()
    assert not CHECKED.exists()


def test_all_faults_are_named_at_once(folder):
    found = faults(
        folder, datasets=["one", "nowhere"], curves=["elsewhere"], curve_models=["logreg"],
        linear=["svm", "nosuch"], latent=["mlp"], backbones=["mini", "maxi"],
    )  # fmt: skip
    starts = [
        "build: duplicate name 'mlp'",
        "build: no model 'nosuch'",
        "learning_curves.models: got ['logreg']",
        "params/one.yaml: finetune: no section for ['maxi'], got ['mini']",
        "datasets: params/nowhere.yaml: no such file",
        "learning_curves.datasets: params/elsewhere.yaml: no such file",
    ]
    assert [fault[: len(start)] for fault, start in zip(found, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *[("dense", name) for name in ("svm", "mini", "ensemble")],
        *[("latent", name) for name in ("svm", "mlp", "mini", "ensemble")],
        *[("backbones", name) for name in ("svm", "mlp", "ensemble")],
    ],
)
def test_name_of_a_model_backbone_or_the_ensemble_stands_once(folder, name, group):
    expected = (
        f"build: duplicate name {name!r}; expected a different one for each model and backbone, "
        "and never 'ensemble'"
    )
    assert expected in faults(folder, **{group: [name]})


@pytest.mark.parametrize("name", ["nosuch", "fitting", "_linear", "Svm"])
def test_model_without_a_module_of_its_name_is_refused(folder, name):
    assert faults(folder, linear=["svm", name]) == [
        f"build: no model {name!r} in stages/models; expected the name of a module there, "
        "neither a package nor private"
    ]


def test_every_module_of_models_is_a_known_model(folder):
    names = [path.stem for path in (ROOT / "stages/models").glob("[a-z]*.py")]
    assert {"logreg", "svm", "forest", "xgb", "mlp", "lgbm"} <= set(names)
    write(folder, linear=names, dense=[])
    check.main()


def test_learning_curve_of_a_model_that_is_not_built_is_refused(folder):
    assert faults(folder, curve_models=["svm", "mini", "xgb"]) == [
        "learning_curves.models: got ['mini', 'xgb']; expected models of build: ['svm', 'mlp']"
    ]


def test_dataset_without_a_file_is_refused_once_with_those_that_there_are(folder):
    missing = "params/three.yaml: no such file; expected one of ['one', 'two'] in params"
    assert faults(folder, datasets=["three"], curves=["three"]) == [f"datasets: {missing}"]
    assert faults(folder, curves=["three"]) == [f"learning_curves.datasets: {missing}"]


@pytest.mark.parametrize(
    ("content", "got"), [(..., []), (None, []), ("mini", []), ({"other": None}, ["other"])]
)
def test_dataset_needs_a_section_for_each_backbone_also_where_it_is_null(folder, content, got):
    write(folder, datasets=["two"])
    check.main()
    CHECKED.unlink()
    write(folder, datasets=["two"])
    write_dataset(folder, "two", finetune=content)
    with pytest.raises(InputError) as caught:
        check.main()
    assert str(caught.value) == (
        "params.yaml: 1 fault(s)\n"
        f"  params/two.yaml: finetune: no section for ['mini'], got {got}; "
        "expected one for each of build.backbones, or null where the dataset does without it"
    )
    assert not CHECKED.exists()


def test_dataset_of_learning_curves_alone_needs_no_backbone(folder):
    write(folder, curves=["two"])
    write_params(folder, "two", split={})
    check.main()
