from typing import Annotated

import pandas as pd
import pytest
from pydantic import Field, ValidationError

from stages.models.fitting.design import SourceParams
from stages.models.fitting.search import ModelParams, replaced, search, space_faults

STYLE = {"parts": ("difference",), "scale": "none", "weight": 1.0}


class ToyParams(ModelParams):
    C: Annotated[float, Field(gt=0)]
    depth: int
    style: SourceParams


def make_params(space=None, sampler="random", trials=4):
    plan = space and {"sampler": sampler, "trials": trials, "seed": 0, "space": space}
    return ToyParams.model_validate(
        {
            "C": 1.0, "depth": 3, "balance": "none", "seed": 0, "search": plan, "embed": None,
            "style": SourceParams(**STYLE),
        }
    )  # fmt: skip


def loss(params):
    return (params.C - 0.1) ** 2 + 0.01 * (params.depth - 2) ** 2 + 0.001 * params.style.weight


def losses(batch):
    return [loss(params) for params in batch]


SPACE = {
    "C": {"low": 0.01, "high": 10.0, "log": True},
    "depth": {"low": 1, "high": 5, "log": False},
    "style.weight": {"choices": (0.5, 2.0)},
}
GRID = {"C": {"choices": (0.1, 1.0)}, "style.weight": {"choices": (0.5, 2.0)}}


def test_without_a_search_the_given_params_are_the_only_trial():
    table = search(make_params(), losses)
    assert table.to_dict("records") == [{"trial": 0, "log_loss": loss(make_params())}]


@pytest.mark.parametrize(("sampler", "space"), [("random", SPACE), ("tpe", SPACE), ("grid", GRID)])
def test_every_sampler_reports_each_trial_once_the_given_params_first(sampler, space):
    given = make_params(space, sampler)
    seen = []
    table = search(given, lambda batch: seen.extend(batch) or losses(batch))
    assert list(table) == ["trial", "log_loss", *space]
    assert table["trial"].tolist() == [0, 1, 2, 3, 4]
    assert seen[0] == given
    assert table.loc[0, "C"] == 1.0
    for row, params in zip(table.itertuples(), seen, strict=True):
        assert row.log_loss == loss(params)
        assert row.C == params.C
    pd.testing.assert_frame_equal(table, search(given, losses))


def test_grid_covers_all_choices_and_then_ends():
    table = search(make_params(GRID, "grid", trials=20), losses)
    drawn = table.loc[1:, ["C", "style.weight"]]
    assert sorted(map(tuple, drawn.to_numpy())) == [(0.1, 0.5), (0.1, 2), (1, 0.5), (1, 2)]


def test_draws_stay_in_their_range_and_whole_numbers_whole():
    table = search(make_params(SPACE, trials=15), losses).loc[1:]
    assert table["C"].between(0.01, 10).all()
    assert set(table["depth"]) <= {1, 2, 3, 4, 5}
    assert len(set(table["depth"])) > 2


@pytest.mark.parametrize("key", ["c", "style.wait", "style.weight.deep"])
def test_unknown_param_in_the_space_is_an_input_error(key):
    space = {key: {"choices": (1.0,)}}
    (fault,) = space_faults(make_params(space))
    assert fault.startswith(
        f"search.space.{key}: no such param, got {key.rpartition('.')[2]!r}; expected"
    )


def test_all_faults_of_a_space_are_told():
    space = {
        "C": {"low": -1.0, "high": 1.0, "log": False},
        "depth": {"choices": (1, 2.5)},
        "deep": {"choices": (1,)},
    }

    assert space_faults(make_params(space)) == [
        "search.space.C: Input should be greater than 0, got -1.0",
        "search.space.depth: Input should be a valid integer, got 2.5",
        "search.space.deep: no such param, got 'deep'; "
        "expected ['C', 'balance', 'depth', 'embed', 'search', 'seed', 'style']",
    ]
    assert space_faults(make_params(SPACE)) == []


def test_grid_refuses_ranges():
    faults = space_faults(make_params(SPACE, "grid"))
    assert len(faults) == 2
    assert all("got a range; expected choices for a grid" in fault for fault in faults)


@pytest.mark.parametrize(
    ("low", "high", "log", "fault"),
    [(2.0, 1.0, True, "low <= high"), (0.0, 1.0, True, "more than 0 where log is true")],
)
def test_range_that_is_none_is_refused(low, high, log, fault):
    with pytest.raises(ValidationError, match=fault):
        make_params({"C": {"low": low, "high": high, "log": log}})


def test_space_without_high_is_one_fault():
    with pytest.raises(ValidationError, match="1 validation error"):
        make_params({"C": {"low": 0.1}})


def test_replaced_changes_only_what_is_named_and_not_the_given():
    given = make_params()
    changed = replaced(given, {"style.weight": 3.0, "C": 2.0})
    assert changed.style.weight == 3.0
    assert changed.model_copy(update={"style": given.style, "C": 1.0}) == given
    assert given.C == 1.0
