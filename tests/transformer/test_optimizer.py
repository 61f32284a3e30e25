import numpy as np
import pytest
import torch

from stages.transformer.training.classifier import build, head_parameters, layers, unfreeze
from stages.transformer.training.optimizer import PEAK, make_groups, make_optimizer, rate, set_rates

CPU = torch.device("cpu")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_rate_rises_in_the_warmup_and_never_is_zero(schedule):
    rates = [rate(done, 100, 0.1, schedule) for done in range(100)]
    assert all(np.diff(rates[:11]) > 0)
    assert rates[10] == 1
    assert all(np.diff(rates[10:]) <= 0)
    assert min(rates) > 0


def test_rate_after_the_warmup_is_that_of_the_schedule():
    assert [rate(done, 4, 0, "linear") for done in range(4)] == [1, 0.75, 0.5, 0.25]
    assert rate(2, 4, 0, "cosine") == pytest.approx(0.5)
    assert [rate(done, 4, 0, "constant") for done in range(4)] == [1, 1, 1, 1]
    assert rate(0, 1, 0.9, "linear") == 0.5  # a warm-up that is the whole phase


@pytest.fixture
def classifier(make_params):
    return build(make_params(), 3, device=CPU, seed=0)


def peaks(classifier, params):
    groups = make_groups(classifier, params.steps[0], params)
    return {
        id(p): (group[PEAK], group["weight_decay"]) for group in groups for p in group["params"]
    }


def test_each_layer_learns_slower_than_the_one_above(classifier, make_params):
    params = make_params(layer_decay=0.5)
    found = peaks(classifier, params)
    assert len(found) == len(list(classifier.parameters()))
    by_layer = [{found[id(p)][0] for p in layer} for layer in layers(classifier)]
    assert by_layer == [{1e-3 / 8}, {1e-3 / 4}, {1e-3 / 2}, {1e-3}]
    assert {found[id(p)][0] for p in head_parameters(classifier)} == {1e-2}


def test_only_matrices_decay(classifier, make_params):
    found = peaks(classifier, make_params())
    decays = {(p.ndim > 1, found[id(p)][1]) for p in classifier.parameters()}
    assert decays == {(True, 0.01), (False, 0.0)}


def test_frozen_parameters_are_in_no_group(classifier, make_params):
    unfreeze(classifier, 1)
    expected = {id(p) for p in [*layers(classifier)[-1], *head_parameters(classifier)]}
    assert set(peaks(classifier, make_params())) == expected


def test_parameter_outside_of_layers_and_head_is_refused(classifier, make_params):
    classifier.extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"\d+ parameters learn, but \d+ stand in a layer"):
        peaks(classifier, make_params())


def test_optimizer_steps_by_the_share_of_the_peak(classifier, make_params):
    params = make_params(layer_decay=1.0, weight_decay=0.0)
    optimizer = make_optimizer(make_groups(classifier, params.steps[0], params), params)
    set_rates(optimizer, 0.5)
    weight = classifier.head.weight
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(before - weight, torch.full_like(weight, 5e-3))  # Adam's first step
