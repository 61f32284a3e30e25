from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.core.errors import InputError
from stages.core.tasks import SingleLabel
from stages.transformer.network import predict as _predict
from stages.transformer.network.predict import Data, padding, predict, probabilities
from stages.transformer.network.tokens import Tokens
from stages.transformer.training.classifier import build


@pytest.fixture
def classifier(make_params):
    return build(make_params(), 3, device=torch.device("cpu"), seed=0)


def exchanged(data, rows):
    sequences = [data.tokens.sequence(row, order) for row in rows for order in (1, 0)]
    return Data(data.task, Tokens.of(sequences, 2, 0), data.targets[rows])


def test_lengths_are_padded_to_what_the_device_computes_fast():
    network = SimpleNamespace(
        backbone=SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    )
    assert [padding(network, torch.device(name)) for name in ("cpu", "cuda")] == [1, 8]
    network.backbone.config._attn_implementation = "flex_attention"
    assert padding(network, torch.device("cuda")) == 64
    tokens = Tokens.of([np.arange(1, 4, dtype=np.int32), np.arange(1, 11, dtype=np.int32)], 1, 0)
    ids, mask = tokens.pad([(0, 0), (1, 0)], multiple=8)
    assert ids.shape == mask.shape == (2, 16)
    assert mask.sum(axis=1).tolist() == [3, 10]
    assert not ids[mask == 0].any()


def test_short_memory_halves_the_batches(pairs, make_params, accelerator, monkeypatch, caplog):
    params = make_params(tokens_per_batch=512)
    classifier = build(params, 3, device=accelerator.device, seed=0)
    rows = np.arange(len(pairs.targets))
    expected = predict(classifier, pairs, rows, params, accelerator)
    plain, seen = _predict.score, []

    def short(network, tokens, sequences, device):
        seen.append(len(sequences))
        if len(sequences) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(network, tokens, sequences, device)

    monkeypatch.setattr(_predict, "score", short)
    found = predict(classifier, pairs, rows, params, accelerator)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert seen[-1] <= 3
    assert "predict: out of memory: batches of 256 tokens" in caplog.text


def test_order_of_rows_and_of_answers_changes_no_bit(classifier, pairs, make_params, accelerator):
    rows = np.arange(len(pairs.targets))
    straight = predict(classifier, pairs, rows, make_params(), accelerator)
    assert straight.shape == (30, 2, 3)
    assert straight.dtype == np.float32
    backwards = predict(classifier, pairs, rows[::-1], make_params(), accelerator)
    np.testing.assert_array_equal(backwards[::-1], straight)
    turned = predict(classifier, exchanged(pairs, rows), rows, make_params(), accelerator)
    np.testing.assert_array_equal(turned[:, ::-1], straight)
    assert len(np.unique(straight)) > 100


def test_exchanged_row_has_the_exchanged_prediction(pairs):
    scores = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    found, swapped = probabilities(pairs.task, scores)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(swapped, pairs.task.swap_classes(found))


def test_batches_change_rounding_only(classifier, pairs, make_params, accelerator):
    rows = np.arange(len(pairs.targets))
    alone, together = (
        predict(classifier, pairs, rows, make_params(tokens_per_batch=size), accelerator)
        for size in (8, 100_000)
    )
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_no_rows_have_no_scores(classifier, pairs, make_params, accelerator):
    none = np.zeros(0, np.intp)
    assert predict(classifier, pairs, none, make_params(), accelerator).shape == (0, 2, 3)


def test_tokens_of_another_task_are_refused(pairs):
    with pytest.raises(InputError, match="orders of a row: got 2; expected 1 for single_label"):
        Data(SingleLabel(("a", "b", "tie")), pairs.tokens, pairs.targets)
