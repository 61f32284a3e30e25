"""The stored state of all stages, applied to rows that the stages predicted themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import write_json
from stages.core.tasks import read_task
from stages.serving import pipeline as _pipeline
from stages.serving._members import load_member
from stages.serving.pipeline import Pipeline
from stages.transformer.training.classifier import ABOUT
from tests.trained import BACKBONE, EMBEDDED, MEMBERS, MODELS

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ("demo", "goemotions")
each_dataset = pytest.mark.parametrize("dataset", DATASETS)


def evenly(folder, dataset, root):
    """A copy of the trained pipeline, in which all members have the same weight."""
    for name in ("params", "data", "models", "metrics"):
        shutil.copytree(folder / name, root / name)
    write_weights(root, dataset, dict.fromkeys(MEMBERS, 1 / len(MEMBERS)))
    return root


def write_weights(root, dataset, weights):
    found = {"rows": 1, "weight": weights, "temperature": 1.0, "product": 0.0}
    write_json(found, Layout(dataset, root).weights)


def rows_of(folder, dataset, part):
    rows = pd.read_parquet(folder / "data" / dataset / "rows.parquet")
    return rows[rows["part"] == part].reset_index(drop=True)


def stored(folder, dataset, name, ids):
    path = Layout(dataset, folder).predictions(name)
    table = pd.read_parquet(path).set_index("id").reindex(ids)
    return table[[column for column in table if column.startswith("p_")]].to_numpy()


@each_dataset
def test_every_member_predicts_test_rows_as_its_stage_did(trained, dataset, tmp_path):
    folder = trained(dataset)
    pipeline = Pipeline.load(dataset, evenly(folder, dataset, tmp_path))
    rows = rows_of(folder, dataset, "test")
    found = pipeline.by_member(rows[list(pipeline.task.text_columns)])
    assert set(found) == set(MEMBERS)
    for name, values in found.items():
        expected = stored(folder, dataset, name, rows["id"])
        limit = 1e-5 if name in (BACKBONE, *EMBEDDED) else 1e-6
        np.testing.assert_allclose(values, expected, rtol=0, atol=limit, err_msg=name)


@each_dataset
def test_ensemble_predicts_test_rows_as_its_stage_did(trained, dataset):
    folder = trained(dataset)
    pipeline = Pipeline.load(dataset, folder)
    rows = rows_of(folder, dataset, "test")
    found = pipeline.predict(rows[list(pipeline.task.text_columns)])
    expected = stored(folder, dataset, "ensemble", rows["id"])
    np.testing.assert_allclose(found[pipeline.columns[:3]], expected, rtol=0, atol=1e-5)


@each_dataset
def test_a_row_alone_gets_what_it_gets_among_others(trained, dataset, tmp_path):
    folder = trained(dataset)
    pipeline = Pipeline.load(dataset, evenly(folder, dataset, tmp_path))
    texts = rows_of(folder, dataset, "test")[list(pipeline.task.text_columns)]
    together = pipeline.by_member(texts)
    alone = pipeline.by_member(texts.iloc[3:4])
    for name in MEMBERS:
        np.testing.assert_allclose(alone[name][0], together[name][3], atol=1e-5, err_msg=name)


def test_exchanged_answers_get_exchanged_probabilities(trained, tmp_path):
    pipeline = Pipeline.load("demo", evenly(trained("demo"), "demo", tmp_path))
    texts = rows_of(trained("demo"), "demo", "test")[["prompt", "response_a", "response_b"]]
    turned = texts.rename(columns={"response_a": "response_b", "response_b": "response_a"})
    straight, exchanged = pipeline.predict(texts), pipeline.predict(turned)
    np.testing.assert_allclose(straight["p_a"], exchanged["p_b"], atol=1e-6)
    np.testing.assert_allclose(straight["p_tie"], exchanged["p_tie"], atol=1e-6)


def test_member_without_a_weight_is_not_loaded(trained, tmp_path):
    root = evenly(trained("demo"), "demo", tmp_path)
    write_weights(root, "demo", dict.fromkeys(MEMBERS, 0.0) | {"svm": 1.0})
    shutil.rmtree(root / "models" / "demo" / "xgb")
    shutil.rmtree(Layout("demo", root).features("word2vec"))
    assert list(Pipeline.load("demo", root).members) == ["svm"]


def test_untrained_dataset_is_refused_with_all_missing_files(trained, tmp_path):
    root = evenly(trained("demo"), "demo", tmp_path)
    shutil.rmtree(root / "models" / "demo" / "xgb")
    (Layout("demo", root).features("lsa") / "svd.state.npz").unlink()
    with pytest.raises(
        InputError, match=r"(?s)datasets=\[demo\].*models/demo/xgb.*lsa/svd"
    ) as found:
        Pipeline.load("demo", root)
    assert len(str(found.value).splitlines()) == 3
    shutil.rmtree(root / "data")
    with pytest.raises(InputError, match=r"labels\.json"):
        Pipeline.load("demo", root)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("svm/fold0.safetensors", "svm: cannot be read"),
        ("lgbm/fold0.seed0.txt", "lgbm: cannot be read"),
        ("logreg/params.json", r"logreg/params\.json: missing params \["),
        ("minilm/fold0/finetune.json", r"finetune\.json: \d+ fault\(s\) in params"),
    ],
)
def test_damaged_model_is_refused(trained, tmp_path, file, message):
    root = evenly(trained("demo"), "demo", tmp_path)
    path = root / "models" / "demo" / file
    assert path.exists()
    path.write_text("{}" if path.suffix == ".json" else "half")
    with pytest.raises(InputError, match=message):
        Pipeline.load("demo", root)


def test_params_that_are_not_those_of_the_build_are_refused(trained, tmp_path):
    root = evenly(trained("demo"), "demo", tmp_path)
    params = YAML(typ="safe").load(root / "params" / "demo.yaml")
    sections = {name: {"params": {"params/demo.yaml": params}} for name in ("clean@demo",)}
    YAML(typ="safe").dump({"stages": sections}, root / "dvc.lock")
    Pipeline.load("demo", root)
    params["clean"]["lower"] = False
    YAML(typ="safe").dump(params, root / "params" / "demo.yaml")
    with pytest.raises(InputError, match=r"params/demo\.yaml: got other params in \['clean'\]"):
        Pipeline.load("demo", root)


def test_build_that_stopped_between_features_and_models_is_refused(trained, tmp_path):
    root = evenly(trained("demo"), "demo", tmp_path)
    stages = {
        "word2vec@demo": {"outs": [{"path": "data/demo/features/word2vec", "md5": "new.dir"}]},
        "xgb@demo": {
            "deps": [{"path": "data/demo/features/word2vec", "md5": "old.dir"}],
            "outs": [{"path": "models/demo/xgb", "md5": "x.dir"}],
        },
    }
    YAML(typ="safe").dump({"stages": stages}, root / "dvc.lock")
    with pytest.raises(InputError, match=r"dvc\.lock: got \['xgb@demo'\] made of other files"):
        Pipeline.load("demo", root)
    stages["xgb@demo"]["deps"][0]["md5"] = "new.dir"
    YAML(typ="safe").dump({"stages": stages}, root / "dvc.lock")
    Pipeline.load("demo", root)


def test_files_are_outs_of_the_pipeline(trained, tmp_path):
    root = evenly(trained("goemotions"), "goemotions", tmp_path)
    found = {
        path.relative_to(root).as_posix() for path in _pipeline.files(Layout("goemotions", root))
    }
    outs = set()
    for stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values():
        for entry in [*stage.get("outs", []), *stage.get("metrics", [])]:
            path = entry if isinstance(entry, str) else next(iter(entry))
            path = path.replace("${item.dataset}", "goemotions")
            path = path.replace("${item.backbone}", BACKBONE)
            outs |= {path.replace("${item.model}", name) for name in MODELS}
    above = {out for path in found for out in outs if Path(path).is_relative_to(out)}
    covered = {path for path in found if any(Path(path).is_relative_to(out) for out in outs)}
    assert found - covered == {"params/goemotions.yaml"}
    assert {"data/goemotions/features/tfidf", "models/goemotions/svm"} <= above


def test_embeddings_are_made_only_for_members_that_take_them(trained, tmp_path):
    root = evenly(trained("demo"), "demo", tmp_path)
    whole = Pipeline.load("demo", root)
    assert whole.features.embedder
    assert whole.has_networks
    write_weights(root, "demo", dict.fromkeys(MEMBERS, 0.0) | {"logreg": 0.5, "forest": 0.5})
    small = Pipeline.load("demo", root)
    assert small.features.embedder is None
    assert not small.has_networks


def test_tuned_model_predicts_where_its_backbone_is_not(trained, tmp_path):
    root, folder = trained("demo"), tmp_path / BACKBONE
    shutil.copytree(root / "models" / "demo" / BACKBONE, folder)
    for path in folder.glob(f"*/{ABOUT}"):
        about = json.loads(path.read_text("utf-8"))
        about["params"]["backbone"]["name"] = "/nowhere"
        write_json(about, path)
    task = read_task(root / "data" / "demo" / "labels.json")
    rows = pd.read_parquet(root / "data" / "demo" / "rows.parquet")[:5]
    found, expected = (
        load_member(each, task).predict(rows, {})
        for each in (folder, root / "models" / "demo" / BACKBONE)
    )
    np.testing.assert_array_equal(found, expected)
