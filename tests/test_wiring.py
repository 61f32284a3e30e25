"""dvc.yaml, the params and the code say the same. No machine learning here."""

import ast
import importlib
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.core.params import Params
from stages.serving._members import CLASSICAL

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {
    "stages.tools.build",
    "stages.tools.compare.compare",
    "stages.tools.fetch",
    "stages.serving.predict",
    "stages.serving.publish",
    "stages.tools.sweep",
    "stages.tools.wordnet",
}  # run by hand, no part of the pipeline
HEAVY = {"gensim", "lightgbm", "mlflow", "nltk", "numba", "optuna", "sklearn", "torch", "xgboost"}
# of which a stage depends on the whole
FOLDERS = {"stages/core", "stages/transformer/training", "stages/models/fitting", "stages/data/readers"}
DATASET, BACKBONE = "${item.dataset}", "${item.backbone}"


def read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


STAGES = read("dvc.yaml")["stages"]
LISTS = read("params.yaml")
DATASETS = sorted(file.stem for file in (ROOT / "params").glob("*.yaml"))
PARAMS = {dataset: read(f"params/{dataset}.yaml") for dataset in DATASETS}
BACKBONES = sorted({name for dataset in DATASETS for name in PARAMS[dataset]["finetune"]})


def datasets_of(stage: str) -> list[str]:
    """The datasets for which a stage can run: all, or the one that it names; none for the top."""
    if "matrix" in STAGES[stage]:
        return DATASETS
    words = shlex.split(STAGES[stage]["cmd"])
    return [words[words.index("--dataset") + 1]] if "--dataset" in words else []


def paths_of(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outs_of(stage: str) -> list[str]:
    return [
        path
        for kind in ("outs", "metrics", "plots")
        for path in paths_of(STAGES[stage].get(kind, []))
    ]


def module_of(stage: str) -> str:
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:2] == ["python", "-m"]
    return words[2]


def file_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    files = [base.with_suffix(".py"), base / "__init__.py"]
    return next((file for file in files if file.is_file()), None)


@cache
def tree_of(module: str) -> ast.Module:
    file = file_of(module)
    assert file, f"{module}: no such module"
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of the project that `module` imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            source = str(node.module)
            inner = {f"{source}.{alias.name}" for alias in node.names}
            found |= {name if file_of(name) else source for name in inner}
    return frozenset(name for name in found if name.split(".")[0] == "stages")


def closure_of(module: str) -> set[str]:
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports_of(name)
    return seen


def modules() -> list[str]:
    """All modules of the project but `__init__.py`."""
    files = sorted((ROOT / "stages").rglob("*.py"))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if file.name != "__init__.py"
    ]


def sections_of(stage: str) -> dict[str, type[Params]]:
    """Sections of a params file that the module of a stage reads, with their classes.

    The name of a section may hold the backbone, as an f-string.
    """
    module = module_of(stage)
    calls = [
        node
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "read_params"
    ]
    found = {}
    for call in calls:
        kind, _, section = call.args
        assert isinstance(kind, ast.Name)
        parts = section.values if isinstance(section, ast.JoinedStr) else [section]
        name = "".join(BACKBONE if isinstance(p, ast.FormattedValue) else p.value for p in parts)
        found[name] = getattr(importlib.import_module(module), kind.id)
    return found


def values_of(dataset: str, section: str) -> list[Any]:
    """What a section of a dataset holds: one value, or one for each backbone."""
    names = PARAMS[dataset]["finetune"] if BACKBONE in section else [""]
    found = []
    for name in names:
        value = PARAMS[dataset]
        for step in section.replace(BACKBONE, name).split("."):
            value = value[step]
        found.append(value)
    return found


def declared_by(stage: str) -> dict[str, list[str]]:
    """Params that a stage declares: files with their sections, and lists of params.yaml."""
    entries = STAGES[stage].get("params", [])
    pairs = [entry if isinstance(entry, dict) else {entry: []} for entry in entries]
    return {file: sorted(sections) for pair in pairs for file, sections in pair.items()}


def lists_of(stage: str) -> list[str]:
    """Lists of params.yaml that the module of a stage reads."""
    called = {
        getattr(n.func, "id", None)
        for n in ast.walk(tree_of(module_of(stage)))
        if isinstance(n, ast.Call)
    }
    return ["datasets"] if "read_datasets" in called else []


def options_of(stage: str) -> tuple[set[str], set[str]]:
    """Names of the options of `main`: all, and those without a default."""
    module = module_of(stage)
    (main,) = (
        node
        for node in tree_of(module).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert not main.args.args, f"{module}.main: options must be keyword-only"
    names = ["--" + arg.arg.strip("_").replace("_", "-") for arg in main.args.kwonlyargs]
    needed = [n for n, d in zip(names, main.args.kw_defaults, strict=True) if d is None]
    return set(names), set(needed)


def options_in(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def test_init_files_are_empty_but_the_first_which_imports_no_stage() -> None:
    files = sorted((ROOT / "stages").rglob("__init__.py"))
    assert len(files) >= 5
    written = [file for file in files if file.read_text(encoding="utf-8")]
    assert written == [ROOT / "stages/__init__.py"]
    assert imports_of("stages") == frozenset()  # it is no dep


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_import_closure(stage: str) -> None:
    declared = [dep for dep in paths_of(STAGES[stage]["deps"]) if is_code(dep)]
    closure = {file_of(module) for module in closure_of(module_of(stage))}
    needed = {file.relative_to(ROOT) for file in closure if file and file.name != "__init__.py"}
    assert declared == sorted(
        {(f.parent if f.parent.as_posix() in FOLDERS else f).as_posix() for f in needed}
    )


def is_code(path: str) -> bool:
    return path.endswith(".py") or path in FOLDERS


def test_every_module_serves_a_stage() -> None:
    used = set().union(*(closure_of(module_of(stage)) for stage in STAGES))
    helpers = set().union(*(closure_of(tool) - {tool} for tool in TOOLS))
    assert set(modules()) - used - helpers == TOOLS


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_named_like_its_module(stage: str) -> None:
    assert module_of(stage).rpartition(".")[2] == stage


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
def test_paths_in_cmd_are_deps_and_outs(stage: str) -> None:
    given = [word for word in shlex.split(STAGES[stage]["cmd"]) if "/" in word]
    known = paths_of(STAGES[stage]["deps"]) + outs_of(stage)
    data = [path for path in known if not is_code(path)]
    assert given

    def covers(folder: str, path: str) -> bool:
        return Path(path).is_relative_to(folder)

    assert [g for g in given if not any(covers(g, path) for path in data)] == []
    assert [path for path in data if not any(covers(g, path) for g in given)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_cmd_gives_the_options_of_main(stage: str) -> None:
    known, needed = options_of(stage)
    given = options_in(shlex.split(STAGES[stage]["cmd"]))
    assert needed <= given <= known


@pytest.mark.parametrize("stage", STAGES)
def test_docstring_shows_a_command_with_the_options_of_main(stage: str) -> None:
    _, command = str(ast.get_docstring(tree_of(module_of(stage)))).split("python -m ", 1)
    words = shlex.split(command.split("\n\n")[0])
    known, needed = options_of(stage)
    assert words[0] == module_of(stage)
    assert needed <= options_in(words) <= known


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_the_params_that_it_reads(stage: str) -> None:
    datasets = {"demo"} if stage == "demo" else {DATASET}
    files = {f"params/{dataset}.yaml": sorted(sections_of(stage)) for dataset in datasets}
    expected = {file: names for file, names in files.items() if names}
    assert declared_by(stage) == expected | {name: [] for name in lists_of(stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_sections_hold_exactly_the_fields_of_their_class(stage: str) -> None:
    for section, kind in sections_of(stage).items():
        for dataset in datasets_of(stage):
            for value in values_of(dataset, section):
                kind.model_validate_json(json.dumps(value))  # as read_params does


def test_params_have_no_defaults() -> None:
    for module in modules():
        importlib.import_module(module)

    def below(kind: type[Params]) -> Iterator[type[Params]]:
        for inner in kind.__subclasses__():
            yield inner
            yield from below(inner)

    kinds = [kind for kind in below(Params) if kind.__module__.startswith("stages.")]
    assert {k.__name__ for k in kinds} >= {"DemoParams", "SvmParams", "SourceParams", "ArenaReader"}
    optional = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, field in kind.model_fields.items()
        if not field.is_required()
    ]
    assert optional == []


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_section_of_a_dataset_is_declared_by_a_stage(dataset: str) -> None:
    declared = {
        section.split(".")[0]
        for stage in STAGES
        if dataset in datasets_of(stage)
        for sections in declared_by(stage).values()
        for section in sections
    }
    assert set(PARAMS[dataset]) == declared


def test_datasets_to_build_have_sections() -> None:
    assert LISTS["datasets"]
    assert set(LISTS["datasets"]) <= set(DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_backbones_to_tune_have_sections(dataset: str) -> None:
    assert LISTS["backbones"]
    assert set(LISTS["backbones"]) <= set(PARAMS[dataset]["finetune"])


@pytest.mark.parametrize("dataset", DATASETS)
def test_ensemble_members_are_deps_of_the_ensemble(dataset: str) -> None:
    deps = {dep.replace(DATASET, dataset) for dep in paths_of(STAGES["ensemble"]["deps"])}
    members = PARAMS[dataset]["ensemble"]["members"]
    assert {f"data/{dataset}/predictions/{member}.parquet" for member in members} <= deps


def test_every_model_is_listed_where_models_are() -> None:
    own = f"data/{DATASET}/predictions/"
    made = {Path(out).stem for stage in STAGES for out in outs_of(stage) if out.startswith(own)}
    classical = made & set(STAGES)
    assert classical - {"ensemble"} == set(CLASSICAL)
    for stage in ("score", "audit", "leaderboard", "report"):
        words = shlex.split(STAGES[stage]["cmd"])
        named = {word for flag, word in itertools.pairwise(words) if flag == "--models"}
        assert classical | set(LISTS["backbones"]) <= named, stage


def test_lock_knows_no_stage_that_there_is_not() -> None:
    if not (ROOT / "dvc.lock").exists():
        pytest.skip("no dvc.lock yet: nothing was built")
    names = set()
    for stage, content in STAGES.items():
        lists = {"${datasets}": DATASETS, "${backbones}": BACKBONES}
        axes = [
            lists.get(axis, axis) if isinstance(axis, str) else axis
            for axis in content.get("matrix", {}).values()
        ]
        names |= {"@".join(filter(None, [stage, "-".join(p)])) for p in itertools.product(*axes)}
    assert set(read("dvc.lock")["stages"]) - names == set()


@pytest.mark.parametrize("module", modules())
def test_modules_import_only_base_and_siblings(module: str) -> None:
    folder = module.rpartition(".")[0]

    def is_sibling(imported: str) -> bool:
        parent, _, name = imported.rpartition(".")
        return parent == folder and name.startswith("_")

    def allowed(imported: str) -> bool:
        if module in {
            "stages.serving._members",
            "stages.serving.pipeline",
            "stages.serving._chunks",
            "stages.serving.predict",
            "stages.serving.publish",
        }:
            return True  # they apply to new rows what all stages stored
        if folder == "stages.base" or imported.startswith("stages.base."):
            return imported.startswith("stages.base.")
        fits = module in {"stages.evaluation.audit", "stages.evaluation.learning_curve"}
        if imported.startswith("stages.models."):
            return fits or is_sibling(imported)
        if imported.startswith("stages.fitting."):
            return fits or folder in {"stages.fitting", "stages.models"}
        if imported.startswith("stages.finetune.training."):
            return module == "stages.transformer.finetune" or folder == "stages.finetune.training"
        if folder == "stages.finetune.training":
            return imported.startswith("stages.finetune._")
        if imported.startswith("stages.readers."):  # formats, that ingest joins
            return module == "stages.data.ingest" or folder == "stages.readers"
        return is_sibling(imported)

    assert [name for name in sorted(imports_of(module)) if not allowed(name)] == []


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
    command = [sys.executable, "-B", "-c", WATCH, " ".join(modules()), " ".join(sorted(HEAVY))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


COLLECTIONS = """
import gc, sys

def collections():
    return sum(generation["collections"] for generation in gc.get_stats())

sys.argv[0], before = sys.argv[1], collections()
import stages.models.forest
print(collections() - before)
"""


@pytest.mark.parametrize(("started_by", "rests"), [("-m", True), ("server.py", False)])
def test_collector_rests_while_a_stage_starts_and_only_then(started_by: str, rests: bool) -> None:
    command = [sys.executable, "-c", COLLECTIONS, started_by]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 10) == rests  # by Python's default more than 200


@pytest.mark.parametrize("dataset", DATASETS)
def test_params_are_written_as_dvc_writes_them(dataset: str, tmp_path: Path) -> None:
    """So that the diff of an experiment shows its own change and nothing else."""
    from dvc.utils.hydra import apply_overrides

    file = ROOT / "params" / f"{dataset}.yaml"
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    apply_overrides(copy, [f"split.seed={PARAMS[dataset]['split']['seed']}"])
    assert copy.read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


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
