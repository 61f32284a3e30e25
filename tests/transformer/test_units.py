import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.folds import NO_FOLD, TEST, TRAIN, Folds
from stages.core.stopping import StoppingParams
from stages.core.tasks import SingleLabel
from stages.transformer.training.checkpoint import Finished
from stages.transformer.training.progress import ROW
from stages.transformer.training.units import curves, gather, hold_out, units

TASK = SingleLabel(("x", "y"))


@pytest.fixture
def stored():
    """Three folds of four rows in groups of two, two rows of a test part."""
    group = np.repeat(np.arange(6), 2)
    return Folds(
        ids=pd.Series([f"r{i}" for i in range(14)]),
        part=np.array([TRAIN] * 12 + [TEST] * 2),
        fold=np.array([*(group % 3), NO_FOLD, NO_FOLD]),
        group=np.array([*group, 100, 101]),
        targets=np.vstack([np.eye(2)[np.arange(12) % 2], np.full((2, 2), np.nan)]),
    )


def made(rows, score):
    scores = np.tile(np.float32([score, 0]), (len(rows), 1, 1))
    return Finished(None, scores, [{"step": 1, "train_loss": 0.5}], 1.0)


def test_each_fold_is_a_unit_that_predicts_its_rows_and_the_unseen(stored, make_params):
    found = units(stored, make_params(seed=7))
    assert [(unit.name, unit.fold, unit.seed) for unit in found] == [
        ("fold0", 0, 7), ("fold1", 1, 8), ("fold2", 2, 9)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[1].rows, [2, 3, 8, 9, 12, 13])


def test_refit_predicts_the_unseen_instead(stored, make_params):
    found = units(stored, make_params(folds=[2], test="refit"))
    assert [(unit.name, unit.fold) for unit in found] == [("fold2", 2), ("refit", None)]
    np.testing.assert_array_equal(found[0].rows, [4, 5, 10, 11])
    np.testing.assert_array_equal(found[1].rows, [12, 13])


@pytest.mark.parametrize("numbers", [[3], [0, 0]])
def test_fold_that_is_not_stored_or_stands_twice_is_refused(stored, make_params, numbers):
    with pytest.raises(InputError, match=r"folds: got .*; expected some of \[0, 1, 2\], each once"):
        units(stored, make_params(folds=numbers))


def test_holdout_is_whole_groups(stored):
    rows = stored.train(0)
    train, holdout = hold_out(stored, rows, StoppingParams(patience=1, holdout_parts=2), seed=0)
    assert not set(stored.group[train]) & set(stored.group[holdout])
    assert len(holdout) == 4
    assert len(train) == 4
    assert 0 not in stored.fold[train]


def test_no_stopping_needs_no_holdout(stored):
    train, holdout = hold_out(stored, stored.train(0), None, seed=0)
    np.testing.assert_array_equal(train, stored.train(0))
    assert holdout is None


def test_single_group_cannot_be_held_out(stored):
    with pytest.raises(InputError, match=r"holdout_parts: got 2 for 1 groups of rows; expected"):
        hold_out(stored, np.array([0, 1]), StoppingParams(patience=1, holdout_parts=2), seed=0)


def test_predictions_are_out_of_fold_and_means_for_unseen_rows(stored, make_params):
    first, last = units(stored, make_params(folds=[0, 2]))
    found = {first: made(first.rows, 1), last: made(last.rows, 3)}
    table, losses = gather(stored, TASK, found)
    p = {score: 1 / (1 + np.exp(-score)) for score in (1, 3)}
    assert list(table.columns) == ["id", "part", "p_x", "p_y"]
    by_id = table.set_index("id")["p_x"]
    assert set(by_id.index) == {f"r{i}" for i in (0, 1, 6, 7, 4, 5, 10, 11, 12, 13)}  # no fold 1
    np.testing.assert_allclose(by_id[["r0", "r4", "r12"]], [p[1], p[3], (p[1] + p[3]) / 2])
    assert len(losses) == 8
    np.testing.assert_allclose(losses[:2], -np.log([p[1], 1 - p[1]]))


def test_curves_name_their_model(stored, make_params):
    table = curves({u: made(u.rows, 1) for u in units(stored, make_params())})
    assert list(table.columns) == ["model", *ROW]
    assert list(table["model"]) == ["fold0", "fold1", "fold2"]
    assert list(curves({}).columns) == ["model", *ROW]
