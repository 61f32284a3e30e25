import math

import pytest

from stages.core.errors import InputError
from stages.transformer.training.progress import Progress


def after(*losses):
    progress = Progress()
    for loss in losses:
        progress.advance(10)
        progress.take([loss], 1.1, [1e-4, 1e-3], "fold0")
    return progress


def test_falling_loss_is_no_fault():
    progress = after(5.0, 3.0, 14.9, 1.0)
    progress.record(4, None)
    assert progress.curve == [
        {"step": 4, "epoch": 1.0, "phase": 0, "tokens": 40, "train_loss": 5.975,
         "holdout_loss": None}
    ]  # fmt: skip
    assert progress.losses == []


def test_small_losses_may_rise_to_that_of_ignorance():
    after(0.001, *[3.0] * 50)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1000.0])
def test_loss_without_use_names_step_rate_and_what_to_try(loss):
    message = (
        r"fold0: optimiser step 3: loss: got .* at learning rates of 0.0001 to 0.001; expected"
    )
    with pytest.raises(InputError, match=message + " it to fall: lower learning_rate"):
        after(1.0, 1.0, loss)


def test_steps_are_numbered_where_several_losses_come_at_once():
    progress = Progress()
    for _ in range(3):
        progress.advance(10)
    with pytest.raises(InputError, match="optimiser step 2"):
        progress.take([1.0, math.nan, 1.0], 1.1, [1e-3], "fold0")


def test_hold_counts_epochs_without_gain():
    progress = Progress()
    assert [progress.hold(loss) for loss in (2.0, 3.0, 2.0, 1.0)] == [True, False, False, True]
    assert progress.waited == 0
    assert progress.best == 1.0
