"""Each recipe of params/recipes trains a tiny model of the same family."""

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.core.params import check_params
from stages.evaluation.ensemble import EnsembleParams
from stages.transformer.network.params import FinetuneParams
from stages.transformer.network.predict import predict
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import build
from stages.transformer.training.loop import Fit

FOLDER = Path(__file__).parents[2] / "params/recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
FAMILIES = {"deberta": "deberta-v2", "distilbert": "distilbert", "gemma": "gemma2-wide",
            "llama": "llama-wide"}  # fmt: skip
NAMES = [
    "deberta_v3_staged", "distilbert_full", "distilbert_lora", "gemma2_9b_lora", "gemma2_9b_qlora",
    "two_llm_blend",
]  # fmt: skip
HEAD = ("Source:", "Hardware:", "Expected:", "Measured here:")


def read(file):
    return YAML(typ="safe").load(file.read_text("utf-8"))


CASES = [(file, name) for file in FILES for name in read(file)["finetune"]]


def test_all_recipes_are_there_and_say_where_they_come_from():
    assert [file.stem for file in FILES] == NAMES
    for file in FILES:
        head = [line for line in file.read_text("utf-8").splitlines() if line.startswith("#")]
        assert all(any(line.startswith(f"# {word}") for line in head) for word in HEAD), file
        sections = read(file)
        assert set(sections) <= {"finetune", "ensemble"}
        if "ensemble" in sections:
            given = check_params(EnsembleParams, sections["ensemble"], file, "ensemble")
            assert set(sections["finetune"]) <= set(given.weights)


@pytest.mark.filterwarnings("ignore")  # bitsandbytes warns about the CPU
@pytest.mark.parametrize(("file", "name"), CASES, ids=[f"{f.stem}-{name}" for f, name in CASES])
def test_recipe_trains_a_tiny_model_of_its_family(file, name, tiny, pairs, accelerator, tmp_path):
    pytest.importorskip("bitsandbytes")
    params = check_params(FinetuneParams, read(file)["finetune"][name], file, f"finetune.{name}")
    assert params.backbone.name.startswith(".") == (params.backbone.revision is None)
    backbone = params.backbone.model_copy(
        update={"name": str(tiny(FAMILIES[name])), "revision": None}
    )
    encoding = params.encoding.model_copy(update={"max_tokens": 64, "prompt_tokens": 16})
    steps = tuple(step.model_copy(update={"epochs": 0.1}) for step in params.steps)
    params = params.model_copy(update={"backbone": backbone, "encoding": encoding, "steps": steps})
    classifier = build(params, 3, device=accelerator.device, seed=0)
    fit = Fit(
        classifier, pairs, np.arange(20), np.ones(20), None, params, 0,
        accelerator=accelerator, checkpoint=Checkpoint(tmp_path / "none.pt"), name="fold0",
    )  # fmt: skip
    curve = fit.run()
    assert {row["phase"] for row in curve} == set(range(len(steps)))
    scores = predict(classifier, pairs, np.arange(20, 30), params, accelerator)
    assert np.isfinite(scores).all()
    assert scores.shape == (10, 2, 3)
