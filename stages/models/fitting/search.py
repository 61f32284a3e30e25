"""Hyperparameter search on the stored folds, with Optuna.

The best trial is chosen on the out-of-fold log loss that the table gives: with many trials that
figure is a little optimistic. What the stage predicts out of fold is judged nested (`train`).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import pandas as pd
from pydantic import Field, ValidationError

from stages.core.errors import InputError
from stages.core.params import Params, faults_of
from stages.core.space import Choices, Space, draw
from stages.models.fitting.design import SourceParams
from stages.models.fitting.sample import Balance


class SearchParams(Params):
    """`trials` draws from `space`: its keys are params of the model's section, dots lead deeper."""

    sampler: Literal["random", "tpe", "grid"] = "random"
    trials: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    space: Annotated[dict[str, Space], Field(min_length=1)]


Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]  # of rows or columns


class ModelParams(Params):
    """What all models have; a null `embed` takes no sentence embeddings."""

    embed: SourceParams | None = None
    balance: Balance = "none"
    seed: Annotated[int, Field(ge=0)] = 0
    search: SearchParams | None = None

    def sources(self) -> dict[str, SourceParams]:
        """The feature sets that the model takes, by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, SourceParams)}


M = TypeVar("M", bound=ModelParams)


def search(given: M, evaluate: Callable[[Sequence[M]], Iterable[float]]) -> pd.DataFrame:
    """Evaluate the given params and `given.search.trials` draws.

    Draws of `random` and `grid` do not depend on what was found: they are evaluated side by side.
    `tpe` waits for each.

    Args:
        given: The model's section, without `space_faults`; without `search` it is the only trial.
        evaluate: Out-of-fold log losses of params, in their order.

    Returns:
        One row a trial: `trial` (0 is the given section), `log_loss`, and a column for each key of
        the space.
    """
    plan = given.search
    if plan is None:
        return pd.DataFrame([{"trial": 0, "log_loss": loss} for loss in evaluate([given])])
    sampler, own = _sampler(plan), {key: _get(given, key) for key in plan.space}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)

    def ask() -> tuple[optuna.Trial, dict[str, Any]]:
        trial = study.ask()
        return trial, {key: draw(trial, key, space) for key, space in plan.space.items()}

    if plan.sampler == "tpe":
        values, losses = [own], list(evaluate([given]))
        for _ in range(plan.trials):
            trial, drawn = ask()
            losses += evaluate([replaced(given, drawn)])
            values.append(drawn)
            study.tell(trial, losses[-1])
    else:
        values = [own, *(ask()[1] for _ in range(_n_draws(plan)))]
        losses = list(evaluate([given, *(replaced(given, drawn) for drawn in values[1:])]))
    return pd.DataFrame(
        [
            {"trial": number, "log_loss": loss, **drawn}
            for number, (loss, drawn) in enumerate(zip(losses, values, strict=True))
        ]
    )


def space_faults(given: ModelParams) -> list[str]:
    """Keys of the space that are no params, and ends of ranges and choices that these refuse."""
    plan = given.search
    if plan is None:
        return []
    faults: list[str] = []
    for key, space in plan.space.items():
        ends = space.choices if isinstance(space, Choices) else (space.low, space.high)
        if plan.sampler == "grid" and not isinstance(space, Choices):
            faults.append(f"search.space.{key}: got a range; expected choices for a grid")
        try:
            _get(given, key)
        except InputError as error:
            faults.append(str(error))
            continue
        for value in ends:
            try:
                replaced(given, {key: value})
            except InputError as error:
                faults += str(error).split("\n  ")
    return list(dict.fromkeys(faults))


def replaced(given: M, values: Mapping[str, Any]) -> M:
    """`given` with some params replaced, checked like the file.

    Raises:
        InputError: A value is not allowed.
    """
    tree = given.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        branch = tree
        for step in path:
            branch = branch[step]
        branch[last] = value
    try:
        return type(given).model_validate_json(json.dumps(tree))
    except ValidationError as error:
        faults = faults_of(type(given), tree, "search.space", error)
        raise InputError("\n  ".join(faults)) from None


def _get(given: ModelParams, key: str) -> Any:
    tree: Any = given.model_dump(mode="json")
    for step in key.split("."):
        if not isinstance(tree, dict) or step not in tree:
            known = sorted(tree) if isinstance(tree, dict) else "no dot"
            raise InputError(f"search.space.{key}: no such param, got {step!r}; expected {known}")
        tree = tree[step]
    return tree


def _n_draws(plan: SearchParams) -> int:
    """How many draws there are: a grid ends."""
    if plan.sampler != "grid":
        return plan.trials
    sizes = (len(space.choices) for space in plan.space.values() if isinstance(space, Choices))
    return min(plan.trials, math.prod(sizes))


def _sampler(plan: SearchParams) -> Any:
    from optuna.samplers import GridSampler, RandomSampler, TPESampler

    if plan.sampler == "grid":
        choices = {k: list(s.choices) for k, s in plan.space.items() if isinstance(s, Choices)}
        return GridSampler(choices, seed=plan.seed)
    return (RandomSampler if plan.sampler == "random" else TPESampler)(seed=plan.seed)
