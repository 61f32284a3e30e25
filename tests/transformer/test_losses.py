import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from sklearn.utils.class_weight import compute_sample_weight

from stages.core.tasks import MultiLabel, Preference, SingleLabel
from stages.transformer.training.losses import (
    class_weights,
    disagreement,
    ignorance,
    sequence_losses,
    smooth,
)

TASKS = [Preference(), SingleLabel(("x", "y", "z")), MultiLabel(("x", "y", "z"))]
SOFT = np.array([[0.2, 0.3, 0.5], [1, 0, 0]])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_losses_are_the_log_losses_of_the_task(task):
    scores = np.random.default_rng(0).normal(size=(2, 3))
    losses = sequence_losses(
        torch.from_numpy(scores), torch.from_numpy(SOFT), exclusive=task.exclusive
    )
    np.testing.assert_allclose(losses, task.row_losses(SOFT, task.link(scores)))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_disagreement_is_the_mean_of_both_divergences(task):
    one, other = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 3)))
    found = disagreement(one, other, exclusive=task.exclusive)
    p, q = task.link(one.numpy()), task.link(other.numpy())
    both = rel_entr(p, q) + rel_entr(q, p)
    if task.exclusive:
        expected = both.sum(axis=1) / 2
    else:
        both += rel_entr(1 - p, 1 - q) + rel_entr(1 - q, 1 - p)
        expected = both.mean(axis=1) / 2
    np.testing.assert_allclose(found, expected)
    assert disagreement(one, one, exclusive=task.exclusive).tolist() == [0] * 5


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_ignorance_is_the_loss_of_scores_of_zero(task):
    losses = task.row_losses(SOFT, task.link(np.zeros((2, 3))))
    np.testing.assert_allclose(losses, ignorance(task))


def test_smoothing_keeps_targets_probabilities():
    smoothed = smooth(TASKS[1], SOFT, 0.3)
    np.testing.assert_allclose(smoothed[1], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(smoothed.sum(axis=1), 1)
    np.testing.assert_allclose(smooth(TASKS[2], SOFT, 0.3)[1], [0.85, 0.15, 0.15])


def test_class_weights_are_those_of_scikit_learn():
    y = np.array([0, 0, 0, 1, 1, 2, 0])
    found = class_weights(TASKS[1], np.eye(3)[y])
    np.testing.assert_allclose(found, compute_sample_weight("balanced", y))
    absent = class_weights(TASKS[1], np.eye(3)[[0, 0, 0, 1]])
    np.testing.assert_allclose(absent, compute_sample_weight("balanced", [0, 0, 0, 1]))


def test_class_weights_do_not_depend_on_the_order_of_a_pair():
    targets = np.eye(3)[[0, 0, 0, 1, 2]]
    found = class_weights(TASKS[0], targets)
    np.testing.assert_allclose(found, [5 / 6, 5 / 6, 5 / 6, 5 / 6, 5 / 3])
    swapped = class_weights(TASKS[0], TASKS[0].swap_classes(targets))
    np.testing.assert_array_equal(found, swapped)


def test_rows_with_several_classes_weigh_the_same():
    np.testing.assert_array_equal(class_weights(TASKS[2], SOFT), [1, 1])
