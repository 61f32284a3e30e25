"""The recipe of two language models and LightGBM, on tiny decoders: from training to new rows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.core.layout import ENSEMBLE, Layout
from stages.core.tables import read_table
from stages.evaluation import ensemble, submit
from stages.serving.pipeline import Pipeline
from stages.transformer import finetune, tokens
from tests.trained import load_tiny

RECIPE = Path(__file__).parents[2] / "params/recipes/two_llm_blend.yaml"
FAMILIES = {"gemma": "gemma2-wide", "llama": "llama-wide"}
CLASSES = ["p_a", "p_b", "p_tie"]


def write(folder, sections, *, seed):
    """The dataset's file with the recipe's sections, on tiny models and short texts."""
    recipe = YAML(typ="safe").load(RECIPE.read_text("utf-8"))
    for name, own in recipe["finetune"].items():
        own["backbone"] |= {"name": sections["tiny"][name], "revision": None}
        own["encoding"] = {"max_tokens": 48, "prompt_tokens": 8}
        own["steps"][0]["epochs"] = 0.2
        own["seed"] = seed[name]
    content = sections["params"] | recipe
    (folder / "params/demo.yaml").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # bitsandbytes warns about the CPU
def test_two_language_models_and_a_classical_one_blend_submit_and_predict(
    trained, tmp_path, monkeypatch
):
    pytest.importorskip("bitsandbytes")
    for name in ("params", "data", "models", "metrics"):
        shutil.copytree(trained("demo") / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lists = json.loads((trained("demo") / "params.yaml").read_text("utf-8"))
    lists["build"]["backbones"] = [*FAMILIES]
    Path("params.yaml").write_text(json.dumps(lists), encoding="utf-8")
    sections = {
        "params": json.loads(Path("params/demo.yaml").read_text("utf-8")),
        "tiny": {
            name: str(load_tiny("tiny").write_tiny(tmp_path / family, family))
            for name, family in FAMILIES.items()
        },
    }
    layout = Layout("demo")
    write(tmp_path, sections, seed={"gemma": 0, "llama": 0})
    for name in FAMILIES:
        tokens.main(dataset="demo", backbone=name)
        finetune.main(dataset="demo", backbone=name)
    ensemble.main(dataset="demo")
    blended = check_blend(layout)
    submit.main(dataset="demo")
    rows = pd.read_csv(layout.submission)
    np.testing.assert_allclose(rows.iloc[:, 1:].sum(axis=1), 1, atol=1e-6)

    test = pd.read_parquet(layout.rows).query("part == 'test'")
    pipeline = Pipeline.load("demo", tmp_path)
    assert list(pipeline.members) == ["gemma", "llama", "lgbm"]
    found = pipeline.predict(test[list(pipeline.task.text_columns)])
    expected = blended.set_index("id").loc[test["id"], CLASSES]
    np.testing.assert_allclose(found[CLASSES], expected, atol=5e-3)  # bf16, other batches

    write(tmp_path, sections, seed={"gemma": 0, "llama": 1})
    finetune.main(dataset="demo", backbone="llama")
    ensemble.main(dataset="demo")
    again = check_blend(layout)
    assert not np.allclose(again[CLASSES], blended[CLASSES], atol=1e-4)


def check_blend(layout):
    """The blend, which is that of the recipe's weights."""
    blended = read_table(layout.predictions(ENSEMBLE))
    shares = {"gemma": 50, "llama": 42, "lgbm": 0.5}
    total = sum(
        share
        / 92.5
        * read_table(layout.predictions(name))
        .set_index("id")
        .loc[blended["id"], CLASSES]
        .to_numpy()
        for name, share in shares.items()
    )
    np.testing.assert_allclose(blended[CLASSES], total, atol=1e-6)
    return blended
