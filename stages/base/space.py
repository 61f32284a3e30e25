"""What a search draws from: ranges of numbers and lists of values."""

from typing import Annotated, Any

from pydantic import Field

from stages.base.params import Params


class Range(Params):
    """Numbers from `low` to `high`, both included; whole ones if both are.

    `log` draws their logarithm evenly.
    """

    low: int | float
    high: int | float
    log: bool


class Choices(Params):
    """A list of values."""

    choices: Annotated[tuple[bool | int | float | str | None, ...], Field(min_length=1)]


def draw(trial: Any, key: str, space: Range | Choices) -> Any:
    """The value that an Optuna trial proposes for `key`."""
    if isinstance(space, Choices):
        return trial.suggest_categorical(key, list(space.choices))
    whole = isinstance(space.low, int) and isinstance(space.high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(
        key, space.low, space.high, log=space.log
    )
