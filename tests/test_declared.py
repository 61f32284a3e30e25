"""What a stage asks of the layout and the params is what dvc.yaml declares: tiny pipelines tell."""

import importlib
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.trained import ASKED, BACKBONE, BUILD, CURVE, GROUPS

ROOT = Path(__file__).resolve().parents[1]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
SPENT = "metrics/cost/"  # differs from run to run: what only shows it does not depend on it
NO_DATASET = {"data/checked.txt", "params", "metrics/learning_curves"}
LEADERBOARD = "metrics/leaderboard"
DATASETS = ("demo", "goemotions")  # that `trained` knows: pairs, and texts of several labels


@pytest.fixture(scope="module", params=DATASETS)
def asked(request, trained):
    """The dataset, and what each of its stages asked for: paths, and sections of params."""
    return request.param, json.loads((trained(request.param) / ASKED).read_text(encoding="utf-8"))


def filled(text, stage, dataset, model):
    values = {"dataset": dataset, "backbone": BACKBONE, "model": model}
    for name, value in values.items():
        text = text.replace(f"${{item.{name}}}", value)
    return text


def declared(stage, dataset):
    """The paths of a stage, code and what has no dataset left out: deps and outs."""
    models = BUILD[stage] if stage in GROUPS else (CURVE,)
    kinds = ("deps", "outs", "metrics", "plots")
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    paths = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    found = {filled(path, stage, dataset, model) for path in paths for model in models}
    code = ("stages/", f"params/{dataset}", LEADERBOARD)
    return {path for path in found - NO_DATASET if not path.startswith(code)}


def test_every_stage_was_run(asked):
    dataset, found = asked
    assert set(found) == set(STAGES) - ({"demo"} if dataset != "demo" else set())


def asked_and_declared(asked):
    """Stage by stage what it asked for, what it declares, and which declared paths it asked for."""
    dataset, found = asked
    for stage, what in found.items():
        paths, known = set(what["paths"]), declared(stage, dataset)
        if not any(path.startswith(SPENT) for path in known):
            paths = {path for path in paths if not path.startswith(SPENT)}
        used = {k for k in known for path in paths if Path(path).is_relative_to(k)}
        yield stage, paths, known, used


def test_paths_that_a_stage_asks_for_are_declared(asked):
    for stage, paths, known, _ in asked_and_declared(asked):
        undeclared = [p for p in paths if not any(Path(p).is_relative_to(k) for k in known)]
        assert undeclared == [], stage


def test_paths_that_are_declared_are_asked_for(trained):
    """By the pairs or by the texts: some stages read more of one task than of the other."""
    idle = {}
    for dataset in DATASETS:
        found = json.loads((trained(dataset) / ASKED).read_text(encoding="utf-8"))
        for stage, _, known, used in asked_and_declared((dataset, found)):
            unused = {path.replace(dataset, "*") for path in known - used}
            idle[stage] = idle.get(stage, unused) & unused
    assert {stage: paths for stage, paths in idle.items() if paths} == {}


def test_params_that_a_stage_reads_are_declared_and_no_others(asked):
    dataset, found = asked
    for stage, what in found.items():
        known = {
            filled(section, stage, dataset, model)
            for entry in STAGES[stage].get("params", [])
            if isinstance(entry, dict)
            for section in next(iter(entry.values()))
            for model in (BUILD[stage] if stage in GROUPS else (CURVE,))
        }
        if stage != "check":  # checks the sections of all stages
            assert {name for name in what["sections"] if name} == known, stage
        lists = [entry for entry in STAGES[stage].get("params", []) if isinstance(entry, str)]
        assert bool(lists) == ("" in what["sections"]), stage


def test_sections_of_all_datasets_hold_what_their_class_allows(asked):
    """As read when the stage runs: a fault in a file would show only then."""
    _, found = asked
    kinds = {}
    for what in found.values():
        for section, (module, name) in what["sections"].items():
            kinds[section] = getattr(importlib.import_module(module), name)
    checked = 0
    for file in sorted((ROOT / "params").glob("*.yaml")):
        tree = YAML(typ="safe").load(file)
        for section, kind in kinds.items():
            if not section or section.startswith("finetune") or section not in tree:
                continue
            kind.model_validate_json(json.dumps(tree[section]))
            checked += 1
        for value in tree["finetune"].values():
            kinds[f"finetune.{BACKBONE}"].model_validate_json(json.dumps(value))
            checked += 1
    assert checked > 100
