"""The params of early stopping, for models that are fitted in rounds or in epochs."""

from typing import Annotated

from pydantic import Field

from stages.core.params import Params


class StoppingParams(Params):
    """Stop when the loss on a holdout has not fallen for `patience` rounds or epochs.

    The holdout is one of `holdout_parts` random parts of the groups that may be trained on; it
    never contains rows of the fold that is to be predicted.
    """

    patience: Annotated[int, Field(ge=1)] = 3
    holdout_parts: Annotated[int, Field(ge=2)] = 5
