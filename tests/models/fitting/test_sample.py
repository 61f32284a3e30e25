import numpy as np
import pytest
from scipy import sparse

from stages.core.matrices import Design
from stages.core.tasks import MultiLabel, SingleLabel
from stages.models.fitting.sample import make_sample

CLASSES = np.repeat([0, 1, 2], [12, 6, 3])


@pytest.fixture
def design():
    X = np.random.default_rng(0).normal(size=(len(CLASSES), 3)).astype(np.float32)
    return Design(X, 1)


def make(task, design, balance="none", targets=None, seed=0):
    targets = np.eye(3)[CLASSES] if targets is None else targets
    groups = np.arange(len(targets)) // 2
    return make_sample(task, design, targets, groups, balance, seed).both_orders()


@pytest.mark.parametrize("is_sparse", [False, True])
def test_every_row_stands_in_both_orders(task, design, is_sparse):
    X = design.X
    given = Design(sparse.csr_matrix(X) if is_sparse else X, 1)
    sample = make(task, given)
    n = len(CLASSES)
    found = sample.X.toarray() if is_sparse else sample.X
    np.testing.assert_array_equal(found[:n], X)
    np.testing.assert_array_equal(found[n:], X * [-1, 1, 1])
    assert sample.y[:n].tolist() == CLASSES.tolist()
    assert sample.y[n:].tolist() == [[1, 0, 2][y] for y in CLASSES]
    assert sample.group[:n].tolist() == sample.group[n:].tolist()
    assert (sample.weight == 1).all()


@pytest.mark.parametrize("balance", ["weights", "oversampling"])
def test_balancing_gives_all_classes_the_same_weight(task, design, balance):
    sample = make(task, design, balance)
    total = np.bincount(sample.y, sample.weight)
    np.testing.assert_allclose(total, total[0])


@pytest.mark.parametrize("balance", ["none", "weights", "oversampling"])
def test_natural_weights_give_the_classes_as_they_came(task, design, balance):
    targets = np.random.default_rng(1).dirichlet([5, 2, 1], len(CLASSES))
    targets[:4] = np.eye(3)[[0, 1, 2, 0]]
    sample = make(task, design, balance, targets)
    both = targets + task.swap_classes(targets)
    np.testing.assert_allclose(np.bincount(sample.y, sample.natural), both.sum(axis=0))


def test_balance_weights_keep_the_total(task, design):
    assert make(task, design, "weights").weight.sum() == pytest.approx(2 * len(CLASSES))


def test_balance_weights_count_soft_targets_by_their_share(task, design):
    targets = np.random.default_rng(1).dirichlet([5, 2, 1], len(CLASSES))
    sample = make(task, design, "weights", targets)
    total = np.bincount(sample.y, sample.weight)
    np.testing.assert_allclose(total, total[0])


def test_oversampling_keeps_all_rows_and_repeats_only_rarer_classes(task, design):
    sample = make(task, design, "oversampling")
    half = len(sample.y) // 2
    seen = sample.X[:half]
    times = np.array([(seen == row).all(axis=1).sum() for row in design.X])
    assert (times[CLASSES == 0] == 1).all()
    assert (times >= 1).all()
    again, other = (make(task, design, "oversampling", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(sample.X, again.X)
    assert not np.array_equal(sample.X, other.X)


def test_oversampling_goes_by_the_shares_of_soft_targets(task, design):
    soft = np.tile([0.8, 0.15, 0.05], (len(CLASSES), 1))
    sample = make(task, design, "oversampling", soft)
    total = np.bincount(sample.y, sample.weight)
    np.testing.assert_allclose(total, total[0], rtol=0.01)


def test_class_without_rows_is_left_alone_by_balancing(task, design):
    targets = np.eye(3)[np.minimum(CLASSES, 1)]  # no ties
    for balance in ("weights", "oversampling"):
        sample = make(task, design, balance, targets)
        total = np.bincount(sample.y, sample.weight, minlength=3)
        assert total.tolist() == pytest.approx([total[0], total[0], 0])
        assert np.isfinite(sample.weight).all()


def test_soft_targets_are_weighted_rows_of_each_class(task, design):
    targets = np.eye(3)[CLASSES]
    targets[0] = [0.5, 0, 0.5]
    sample = make(task, design, targets=targets)
    half = len(sample.y) // 2
    assert half == len(CLASSES) + 1
    assert sample.y[:3].tolist() == [0, 2, 0]
    assert sample.weight[:3].tolist() == [0.5, 0.5, 1]
    np.testing.assert_array_equal(sample.X[:2], design.X[[0, 0]])
    assert sample.y[half : half + 3].tolist() == [1, 2, 1]


def test_splits_hold_each_row_once_and_keep_groups_and_orders_together(task, design):
    sample = make(task, design)
    held_rows = []
    for fitted, held in sample.splits(3, seed=5):
        assert not set(sample.group[fitted]) & set(sample.group[held])
        assert len(fitted) + len(held) == len(sample.y)
        held_rows += held.tolist()
    assert sorted(held_rows) == list(range(len(sample.y)))
    assert [h.tolist() for _, h in sample.splits(3, 5)] == [
        h.tolist() for _, h in sample.splits(3, 5)
    ]


SEVERAL = MultiLabel(("often", "seldom"))
LABELS = np.array([[1, 0]] * 6 + [[1, 1]] * 2 + [[0, 0]])


def make_several(targets, balance="none"):
    X = np.arange(len(targets), dtype=np.float32)[:, None]
    design = Design(X, 0)
    return make_sample(SEVERAL, design, targets, np.arange(len(targets)), balance, 0)


def test_row_of_several_classes_stands_once_with_its_soft_targets():
    targets = LABELS * 0.75
    sample = make_several(targets).both_orders()
    np.testing.assert_array_equal(sample.y, targets)
    np.testing.assert_array_equal(sample.targets, targets)
    assert sample.X.ravel().tolist() == list(range(9))
    assert sample.take(np.array([2, 8])).y.tolist() == [[0.75, 0], [0, 0]]


def test_balancing_several_classes_goes_by_the_rarest_of_a_row():
    weighted = make_several(LABELS, "weights")
    assert weighted.weight.sum() == pytest.approx(9)
    np.testing.assert_allclose(weighted.weight, [0.5] * 6 + [1.5] * 2 + [3])
    drawn = make_several(LABELS, "oversampling")
    kind = 2 * drawn.y[:, 1] + drawn.y[:, 0]
    assert np.unique(kind, return_counts=True)[1].tolist() == [6, 6, 6]


def test_text_has_one_order(design):
    task = SingleLabel(("x", "y", "z"))
    sample = make_sample(task, Design(design.X, 0), np.eye(3)[CLASSES], np.arange(21), "none", 0)
    assert sample.both_orders() is sample
    np.testing.assert_array_equal(sample.targets, np.eye(3)[CLASSES])
