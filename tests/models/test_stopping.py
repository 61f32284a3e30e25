import numpy as np
import pytest

from stages.core.matrices import Design
from stages.models._stopping import StoppingParams, fit_rounds
from stages.models.fitting.sample import make_sample

STOPPING = StoppingParams(patience=2, holdout_parts=4)


@pytest.fixture
def sample(task):
    X = np.arange(24, dtype=np.float32)[:, None]
    targets = np.eye(3)[np.arange(24) % 3]
    return make_sample(task, Design(X, 0), targets, np.arange(24) // 2, "none", 0)


def spy(calls, best=7):
    def fit(part, rounds, holdout, seed):
        calls.append((part, rounds, holdout, seed))
        return len(calls), best

    return fit


def test_holdout_shares_no_group_with_the_fitted_part(sample):
    calls = []
    assert fit_rounds(sample, STOPPING, 50, [3], spy(calls)) == 2
    (part, rounds, holdout, _), whole = calls
    assert rounds == 50
    assert not set(part.group) & set(holdout.group)
    assert len(part.y) + len(holdout.y) == len(sample.y)
    assert len(set(holdout.group)) == 3  # a fourth of 12 groups
    assert whole == (sample, 7, None, 3)  # fitted anew on all, with the rounds found


def test_each_seed_finds_its_own_rounds(sample):
    calls = []
    mean = fit_rounds(sample, STOPPING, 50, [3, 4], spy(calls))
    assert [call[3] for call in calls] == [3, 3, 4, 4]
    assert calls[0][2].group.tolist() != calls[2][2].group.tolist()
    assert mean.models == (2, 4)


def test_without_stopping_the_rounds_are_those_given(sample):
    calls = []
    fit_rounds(sample, None, 50, [3], spy(calls))
    assert calls == [(sample, 50, None, 3)]


def test_seed_draws_the_holdout(sample):
    def held(seed):
        calls = []
        fit_rounds(sample, STOPPING, 50, [seed], spy(calls))
        return sorted(set(calls[0][2].group.tolist()))

    assert held(0) == held(0)
    assert len({tuple(held(seed)) for seed in range(5)}) > 1
