"""dvc.yaml, the params and the code say the same. No machine learning here, and nothing is run."""

import importlib
import itertools
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.build import read_build
from stages.models.fitting.model import is_model, load_model
from stages.tools import wiring

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {
    "cli.py",
    "runtime/_mlflow.py",
    "serving/predict.py",
    "serving/publish.py",
    "tools/build.py",
    "tools/compare/compare.py",
    "tools/fetch.py",
    "tools/sweep.py",
    "tools/wiring.py",
}  # run by hand, no part of the pipeline
HEAVY = {"gensim", "lightgbm", "mlflow", "nltk", "numba", "optuna", "sklearn", "torch", "xgboost"}
# What cannot change a result, and is no dep of any stage, with the reason
RUNTIME = {
    "_mlflow": "writes what was written to MLflow, in a process of its own",
    "batches": "maps a table piece by piece: the pieces do not show",
    "cli": "starts a stage and prints its errors",
    "cluster": "runs the same work on other machines",
    "cost": "measures time and memory",
    "gpu": "finds the GPU and waits for it",
    "outputs": "says where a tool may write",
    "parallel": "runs the same work side by side",
    "tracking": "mirrors what was written",
}
# A room imports itself and those before it
ROOMS = (
    "core", "runtime", "data", "features", "models", "transformer", "evaluation", "reporting",
    "check.py", "serving", "tools", "cli.py",
)  # fmt: skip
DATASET, MODEL = "${item.dataset}", "${item.model}"


def read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


STAGES = read("dvc.yaml")["stages"]
LISTS = read("params.yaml")
DATASETS = sorted(file.stem for file in (ROOT / "params").glob("*.yaml"))
PARAMS = {dataset: read(f"params/{dataset}.yaml") for dataset in DATASETS}
BUILD = LISTS["build"]
MODELS = [*BUILD["linear"], *BUILD["dense"], *BUILD["latent"]]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def paths_of(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outs_of(stage: str) -> list[str]:
    return [
        path
        for kind in ("outs", "metrics", "plots")
        for path in paths_of(STAGES[stage].get(kind, []))
    ]


def file_of(stage: str) -> Path:
    """The module of a stage; of a templated one that of its first model."""
    words = STAGES[stage]["cmd"].replace("'", "").split()
    assert words[:2] == ["python", "-m"]
    name = words[2].replace(MODEL, BUILD.get(stage, [""])[0])
    return Path(*name.split(".")).with_suffix(".py")


def modules() -> list[Path]:
    """All modules of the project but `__init__.py`."""
    files = sorted((ROOT / "stages").rglob("*.py"))
    return [file.relative_to(ROOT) for file in files if file.name != "__init__.py"]


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts)


@cache
def stage_files() -> frozenset[Path]:
    """The modules that are stages."""
    models = {Path(f"stages/models/{name}.py") for name in MODELS}
    return frozenset({file_of(stage) for stage in STAGES} | models)


def is_code(path: str) -> bool:
    return path.startswith("stages/")


def test_init_files_are_empty() -> None:
    files = sorted((ROOT / "stages").rglob("__init__.py"))
    assert len(files) >= 12
    assert [file for file in files if file.read_text(encoding="utf-8")] == []


def test_code_deps_are_the_import_closure() -> None:
    """`make wiring` writes them."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert wiring.rewritten(text) == text


def test_each_stage_depends_on_its_module_and_the_core() -> None:
    for stage, content in STAGES.items():
        if stage != "check":  # depends on whole folders
            own = file_of(stage).as_posix() if stage not in BUILD else f"stages/models/{MODEL}.py"
            assert {own, "stages/core"} <= set(content["deps"]), stage


def test_check_depends_on_the_classes_of_all_params() -> None:
    closure = [file for file in wiring.closure_of(stage_files()) if file.parts[1] != "runtime"]
    deps = STAGES["check"]["deps"]
    assert [file for file in closure if not any(file.is_relative_to(dep) for dep in deps)] == []


def test_only_runtime_is_no_dep_and_each_module_of_it_has_its_reason() -> None:
    assert {file.stem for file in modules() if file.parts[1] == "runtime"} == set(RUNTIME)
    declared = {dep for stage in STAGES.values() for dep in stage["deps"] if is_code(dep)}
    assert not [dep for dep in declared if dep.startswith("stages/runtime")]


def test_every_module_serves_a_stage_or_a_tool() -> None:
    tools = {Path("stages", tool) for tool in TOOLS}
    used = wiring.closure_of([*stage_files(), *tools])
    assert set(modules()) - used == set()
    assert tools & wiring.closure_of(stage_files()) == set()


def test_stage_is_named_like_its_module() -> None:
    assert [
        stage for stage in STAGES if file_of(stage).stem not in (stage, BUILD.get(stage, [""])[0])
    ] == []


def test_no_name_of_a_model_backbone_or_dataset_stands_in_dvc_yaml() -> None:
    cmds = " ".join(str(stage) for name, stage in STAGES.items() if name != "demo")
    words = set(
        cmds.replace("/", " ").replace(".", " ").replace("'", " ").replace(",", " ").split()
    )
    # the audit's baseline is a logistic regression, whatever is built
    named = {*MODELS, *BUILD["backbones"], *DATASETS} & words
    assert named == {"logreg"}
    assert [stage for stage in STAGES if "logreg" in str(STAGES[stage])] == ["audit"]


def test_names_are_quoted_in_every_command() -> None:
    for stage in STAGES.values():
        assert "${" not in "".join(stage["cmd"].split("'")[::2]), stage["cmd"]


def test_names_are_checked_before_anything_else_runs() -> None:
    checked, _ = outs_of("check")
    first = [
        s for s in STAGES if not any(is_made(dep) for dep in STAGES[s]["deps"] if dep != checked)
    ]
    assert [
        stage for stage in first if stage != "check" and checked not in STAGES[stage]["deps"]
    ] == []


def is_made(dep: str) -> bool:
    """Whether a stage makes it, or what is in it."""
    outs = [out for stage in STAGES if stage != "demo" for out in outs_of(stage)]
    return any(Path(dep).is_relative_to(out) or Path(out).is_relative_to(dep) for out in outs)


def test_model_names_are_read_by_the_audit_alone() -> None:
    """No feature is a function of them: they reach no other stage."""
    strata = f"data/{DATASET}/strata.parquet"
    assert [stage for stage in STAGES if strata in outs_of(stage)] == ["ingest"]
    readers = [
        stage
        for stage in STAGES
        if any(Path(strata).is_relative_to(dep) for dep in paths_of(STAGES[stage]["deps"]))
    ]
    assert readers == ["audit"]


@pytest.mark.parametrize("stage", STAGES)
def test_docstring_shows_the_command(stage: str) -> None:
    text = str(importlib.import_module(name_of(file_of(stage))).__doc__)
    _, command = text.split(f"    python -m {name_of(file_of(stage))}", 1)
    words = command.split("\n\n")[0].split()
    given = [
        word for word in STAGES[stage]["cmd"].replace("'", "").split() if word.startswith("--")
    ]
    assert words[::2] == given


@pytest.mark.parametrize("group", wiring.GROUPS)
def test_a_model_takes_only_feature_sets_of_its_group(group: str) -> None:
    deps = {Path(dep).stem for dep in STAGES[group]["deps"] if "/features/" in dep}
    for name in BUILD[group]:
        assert set(load_model(name).sets) <= deps, name


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_named_like_its_module(name: str) -> None:
    assert load_model(name).name == name


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_section_of_a_dataset_is_declared_by_a_stage(dataset: str) -> None:
    declared = {
        section if section == MODEL else section.split(".")[0]
        for stage in STAGES
        if dataset == "demo" or stage != "demo"
        for entry in STAGES[stage].get("params", [])
        if isinstance(entry, dict)
        for sections in entry.values()
        for section in sections
    }
    # sections of models are asked only of the datasets that are built
    found = {section for section in PARAMS[dataset] if not is_model(section)}
    assert found == declared - {MODEL, "logreg"}
    if dataset in LISTS["datasets"]:
        assert set(MODELS) <= set(PARAMS[dataset])


def test_every_list_of_params_yaml_is_declared() -> None:
    declared = {p for s in STAGES.values() for p in s.get("params", []) if isinstance(p, str)}
    assert declared == set(LISTS)
    assert read_build().datasets


def test_lock_knows_no_stage_that_there_is_not() -> None:
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("no dvc.lock yet: nothing was built")
    backbones = sorted({name for dataset in DATASETS for name in PARAMS[dataset]["finetune"]})
    names = set()
    for stage, content in STAGES.items():
        lists = {"dataset": DATASETS, "backbone": backbones, "model": BUILD.get(stage, MODELS)}
        axes = [lists[axis] for axis in content.get("matrix", {})]
        names |= {"@".join(filter(None, [stage, "-".join(p)])) for p in itertools.product(*axes)}
    assert set(read("dvc.lock")["stages"]) - names == set()


@pytest.mark.parametrize("file", modules(), ids=str)
def test_modules_import_their_own_room_and_those_before_it(file: Path) -> None:
    room = file.parts[1]
    known = set(ROOMS[: ROOMS.index(room) + 1])
    found = wiring.imports_of(file)
    assert [str(other) for other in sorted(found) if other.parts[1] not in known] == []
    private = [
        other for other in found if other.name.startswith("_") and other.parent != file.parent
    ]
    assert private == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    # the audit fits the logistic regression, whose module is a stage, as its baseline
    allowed = {"audit": {Path("stages/models/logreg.py")}}.get(stage, set())
    closure = wiring.closure_of([file_of(stage)])
    assert closure & stage_files() - {file_of(stage)} == allowed


def test_columns_of_the_competition_stand_only_where_files_are_read_and_written() -> None:
    files = [*(ROOT / "stages").rglob("*.py"), ROOT / "dvc.yaml"]
    named = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if "winner_model_" in file.read_text(encoding="utf-8")
    }
    assert named == {"stages/data/demo.py", "stages/data/readers/arena.py"}


WATCH = """
import importlib, os, sys

def hook(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in {"os.mkdir", "os.rename", "os.remove"}:
        print("writes", args)

sys.addaudithook(hook)
for module in sys.argv[1].split():
    importlib.import_module(module)
    for heavy in sorted(set(sys.argv[2].split()) & sys.modules.keys()):
        sys.exit(f"{module} imports {heavy}")
"""


def test_importing_a_stage_writes_nothing_and_loads_no_heavy_library() -> None:
    command = [
        sys.executable,
        "-B",
        "-c",
        WATCH,
        " ".join(map(name_of, modules())),
        " ".join(sorted(HEAVY)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("dataset", DATASETS)
def test_params_are_written_as_dvc_writes_them(dataset: str, tmp_path: Path) -> None:
    """So that the diff of an experiment shows its own change and nothing else."""
    from dvc.utils.hydra import apply_overrides

    file = ROOT / "params" / f"{dataset}.yaml"
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    apply_overrides(copy, [f"split.seed={PARAMS[dataset]['split']['seed']}"])
    assert copy.read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["datasets=[demo]", "build.backbones=[]", "build.latent=[]"])
def test_lists_are_written_as_dvc_writes_them(change: str, tmp_path: Path) -> None:
    """DVC's YAML writer loses a line break where a comment stands behind a key."""
    from dvc.utils.hydra import apply_overrides

    copy = tmp_path / "params.yaml"
    shutil.copy(ROOT / copy.name, copy)
    apply_overrides(copy, [change])
    tree = YAML(typ="safe").load(copy)
    key, _, value = change.partition("=")
    group, _, name = key.rpartition(".")
    assert (tree[group] if group else tree)[name] == ([] if value == "[]" else ["demo"])
    assert set(tree) == set(LISTS)


def test_dvc_finds_raw_data_that_were_added_to_it(tmp_path: Path) -> None:
    """DVC looks for no .dvc file in a folder that .gitignore names: experiments would lack it."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    raw = tmp_path / "data/raw/mine/train.csv"
    raw.parent.mkdir(parents=True)
    raw.write_text("id,text\n")

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    dvc = [sys.executable, "-m", "dvc"]
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    run(*dvc, "add", "-q", "data/raw/mine")
    shutil.rmtree(raw.parent)
    run(*dvc, "checkout", "-q")
    assert raw.read_text() == "id,text\n"
    assert "data/raw/mine.dvc" in run("git", "ls-files", "--others", "--exclude-standard")
    assert "train.csv" not in run("git", "ls-files", "--others", "--exclude-standard")
