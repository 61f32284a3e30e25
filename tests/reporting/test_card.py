from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from pydantic import ValidationError
from ruamel.yaml import YAML
from sklearn.metrics import f1_score

from stages.core.errors import InputError
from stages.core.layout import ENSEMBLE, Layout
from stages.reporting import card
from tests.given import write_params
from tests.reporting.report_data import N_TRAIN, write_results

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"license": "mit", "language": ["en"], "data": "Made up."}


def build(folder, kind, model=ENSEMBLE):
    """The card of the ensemble, which may hold the predictions and scores of another model."""
    write_results(folder, kind)
    write_params(folder, "mine", card=PARAMS)
    layout = Layout("mine", folder)
    if model != ENSEMBLE:
        layout.predictions(model).replace(layout.predictions(ENSEMBLE))
        layout.scores(model).replace(layout.scores(ENSEMBLE))
    card.main(dataset="mine")
    return layout.card.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["preference", "single_label", "multi_label"])
def test_library_of_the_hub_reads_the_metadata(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    read = ModelCard(build(tmp_path, kind))
    assert (read.data.license, read.data.language) == ("mit", ["en"])
    assert read.data.pipeline_tag == "text-classification"
    assert [result.metric_type for result in read.data.eval_results] == [
        "log_loss", "accuracy", "f1",
    ]  # fmt: skip
    heads = [line for line in read.text.splitlines() if line.startswith("## ")]
    assert heads == [
        "## Intended use", "## Data", "## Metrics", "## Biases that were measured", "## Limits",
        "## Licence", "## How to use it",
    ]  # fmt: skip
    assert ("preferred" in read.text) == (kind == "preference")


def test_same_results_give_the_same_card(tmp_path, monkeypatch):
    texts = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        texts.append(build(tmp_path / name, "preference"))
    assert texts[0] == texts[1]


def test_metrics_are_those_of_scikit_learn_and_lie_in_their_intervals():
    rng = np.random.default_rng(0)
    losses, actual, given = rng.exponential(size=300), *rng.random((2, 300, 4)).round().astype(bool)
    found = card.measure(losses, actual, given, np.arange(300))
    expected = [
        losses.mean(), (actual == given).all(axis=1).mean(),
        f1_score(actual, given, average="macro"),
    ]  # fmt: skip
    assert [m.value for m in found] == pytest.approx(expected)
    assert all(m.low < m.value < m.high for m in found)
    three_of_four = np.eye(4, dtype=bool)[np.arange(300) % 3]
    found = card.measure(losses, three_of_four, three_of_four, np.arange(300))
    assert [(m.value, m.low, m.high) for m in found[1:]] == [(1, 1, 1)] * 2


def test_class_that_no_drawn_row_has_still_counts_in_the_interval():
    actual = np.eye(2, dtype=bool)[np.arange(40) // 38]  # two rows of the second class
    given = np.tile([True, False], (40, 1))
    f1 = card.measure(np.ones(40), actual, given, np.arange(40))[2]
    assert f1.value < f1.high <= 0.5


def test_interval_of_the_mean_is_that_of_the_normal_distribution():
    losses = np.random.default_rng(1).normal(size=2000)
    right = np.ones((2000, 1), bool)
    loss = card.measure(losses, right, right, np.arange(2000))[0]
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 / np.sqrt(2000), rel=0.1)


def test_rows_of_a_group_are_drawn_together():
    losses = np.repeat(np.random.default_rng(2).normal(size=200), 5)
    right = np.ones((1000, 1), bool)
    apart, together = (
        card.measure(losses, right, right, group)[0]
        for group in (np.arange(1000), np.repeat(np.arange(200), 5))
    )
    assert together.high - together.low > 1.8 * (apart.high - apart.low)


def test_metric_of_a_model_on_one_fold_is_that_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"Out of fold on {N_TRAIN // 3} rows" in build(tmp_path, "preference", "minilm")


def test_model_without_predictions_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"ensemble\.parquet: got no row"):
        build(tmp_path, "preference", "never")


@pytest.mark.parametrize(
    "wrong", [{"license": "CC BY"}, {"language": []}, {"language": ["English"]}, {"data": ""}]
)
def test_params_that_the_hub_would_not_take_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        card.CardParams.model_validate(PARAMS | {"language": ("en",)} | wrong, strict=False)


def test_registry_shows_the_ensemble_of_a_dataset_that_is_built():
    from dvc.repo import Repo

    with Repo(ROOT) as repo:
        artifact = repo.artifacts.read()["dvc.yaml"]["ensemble"]
    datasets = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))["datasets"]
    assert (artifact.type, artifact.path) == ("model", f"models/{datasets[0]}")
    assert artifact.desc
    assert artifact.labels
    predictions = Layout(datasets[0]).predictions(ENSEMBLE)
    assert artifact.meta["predictions"] == predictions.as_posix()
