import numpy as np
import pytest
import torch

from stages.core.errors import InputError
from stages.core.tasks import SingleLabel
from stages.transformer.network.predict import Data, predict, probabilities
from stages.transformer.network.tokens import Tokens
from stages.transformer.training.classifier import build


@pytest.fixture
def classifier(make_params):
    return build(make_params(), 3, device=torch.device("cpu"), seed=0)


def exchanged(data, rows):
    sequences = [data.tokens.sequence(row, order) for row in rows for order in (1, 0)]
    return Data(data.task, Tokens.of(sequences, 2, 0), data.targets[rows])


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
