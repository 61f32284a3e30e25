"""Tiny pipelines, trained by the very commands of dvc.yaml: what is applied to new rows."""

import csv
import importlib
import importlib.util
import shlex
from contextlib import chdir
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.given import write_params

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "minilm"  # that dvc.yaml lists; here a tiny one
MODELS = ("logreg", "svm", "forest", "xgb", "lgbm", "mlp")
MEMBERS = (*MODELS, BACKBONE)
EMBEDDED = ("svm", "xgb", "mlp")  # models that take sentence embeddings
STAGES = (
    "ingest", "split", "augment", "clean", "tfidf", "word2vec", "style", "embed", *MODELS, "tokens",
    "finetune", "ensemble", "score", "cascade",
)  # fmt: skip
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
    "learning_curve.models": [],
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
    params = YAML(typ="safe").load(ROOT / "params" / f"{dataset}.yaml")
    for key, value in (SMALL | ({} if dataset == "demo" else TEXTS)).items():
        replace(params, key, value)
    tuned = tiny_backbone(params["finetune"]["minilm"], backbone)
    params["finetune"] = {BACKBONE: tuned}
    params["embed"] |= {"backbone": tuned["backbone"], "max_tokens": 64, "precision": "fp32"}
    parts = ["difference", "prompt"] if dataset == "demo" else ["text"]
    for model in EMBEDDED:
        params[model]["embed"] = {"parts": parts, "scale": "standard", "weight": 0.5}
    if dataset == "demo":
        params["demo"] |= {"train_rows": 60, "test_rows": 14}
    write_params(folder, dataset, **params)
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERDICT_TRACKING", "off")
        patch.setenv("VERDICT_WORKERS", "1")
        if dataset == "demo":
            run(stages["demo"]["cmd"])
        else:
            write_texts(Path("data/raw") / dataset)
        for stage in STAGES:
            run(stages[stage]["cmd"], dataset=dataset, backbone=BACKBONE)


def replace(tree: Any, key: str, value: Any) -> None:
    """Replace one leaf of the params."""
    *path, last = key.split(".")
    for step in path:
        tree = tree[step]
    assert last in tree, key
    tree[last] = value


def tiny_backbone(params: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The params of the real backbone for a tiny one, tuned whole for a moment, in fp32."""
    step = {"unfreeze": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 1}
    cut = 16 if params["encoding"]["prompt_tokens"] else None
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
