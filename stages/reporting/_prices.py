"""What a cascade costs: the stage `cascade` knows shares of rows and losses, but no times.

So its outputs are the same on every machine, and models that are trained again to the same
predictions leave them alone. The page puts the milliseconds in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.core.layout import ENSEMBLE
from stages.evaluation.scoring.quality import total_cost

PRICE = "predict_ms_per_row"


@dataclass(frozen=True)
class Prices:
    """Milliseconds per row: of the cheap model, of the ensemble alone, of the ensemble after it."""

    cheap: float
    dear: float
    rest: float

    def of(self, cheap_share: float) -> float:
        """The mean over rows; where the cheap model answers none, it is not asked."""
        return self.cheap + (1 - cheap_share) * self.rest if cheap_share else self.dear


def prices_of(
    cheap: str, cost: Mapping[str, Mapping[str, float]], weights: Mapping[str, Any]
) -> Prices:
    """What the parts of a cascade cost: all folds' models, with features at hand.

    What the cheap model found is not computed again for an ensemble that it is a member of.

    Args:
        cheap: The name of the cheap model.
        cost: By model what its stage wrote; at least of the cheap one, the ensemble and its
            members.
        weights: What the stage `ensemble` wrote.
    """
    own = cost[cheap][PRICE]
    dear = total_cost(cost, weights, ENSEMBLE)[ENSEMBLE][PRICE]
    is_member = weights["weight"].get(cheap, 0) > 0
    return Prices(own, dear, dear - own if is_member else dear)
