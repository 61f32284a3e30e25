"""Tiny pipelines, trained by the very commands of dvc.yaml: what is applied to new rows.

While the stages run, what they ask the layout for is written to `asked.json`: stage by stage the
paths, for the test that compares them with dvc.yaml.
"""

import csv
import importlib
import importlib.util
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.core import build, params
from stages.core.layout import Layout
from tests.given import write_params

ROOT = Path(__file__).resolve().parents[1]
BUILD = YAML(typ="safe").load(ROOT / "params.yaml")["build"]
GROUPS = ("linear", "dense", "latent")
MODELS = tuple(name for group in GROUPS for name in BUILD[group])
BACKBONE = "minilm"  # that params.yaml lists; here a tiny one
MEMBERS = (*MODELS, BACKBONE)
EMBEDDED = ("svm", "xgb", "lgbm", "mlp")  # models that take sentence embeddings
CURVE = "logreg"  # the model that gets a learning curve
ASKED = Path("asked.json")
SMALL = {
    "split.n_folds": 2,
    "split.max_leak_share": 0.5,
    "tfidf.words.max_features": 300,
    "tfidf.characters.max_features": 300,
    "tfidf.lsa_components": 6,
    "word2vec.dimensions": 8,
    "word2vec.epochs": 1,
    "forest.trees": 5,
    "forest.max_samples": 1.0,
    "xgb.rounds": 5,
    "xgb.min_child_weight": 1.0,
    "lgbm.rounds": 5,
    "lgbm.min_data_in_leaf": 3,
    "mlp.hidden": [4],
    "mlp.rounds": 2,
    "ensemble.members": list(MEMBERS),
    "learning_curve.fractions": [0.5, 1.0],
}
TEXTS = {
    "ingest.reader.train": "train.csv",
    "ingest.reader.dev": None,
    "ingest.reader.test": "test.csv",
    "ingest.reader.header": None,
    "ingest.reader.label.classes": ["joy", "fear", "anger"],
    "ingest.reader.label.numbers_from": None,
    "submit.labels.numbers_from": None,
    "augment.comparisons": True,
}
FEELINGS = {"joy": "so happy today", "fear": "what was that noise", "anger": "stop it now"}


def train(folder: Path, dataset: str, backbone: Path) -> None:
    """Train all stages on a small dataset, of pairs (`demo`) or of texts (`goemotions`)."""
    sections = YAML(typ="safe").load(ROOT / "params" / f"{dataset}.yaml")
    for key, value in (SMALL | ({} if dataset == "demo" else TEXTS)).items():
        replace(sections, key, value)
    tuned = tiny_backbone(sections["finetune"]["minilm"], backbone)
    sections["finetune"] = {BACKBONE: tuned}
    sections["embed"] |= {"backbone": tuned["backbone"], "max_tokens": 64, "precision": "fp32"}
    parts = ["difference", "prompt"] if dataset == "demo" else ["text"]
    for model in EMBEDDED:
        sections[model]["embed"] = {"parts": parts, "scale": "standard", "weight": 0.5}
    if dataset == "demo":
        sections["demo"] |= {"train_rows": 60, "test_rows": 14}
    write_params(folder, dataset, **sections)
    lists = {"datasets": [dataset], "build": BUILD | {"backbones": [BACKBONE]}}
    lists["learning_curves"] = {"datasets": [dataset], "models": [CURVE]}
    (folder / "params.yaml").write_text(json.dumps(lists), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", folder)
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    asked: dict[str, dict[str, Any]] = {}
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERDICT_TRACKING", "off")
        patch.setenv("VERDICT_WORKERS", "1")
        if dataset != "demo":
            write_texts(Path("data/raw") / dataset)
            del stages["demo"]
        for name, stage in stages.items():
            for model in models_of(name, stage):
                with recorded(asked.setdefault(name, {})):
                    run(stage["cmd"], dataset=dataset, backbone=BACKBONE, model=model)
        ASKED.write_text(json.dumps(asked), encoding="utf-8")


def models_of(name: str, stage: dict[str, Any]) -> tuple[str, ...]:
    """The models that a stage of dvc.yaml is run for; one empty name where it is for none."""
    if "model" not in stage.get("matrix", ()):
        return ("",)
    return tuple(BUILD[name]) if name in GROUPS else (CURVE,)


@contextmanager
def recorded(asked: dict[str, Any]) -> Iterator[None]:
    """Note each path that a `Layout` is asked for, and each section of params with its class."""
    plain, check = object.__getattribute__, params.check_params
    paths = asked.setdefault("paths", [])
    sections = asked.setdefault("sections", {})

    def ask(layout: Layout, name: str) -> Any:
        value = plain(layout, name)
        if name.startswith("_"):
            return value
        if callable(value):
            return lambda *words: note(value(*words))
        return value if name in ("dataset", "root", "params") else note(value)

    def note(path: Path) -> Path:
        paths.append(path.as_posix())
        return path

    def read(kind: Any, tree: Any, path: Path, section: str = "") -> Any:
        sections[section] = (kind.__module__, kind.__qualname__)
        return check(kind, tree, path, section)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "__getattribute__", ask)
        patch.setattr(params, "check_params", read)
        patch.setattr(build, "check_params", read)
        yield


def replace(tree: Any, key: str, value: Any) -> None:
    """Set one leaf of the params."""
    *path, last = key.split(".")
    for step in path:
        tree = tree.setdefault(step, {})
    tree[last] = value


def tiny_backbone(params: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The params of the real backbone for a tiny one, tuned whole for a moment, in fp32."""
    step = {"unfreeze": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 1}
    cut = 16 if "prompt_tokens" in params["encoding"] else None
    return params | {
        "backbone": params["backbone"] | {"name": str(folder)},
        "encoding": {"max_tokens": 64, "prompt_tokens": cut},
        "steps": [step],
        "precision": "fp32",
        "folds": None,
    }


def run(command: str, **item: str) -> None:
    """Run a command of dvc.yaml here."""
    for name, value in item.items():
        command = command.replace(f"${{item.{name}}}", value)
    _, _, module, *words = shlex.split(command)
    app = cyclopts.App()
    app.default(importlib.import_module(module).main)
    app(words, result_action="return_value")


def write_texts(folder: Path) -> None:
    """Texts with none, one or two of three labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, n in (("train", 60), ("test", 14)):
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "text", *(["label"] if part == "train" else [])])
            for number in range(n):
                names = [name for name in FEELINGS if rng.random() < 0.5] or ["joy"]
                words = rng.choice(list("abcdefghij"), 4).tolist()
                text = " ".join([*(FEELINGS[name] for name in names), *words, "😀" * (number % 3)])
                text += " 1 %, up from 2 %" * (number % 4 == 0)
                label = [",".join(names)] if part == "train" else []
                rows.writerow([f"{part}{number}", text, *label])


def load_tiny(name: str) -> Any:
    """A module beside the tests of `finetune`, by its path: a dependency hides this folder."""
    path = ROOT / "tests" / "transformer" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
