from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.errors import InputError
from stages.transformer.network.predict import Data, predict, probabilities, score
from stages.transformer.network.tokens import Tokens
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import build
from stages.transformer.training.loop import Fit, loss_scaler
from stages.transformer.training.losses import disagreement
from stages.transformer.training.optimizer import make_groups, make_optimizer, set_rates

ALL = {"unfreeze": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 2}
FIXED = {"schedule": "constant", "warmup": 0.0}
ROWS = np.arange(20)


@pytest.fixture
def train(pairs, accelerator, tmp_path):
    """`train(params, ...) -> (classifier, curve)`."""

    def run(params, data=pairs, rows=ROWS, weight=None, holdout=None):
        classifier = build(params, 3, device=accelerator.device, seed=params.seed)
        weight = np.ones(len(rows)) if weight is None else weight
        fit = Fit(
            classifier, data, rows, weight, holdout, params, params.seed,
            accelerator=accelerator, checkpoint=Checkpoint(tmp_path / "none.pt"), name="fold0",
        )  # fmt: skip
        return classifier, fit.run()

    return run


def weights_of(classifier):
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


def loss_of(classifier, data, rows, params, accelerator):
    found, _ = probabilities(data.task, predict(classifier, data, rows, params, accelerator))
    return float(data.task.row_losses(data.targets[rows], found).mean())


def test_training_lowers_the_loss(train, pairs, make_params, accelerator):
    params = make_params(steps=[ALL | {"learning_rate": 3e-3, "epochs": 20}])
    classifier, curve = train(params)
    assert loss_of(classifier, pairs, ROWS, params, accelerator) < curve[0]["train_loss"] / 2
    assert curve[-1]["step"] == 60  # 3 batches of 8, 8 and 4 rows, 20 times
    assert curve[-1]["tokens"] == 20 * pairs.tokens.lengths()[ROWS].sum()


def test_same_seed_gives_the_same_weights_and_another_one_does_not(train, make_params):
    dropped = {**make_params().backbone.model_dump(), "dropout": 0.3, "attention_dropout": 0.3}
    params = make_params(backbone=dropped)
    once, twice = (weights_of(train(params)[0]) for _ in range(2))
    other = weights_of(train(make_params(backbone=dropped, seed=1))[0])
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert not torch.equal(once["head.weight"], other["head.weight"])


def test_short_memory_halves_the_micro_batches_and_trains_the_same(
    train, make_params, monkeypatch, caplog
):
    most = []
    losses = Fit._losses

    def short(self, rows, orders):
        most.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return losses(self, rows, orders)

    params = make_params(tokens_per_batch=512)
    expected, curve = train(params)
    monkeypatch.setattr(Fit, "_losses", short)
    found, same = train(params)
    assert [row["train_loss"] for row in same] == pytest.approx(
        [row["train_loss"] for row in curve], rel=1e-3
    )
    for name, tensor in weights_of(found).items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], atol=2e-3, rtol=0)
    assert max(most[len(most) // 2 :]) <= 3  # it stays with what fits
    assert "out of memory at step 1: micro-batches of 256 tokens" in caplog.text


def test_rehearsal_goes_first_over_the_longest_rows_and_changes_nothing(
    train, make_params, pairs, monkeypatch
):
    expected, _ = train(make_params())
    seen = []
    backward = Fit._backward

    def note(self, batch):
        seen.append(int(self.lengths[batch.rows].max()))
        return backward(self, batch)

    monkeypatch.setattr(Fit, "_backward", note)
    monkeypatch.setattr("stages.transformer.training.loop.REHEARSE_ON", {"cpu"})
    found, curve = train(make_params())
    assert seen[0] == pairs.tokens.lengths()[ROWS].max()
    assert len(seen) == curve[-1]["step"] + 1
    weights = weights_of(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in weights_of(found).items())


def test_memory_that_one_sequence_exhausts_is_an_error(train, make_params, monkeypatch):
    def short(self, rows, orders):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")

    monkeypatch.setattr(Fit, "_losses", short)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        train(make_params())


def test_half_precision_scales_its_losses_and_learns(train, pairs, make_params, accelerator):
    params = make_params(precision="fp16", steps=[ALL | {"learning_rate": 3e-3, "epochs": 20}])
    classifier, curve = train(params)
    assert loss_of(classifier, pairs, ROWS, params, accelerator) < curve[0]["train_loss"] / 2
    fit = Fit(
        classifier, pairs, ROWS, np.ones(20), None, params, 0, accelerator=accelerator,
        checkpoint=Checkpoint(Path("none.pt")), name="fold0",
    )  # fmt: skip
    assert fit.scaler.is_enabled()
    assert not loss_scaler(
        build(make_params(), 3, device=accelerator.device, seed=0), accelerator
    ).is_enabled()


def test_step_whose_gradients_overflow_is_skipped(pairs, make_params, accelerator, tmp_path):
    params = make_params(precision="fp16")
    classifier = build(params, 3, device=accelerator.device, seed=0)
    before = weights_of(classifier)
    fit = Fit(
        classifier, pairs, ROWS, np.ones(20), None, params, 0, accelerator=accelerator,
        checkpoint=Checkpoint(tmp_path / "none.pt"), name="fold0",
    )  # fmt: skip
    fit.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    optimizer = make_optimizer(make_groups(classifier, params.steps[0], params), params)
    set_rates(optimizer, 1.0)
    fit._step(fit._plan(0)[0], optimizer)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items()
    )
    assert fit.scaler.get_scale() == 2.0**125


def test_r_drop_makes_predictions_depend_less_on_dropout(train, pairs, make_params):
    dropped = {**make_params().backbone.model_dump(), "dropout": 0.3}
    apart = []
    for weight in (0.0, 10.0):
        params = make_params(backbone=dropped, r_drop=weight, steps=[ALL | {"epochs": 10}])
        classifier, _ = train(params)
        sequences = np.column_stack([np.tile(ROWS, 20), np.zeros(20 * len(ROWS), int)])
        torch.manual_seed(0)
        with torch.no_grad():
            one, other = (
                score(classifier.train(), pairs.tokens, sequences, torch.device("cpu"))
                for _ in range(2)
            )
        apart.append(float(disagreement(one, other, exclusive=True).mean()))
    assert apart[1] < apart[0] / 2


def test_curve_holds_the_log_loss_without_what_r_drop_adds(train, make_params):
    dropped = {**make_params().backbone.model_dump(), "dropout": 0.3}
    still = [ALL | {"learning_rate": 1e-9, "head_learning_rate": 1e-9}]
    curves = [
        train(make_params(backbone=dropped, r_drop=weight, steps=still))[1]
        for weight in (0.1, 1000.0)
    ]
    losses = [[row["train_loss"] for row in curve] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_memory_params_change_rounding_only(train, make_params):
    steps = [ALL | {"epochs": 1}]
    whole, _ = train(make_params(steps=steps, tokens_per_batch=100_000))
    # so small that the two orders of a long row stand in micro-batches of their own
    cut, _ = train(make_params(steps=steps, tokens_per_batch=30, checkpointing=True))
    expected, found = weights_of(whole), weights_of(cut)
    names = [name for name in expected if "key.bias" not in name]  # these have no slope but noise
    assert len(names) > 40
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-5)


def test_first_loss_is_the_mean_over_the_rows_of_the_step(train, pairs, make_params, accelerator):
    params = make_params(batch_size=20, steps=[ALL | {"epochs": 1}])
    fresh = build(params, 3, device=accelerator.device, seed=0)
    scores = predict(fresh, pairs, ROWS, params, accelerator)
    weight = np.linspace(1, 3, len(ROWS))
    both = [
        pairs.task.row_losses(targets, pairs.task.link(scores[:, order]))
        for order, targets in enumerate(
            (pairs.targets[ROWS], pairs.task.swap_classes(pairs.targets[ROWS]))
        )
    ]
    _, curve = train(params, weight=weight)
    expected = np.average(np.mean(both, axis=0), weights=weight)
    assert curve[0]["train_loss"] == pytest.approx(expected, abs=1e-5)


def test_data_with_all_answers_exchanged_give_the_exchanged_model(
    train, pairs, make_params, accelerator
):
    params = make_params()
    rows = range(len(pairs.targets))
    turned = Data(
        pairs.task,
        Tokens.of([pairs.tokens.sequence(row, o) for row in rows for o in (1, 0)], 2, 0),
        pairs.task.swap_classes(pairs.targets),
    )
    held = np.arange(20, 30)
    (one, _), (other, _) = train(params), train(params, data=turned)
    found, _ = probabilities(pairs.task, predict(one, pairs, held, params, accelerator))
    exchanged, _ = probabilities(pairs.task, predict(other, turned, held, params, accelerator))
    np.testing.assert_allclose(exchanged, pairs.task.swap_classes(found), atol=1e-4)


def test_phases_move_what_they_unfreeze(train, make_params, accelerator):
    params = make_params(
        steps=[ALL | {"unfreeze": "head", "epochs": 1}, ALL | {"unfreeze": 1, "epochs": 0.5}]
    )
    fresh = weights_of(build(params, 3, device=accelerator.device, seed=0))
    classifier, curve = train(params)
    tuned = weights_of(classifier)
    moved = {name for name in fresh if not torch.equal(fresh[name], tuned[name])}
    assert {"head.weight", "head.bias"} < moved
    assert {n for n in moved if "layer.2." not in n} == {"head.weight", "head.bias"}
    assert [(row["phase"], row["step"]) for row in curve if row["step"] in {3, 5}] == [
        (0, 3), (1, 5)
    ]  # fmt: skip


def test_head_phase_moves_the_head_alone(train, make_params, accelerator):
    params = make_params(steps=[ALL | {"unfreeze": "head"}])
    fresh = weights_of(build(params, 3, device=accelerator.device, seed=0))
    tuned = weights_of(train(params)[0])
    moved = {name for name in fresh if not torch.equal(fresh[name], tuned[name])}
    assert moved == {"head.weight", "head.bias"}


def test_best_epoch_on_the_holdout_is_kept(train, pairs, make_params, accelerator):
    wild = ALL | {"learning_rate": 0.02, "head_learning_rate": 0.02, "epochs": 9}
    params = make_params(steps=[wild], stopping={"patience": 2, "holdout_parts": 2}, **FIXED)
    holdout = np.arange(20, 30)
    classifier, curve = train(params, holdout=holdout)
    seen = [row["holdout_loss"] for row in curve if row["holdout_loss"] is not None]
    assert 2 < len(seen) < 9  # it stopped early
    assert np.argmin(seen) == len(seen) - 3
    kept = loss_of(classifier, pairs, holdout, params, accelerator)
    assert kept == pytest.approx(min(seen), abs=1e-6)


def test_diverging_loss_is_an_error(train, make_params):
    steep = ALL | {"learning_rate": 1e6, "head_learning_rate": 1e6, "epochs": 9}
    with pytest.raises(InputError, match=r"fold0: optimiser step \d+: loss: got .*lower learning"):
        train(make_params(steps=[steep], clip=None, **FIXED))
