"""What a search draws from: ranges of numbers and lists of values."""

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from stages.core.params import Params


class Range(Params):
    """Numbers from `low` to `high`, both included; whole ones if both are.

    `log` draws their logarithm evenly.
    """

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_range(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, high is {self.high}; expected low <= high")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; expected more than 0 where log is true")
        return self


class Choices(Params):
    """A list of values."""

    choices: Annotated[tuple[bool | int | float | str | None, ...], Field(min_length=1)]


def _kind(values: Any) -> str:
    given = isinstance(values, dict) and "choices" in values
    return "of_choices" if given or isinstance(values, Choices) else "of_range"


Space: TypeAlias = Annotated[
    Annotated[Range, Tag("of_range")] | Annotated[Choices, Tag("of_choices")], Discriminator(_kind)
]


def draw(trial: Any, key: str, space: Range | Choices) -> Any:
    """The value that an Optuna trial proposes for `key`."""
    if isinstance(space, Choices):
        return trial.suggest_categorical(key, list(space.choices))
    whole = isinstance(space.low, int) and isinstance(space.high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(
        key, space.low, space.high, log=space.log
    )
