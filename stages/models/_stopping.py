"""Early stopping that does not look at the fold that is to be predicted."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import Field

from stages.base.params import Params
from stages.fitting.sample import Sample

T = TypeVar("T")
R = TypeVar("R")  # a number of rounds, or one for each of several models


class StoppingParams(Params):
    """Stop when the loss on the holdout fell no more for `patience` rounds.

    The holdout is one of `holdout_parts` parts of the groups.
    """

    patience: Annotated[int, Field(ge=1)]
    holdout_parts: Annotated[int, Field(ge=2)]


def fit_rounds(
    sample: Sample,
    stopping: StoppingParams | None,
    rounds: R,
    seed: int,
    fit: Callable[[Sample, R, Sample | None], tuple[T, R]],
) -> T:
    """Fit with at most `rounds` rounds.

    With `stopping`, the number of rounds is found on a holdout drawn by group from the sample
    itself, and the model is then fitted anew on the whole sample with that number.

    Args:
        sample: What may be trained on.
        stopping: None for a fixed number of rounds.
        rounds: The (largest) number of rounds.
        seed: Draws the holdout.
        fit: `(sample, rounds, holdout) -> (model, best number of rounds)`.
    """
    if stopping is not None:
        fitted, held = next(sample.splits(stopping.holdout_parts, seed))
        _, rounds = fit(sample.take(fitted), rounds, sample.take(held))
    return fit(sample, rounds, None)[0]
