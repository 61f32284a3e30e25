"""Early stopping that does not look at the fold that is to be predicted."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from stages.core.stopping import StoppingParams
from stages.models.fitting.sample import Sample
from stages.models.fitting.seeds import Fitted, mean_of

R = TypeVar("R")  # a number of rounds, or one for each of several models


def fit_rounds(
    sample: Sample,
    stopping: StoppingParams | None,
    rounds: R,
    seeds: Sequence[int],
    fit: Callable[[Sample, R, Sample | None, int], tuple[Fitted, R]],
) -> Fitted:
    """Fit a model a seed with at most `rounds` rounds: their mean.

    With `stopping`, the number of rounds is found on a holdout drawn by group from the sample
    itself, and the model is then fitted anew on the whole sample with that number. Each seed draws
    its own: one number for all cost mlp .002 on arena and .004 on pairs.

    Args:
        sample: What may be trained on.
        stopping: None for a fixed number of rounds.
        rounds: The (largest) number of rounds.
        seeds: Of the models and their holdouts.
        fit: `(sample, rounds, holdout, seed) -> (model, best number of rounds)`.
    """
    models = []
    for seed in seeds:
        best = rounds
        if stopping is not None:
            fitted, held = next(sample.splits(stopping.holdout_parts, seed))
            _, best = fit(sample.take(fitted), rounds, sample.take(held), seed)
        models.append(fit(sample, best, None, seed)[0])
    return mean_of(models)
