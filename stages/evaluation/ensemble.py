"""Blend the models: weights that minimise the out-of-fold log loss, shrunk towards equal ones.

In: predictions of the members, and folds. Out: blended predictions and the weights. A blend has one
of three forms: a mixture, with weights on the simplex; the same sharpened by a temperature (Guo et
al. 2017); a product of powers (the logarithmic opinion pool, Genest and Zidek 1986), whose free
weights also temper members that are too sure. Few rows tell little about weights, so weights are
shrunk towards equal ones, and a temperature towards 1, by a penalty that fades as the number of
rows grows (Diebold and Pauly 1990).

All are judged nested: the rows of a fold are blended with weights that were fitted on the other
folds, in the form that is best on those. That gives the out-of-fold predictions. Rows outside the
train part get the form that is best on all rows, fitted on all of them. Weights are fitted and
judged on the rows that every member predicted out of fold; where a transformer ran on one fold
only, that fold is divided into parts, which take the place of folds.

    python -m stages.evaluation.ensemble --dataset demo
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from stages.core.build import built_models
from stages.core.errors import InputError
from stages.core.folds import TRAIN, Folds, read_folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Floats
from stages.core.params import Params, each_once, in_section, read_params, read_yaml
from stages.core.predictions import prediction_table
from stages.core.tables import (
    ID,
    PREDICTION,
    SWAPPED,
    read_json,
    read_table,
    write_json,
    write_table,
)
from stages.core.tasks import Task, read_task
from stages.evaluation.judging import Rows, clustered_mean, judging_folds
from stages.runtime import parallel
from stages.runtime.cli import run
from stages.runtime.cost import Cost

log = logging.getLogger("verdict")

NOISE = 1e-6  # smaller weights are what the solver leaves near 0
# On squared distances, in log losses of one row: a prior with a standard deviation of .4. The best
# of 0, 1, 3, 10, 30 on 60 to 3,000 rows of five sets (docs/log.md)
PENALTY = 3.0

Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(each_once)]
Members = dict[str, Floats]
Form = Literal["mixture", "sharpened", "product"]
FORMS: tuple[Form, ...] = get_args(Form)


class EnsembleParams(Params):
    """Section `ensemble`.

    `members` are the names of the models to blend; null means all that are built. `weights` are
    given rather than fitted, for those models alone, and divided by their sum.
    """

    section = "ensemble"

    members: Names | None = None
    weights: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_list(self) -> "EnsembleParams":
        if self.members and self.weights and set(self.members) != set(self.weights):
            raise ValueError(f"weights: got {[*self.weights]}; expected one for each of members")
        return self


def members_of(layout: Layout, params: EnsembleParams) -> tuple[str, ...]:
    """The models to blend: those that a dataset's file names, as far as they are built.

    Raises:
        InputError: A name is that of no model and no backbone, or none of the models is built, or
            not all that have a given weight.
    """
    built = built_models(layout)
    if params.weights:
        if missing := [name for name in params.weights if name not in built]:
            raise InputError(
                f"{layout.params}: ensemble.weights: not built, got {missing}; expected weights "
                f"of some of {built}"
            )
        return tuple(params.weights)
    named = params.members
    if named is None:
        return tuple(built)
    modules = (Path(__file__).parents[1] / "models").glob("[!_]*.py")
    backbones = read_yaml(layout.params).get("finetune") or {}
    known = dict.fromkeys([*built, *sorted(path.stem for path in modules), *backbones])
    param = f"{layout.params}: ensemble.members"
    if unknown := [name for name in named if name not in known]:
        raise InputError(f"{param}: no such model, got {unknown}; expected some of {[*known]}")
    kept = tuple(name for name in named if name in built)
    if not kept:
        raise InputError(f"{param}: none of {[*named]} is built; expected some of {built}")
    if len(kept) < len(named):
        left = [name for name in named if name not in built]
        log.info("ensemble: %s left out: params.yaml does not build it", ", ".join(left))
    return kept


@dataclass(frozen=True)
class Blend:
    """A mixture of weights `(n_members,)` raised to 1 / `temperature`, or a product of powers."""

    task: Task
    weights: Floats
    temperature: float = 1.0
    product: bool = False

    def __call__(self, members: Floats) -> Floats:
        """Blend probabilities `(n_members, n_rows, n_classes)` to `(n_rows, n_classes)`."""
        if self.product:
            return self.task.link(np.tensordot(self.weights, self.task.unlink(members), axes=1))
        mixed = np.tensordot(self.weights, members, axes=1)
        return self.task.sharpen(mixed, self.temperature)


def log_loss(task: Task, targets: Floats, probabilities: Floats) -> float:
    """Mean log loss of probabilities `(n_rows, n_classes)` under (soft) targets of that shape."""
    return float(task.row_losses(targets, probabilities).mean())


def fit_blend(task: Task, members: Floats, targets: Floats, form: Form) -> Blend:
    """Fit the weights, a convex problem in either form, and the temperature where there is one.

    Members are `(n_members, n_rows, n_classes)`, targets `(n_rows, n_classes)`.
    """
    n = len(members)
    if form == "product":  # exponents of at least 0
        exponents = _fit_weights(
            task, task.unlink(members), targets, task.link, task.score_slopes, method="L-BFGS-B",
            bounds=[(0, None)] * n, options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 1000},
        )  # fmt: skip
        return Blend(task, exponents, product=True)
    weights = _fit_weights(  # on the simplex
        task, members, targets, np.asarray, task.loss_slopes, method="SLSQP", bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 1000},
    )  # fmt: skip
    mixture = Blend(task, weights / weights.sum())
    if form == "mixture":
        return mixture
    return replace(mixture, temperature=fit_temperature(task, mixture(members), targets))


def _fit_weights(
    task: Task,
    values: Floats,
    targets: Floats,
    link: Callable[[Floats], Floats],
    slopes: Callable[[Floats, Floats], Floats],
    **solver: Any,
) -> Floats:
    """The weights under which `link` of the weighted `values` has the lowest penalised log loss."""
    from scipy.optimize import minimize

    n_members, n_rows, _ = values.shape

    def loss(weights: Floats) -> tuple[float, Floats]:
        blended = link(np.tensordot(weights, values, axes=1))
        slope = np.einsum("rc,mrc->m", slopes(targets, blended), values) / n_rows
        away = weights - 1 / n_members
        penalty = PENALTY * float(away @ away) / n_rows
        return log_loss(task, targets, blended) + penalty, slope + 2 * PENALTY * away / n_rows

    found = minimize(loss, np.full(n_members, 1 / n_members), jac=True, **solver)
    weights: Floats = np.where(found.x > NOISE, found.x, 0)
    return weights


def fit_temperature(task: Task, probabilities: Floats, targets: Floats) -> float:
    """The temperature under which probabilities `(n_rows, n_classes)` have the lowest log loss."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        sharpened = task.sharpen(probabilities, float(np.exp(logarithm)))
        return log_loss(task, targets, sharpened) + PENALTY * logarithm**2 / len(targets)

    best = minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def nested(
    task: Task, members: Floats, folds: Folds, judged: Rows, form: Form
) -> tuple[Floats, dict[int, Blend]]:
    """Judge a blend on rows that it was not fitted on: their losses, and the blend of each fold.

    Members are `(n_members, n_rows, n_classes)`; `judged` `(n_rows,)` are the rows to fit and to
    judge on.

    Raises:
        InputError: There are fewer than two folds among these rows.
    """
    common = np.unique(folds.fold[judged]).tolist()
    if len(common) < 2:
        raise InputError(
            f"members: got {len(common)} folds with rows that all of them predicted out of fold; "
            "expected at least two"
        )
    blends: dict[int, Blend] = {}
    losses = np.zeros(len(judged))
    for fold in common:
        fitted, held = judged & (folds.fold != fold), judged & (folds.fold == fold)
        blends[fold] = fit_blend(task, members[:, fitted], folds.targets[fitted], form)
        losses[held] = task.row_losses(folds.targets[held], blends[fold](members[:, held]))
    return losses[judged], blends


def choose(losses: Mapping[Form, Floats], group: npt.NDArray[np.integer[Any]]) -> Form:
    """The form to keep, by the nested losses of the same rows, of these groups, under each.

    One with more freedom has to gain more than twice the standard error of its gain (in the spirit
    of Breiman et al. 1984, who keep the simpler of two that differ by less than one): forms that
    differ by chance alone would be chosen anew for each fold, and each where it fits least.
    """
    best: Form = "mixture"
    for form in FORMS[1:]:
        gain, error = clustered_mean(losses[best] - losses[form], group)
        if gain > 2 * error:
            best = form
    return best


def load(weights: Path, task: Task) -> tuple[tuple[str, ...], Blend]:
    """Names of the members that have a weight, and their blend, from what `main` wrote.

    Raises:
        InputError: The file holds no weights, or not the form of the blend.
    """
    found = read_json(weights)
    weighed = {name: weight for name, weight in found.get("weight", {}).items() if weight > 0}
    if not weighed or not {"temperature", "product"} <= set(found):
        raise InputError(f"{weights}: got {list(found)}; expected weights and the form of a blend")
    values = np.array([*weighed.values()])
    product = bool(found["product"])
    return tuple(weighed), Blend(task, values, found["temperature"], product)


def read_members(layout: Layout, names: tuple[str, ...], ids: pd.Series, task: Task) -> Members:
    """Read the members' predictions, rows in the order of `ids`.

    Returns:
        For each prefix that all of them have (`p_`, `swapped_p_`) an array
        `(n_members, n_rows, n_classes)`, NaN where a member did not predict a row.

    Raises:
        InputError: A member has no predictions, or rows that are no probabilities.
    """
    tables = {name: read_table(layout.predictions(name)).set_index(ID) for name in names}
    stacks = {}
    for prefix in (PREDICTION, SWAPPED):
        columns = [prefix + name for name in task.classes]
        if all(set(columns) <= set(table) for table in tables.values()):
            stacks[prefix] = np.stack([t.reindex(ids)[columns].to_numpy() for t in tables.values()])
    for name, values in zip(names, stacks[PREDICTION], strict=True):
        known = values[~np.isnan(values).any(axis=1)]
        if fault := task.fault(known):
            raise InputError(f"{layout.predictions(name)}: got {fault}; expected probabilities")
    return stacks


def leave_out(
    names: tuple[str, ...], stacks: Members, folds: Folds
) -> tuple[tuple[str, ...], Members]:
    """Names and predictions without the members that predicted no row out of fold.

    A backbone with an empty list of `folds` is one of these.

    Raises:
        InputError: None is left.
    """
    # a member predicts all classes of a row or none: the first tells
    known = ~np.isnan(stacks[PREDICTION][:, folds.judged, 0])
    kept = np.flatnonzero(known.any(axis=1))
    if not len(kept):
        raise InputError(
            f"members: got no row that any of {list(names)} predicted out of fold; expected some"
        )
    if len(kept) < len(names):
        left = [name for i, name in enumerate(names) if i not in kept]
        log.info("ensemble: %s predicted no row out of fold: left out", ", ".join(left))
    return tuple(names[i] for i in kept), {key: stack[kept] for key, stack in stacks.items()}


@dataclass(frozen=True)
class Fitted:
    """The blends of a dataset, and how each form does on rows that it was not fitted on.

    Attributes:
        form: The one that is best on all rows.
        final: The blend of that form, fitted on all rows.
        blends: For each fold the blend of its rows, fitted on the others in the form that is best
            there.
        losses: By form the nested losses, `(n_judged_rows,)`.
    """

    form: Form
    final: Blend
    blends: Mapping[int, Blend]
    losses: Mapping[Form, Floats]


def fit(task: Task, members: Floats, folds: Folds, judged: Rows) -> Fitted:
    """Fit and judge all forms, as the module says; the arguments are those of `nested`."""
    tried = {form: nested(task, members, folds, judged, form) for form in FORMS}
    losses = {form: found[0] for form, found in tried.items()}
    fold, group = folds.fold[judged], folds.group[judged]
    form = choose(losses, group)
    blends = {}
    for number in np.unique(fold).tolist():
        other = fold != number
        own = choose({f: rows[other] for f, rows in losses.items()}, group[other])
        blends[number] = tried[own][1][number]
    final = fit_blend(task, members[:, judged], folds.targets[judged], form)
    return Fitted(form, final, blends, losses)


def given(task: Task, weights: Floats, members: Floats, folds: Folds, judged: Rows) -> Fitted:
    """A mixture of given weights, which no row was needed for, judged on all judged rows.

    Raises:
        InputError: There is no row to judge on.
    """
    if not judged.any():
        raise InputError("weights: got no row that all predicted out of fold; expected some")
    final = Blend(task, weights / weights.sum())
    losses = task.row_losses(folds.targets[judged], final(members[:, judged]))
    return Fitted("mixture", final, {}, {"mixture": losses})


def apply(blends: Mapping[int, Blend], final: Blend, stack: Floats, folds: Folds) -> Floats:
    """Blend `(n_members, n_rows, n_classes)`: a fold's rows by its blend, others by `final`."""
    blended = final(stack)
    for fold, blend in blends.items():
        held = folds.held(fold)
        blended[held] = blend(stack[:, held])
    return blended


def main(*, dataset: str) -> None:
    """Blend the models of one dataset."""
    clock, layout = Cost(), Layout(dataset)
    params = read_params(EnsembleParams, layout)
    names = members_of(layout, params)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    stacks = read_members(layout, names, folds.ids, task)
    with in_section(EnsembleParams, layout):
        kept, stacks = leave_out(names, stacks, folds)
        if params.weights and kept != names:
            lost = [name for name in names if name not in kept]
            raise InputError(f"weights: no row predicted out of fold, got {lost}; expected others")
        names = kept
    members = stacks[PREDICTION]
    complete = ~np.isnan(members).any(axis=(0, 2))
    judged = complete & (folds.part == TRAIN)
    folds = judging_folds(folds, judged)
    with parallel.one_blas_thread(), in_section(EnsembleParams, layout):
        if params.weights:
            weights = np.array([params.weights[name] for name in names])
            found = given(task, weights, members, folds, judged)
        else:
            found = fit(task, members, folds, judged)
        started = time.perf_counter()
        blended = {
            prefix: apply(found.blends, found.final, stack, folds)
            for prefix, stack in stacks.items()
        }
        seconds = time.perf_counter() - started
    targets = folds.targets[judged]
    alone = [log_loss(task, targets, member[judged]) for member in members]
    table = prediction_table(folds, task, blended)
    write_table(table.iloc[np.flatnonzero(complete)], layout.predictions(ENSEMBLE))
    content = {
        "rows": int(judged.sum()),
        "temperature": found.final.temperature,
        "product": float(found.final.product),
        "weight": dict(zip(names, found.final.weights.tolist(), strict=True)),
        "member_log_loss": dict(zip(names, alone, strict=True)),
        "nested_log_loss": {form: float(rows.mean()) for form, rows in found.losses.items()},
    }
    write_json(content, layout.weights)
    ms = 1e3 * seconds / len(folds.ids)
    clock.write(layout.cost(ENSEMBLE), fitted=layout.weights, predict_ms_per_row=ms)
    log.info(
        "ensemble: %s, nested log loss %.4f on %d rows",
        found.form,
        log_loss(task, targets, blended[PREDICTION][judged]),
        judged.sum(),
    )


if __name__ == "__main__":
    run(main)
