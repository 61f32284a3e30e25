"""Linear support vector machine on tf-idf and style features, calibrated.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. The
margins of the one-vs-rest SVMs are turned into probabilities by a logistic regression (multinomial,
or one a class where a row can have several) on margins of rows that their SVM did not see (matrix
scaling: Platt 1999, Guo et al. 2017), from a cross-validation inside the fold that keeps groups and
both orders together. Balancing is for the machines alone: the calibration sees the classes as
frequent as they are. With `count_ratios` the machine of a class sees its terms scaled by how much
they tell of it (NB-SVM: Wang and Manning 2012), fitted inside the fold.

    python -m stages.models.svm --dataset demo
"""

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import Field

from stages.core.folds import Indices
from stages.core.matrices import Floats, Matrix
from stages.core.tasks import Task
from stages.models._linear import Linear, fit_linear
from stages.models._symmetric import Curvature, OddEven, descend
from stages.models.fitting.design import ScaledSource, SourceParams
from stages.models.fitting.model import Model, Runs
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams
from stages.models.fitting.train import training_stage
from stages.runtime.cli import run

TOLERANCE = 1e-2  # liblinear's own default is 0.1; 1e-4 takes three times as long for the same loss
SLOPE = 1e-4  # the same for pairs; margins are then within about 1e-3, before calibration
SLOPE_INSIDE = 3e-3  # for machines whose margins are for the calibration alone
# Coefficients (n_classes, n_features) and intercepts (n_classes,)
Machines: TypeAlias = tuple[Floats, Floats]
LIBLINEAR = Lock()  # it draws from one generator a process: folds of many rows get one each


class SvmParams(ModelParams):
    """Section `svm`: `C` as in scikit-learn's LinearSVC; inner folds for the calibration."""

    C: Annotated[float, Field(gt=0)] = 0.1
    calibration_folds: Annotated[int, Field(ge=2)] = 3
    count_ratios: bool = False
    tfidf: SourceParams = SourceParams()
    style: ScaledSource = ScaledSource()


def fit(sample: Sample, params: SvmParams, seed: int) -> Linear:
    """Fit machines and calibration: both are linear, so together they are one linear model."""
    from sklearn.linear_model import LogisticRegression

    margins = np.empty((len(sample.y), sample.n_classes))
    # those of the exchanged rows
    turned = np.empty_like(margins) if sample.task.symmetric else None
    inner: list[Machines] = []
    for fitted, held in sample.splits(params.calibration_folds, seed):
        inner.append(_machines(sample, fitted, params, seed, SLOPE_INSIDE, inner))
        X = sample.X[held]
        margins[held] = _margins(X, *inner[-1])
        if turned is not None:
            turned[held] = _margins(sample.task.swap_design(X, sample.n_odd), *inner[-1])
    seen = replace(sample, X=margins, weight=sample.natural).both_orders(turned)
    scale, shift = fit_linear(seen, lambda: LogisticRegression(C=1.0, max_iter=1000))
    coef, intercept = _machines(sample, np.arange(len(sample.y)), params, seed, SLOPE, inner)
    return Linear(
        sample.task,
        coef=(scale @ coef).astype(np.float32),
        intercept=(scale @ intercept + shift).astype(np.float32),
    )


def _by_liblinear(task: Task, params: SvmParams) -> bool:
    return params.count_ratios or not task.symmetric


def _runs(task: Task, params: SvmParams) -> Runs:
    """Liblinear holds a lock of its process."""
    return "processes" if _by_liblinear(task, params) else "threads"


def _machines(
    sample: Sample, rows: Indices, params: SvmParams, seed: int, slope: float,
    similar: Sequence[Machines] = (),
) -> Machines:  # fmt: skip
    """One-vs-rest SVMs fitted on the rows `rows`.

    Those of a symmetric task are fitted on both orders of each row until no slope is above `slope`,
    and begin with the mean of the `similar` ones: a third of the steps less.
    """
    if not _by_liblinear(sample.task, params):
        return _symmetric_machines(sample, rows, params.C, slope, similar)
    from sklearn.svm import LinearSVC

    # Dual coordinate descent: at a small C five times faster than the primal solver.
    def machine() -> LinearSVC:
        return LinearSVC(C=params.C, dual=True, tol=TOLERANCE, random_state=seed, max_iter=10_000)

    with LIBLINEAR:
        return fit_linear(
            sample.take(rows).both_orders(), machine, count_ratios=params.count_ratios
        )


def _symmetric_machines(
    sample: Sample, rows: Indices, C: float, slope: float, similar: Sequence[Machines]
) -> Machines:
    """As `_machines`: the optimum of scikit-learn's LinearSVC, from half the rows.

    The machine of b is that of a with the signs of the odd columns turned, and the machine of the
    tie, which is its own exchange, has no odd columns.
    """
    other = sample.task.swap_class_numbers(np.arange(sample.n_classes))
    even = sample.X[:, sample.n_odd :]
    coef = np.zeros((sample.n_classes, sample.X.shape[1]))
    intercept = np.zeros(sample.n_classes)
    began = similar or [(coef, intercept)]
    first_coef, first_intercept = (np.mean(found, axis=0) for found in zip(*began, strict=True))
    for number, exchanged in enumerate(other):
        if exchanged < number:
            coef[number, : sample.n_odd] = -coef[exchanged, : sample.n_odd]
            coef[number, sample.n_odd :] = coef[exchanged, sample.n_odd :]
            intercept[number] = intercept[exchanged]
            continue
        own = exchanged == number
        X = OddEven(even, 0, rows) if own else OddEven(sample.X, sample.n_odd, rows)
        # +1 and -1 in the order that is given, and in the other one
        sign = np.where(sample.y[rows] == np.array([[number], [exchanged]]), 1.0, -1.0)
        columns = slice(sample.n_odd if own else 0, None)
        start = np.append(first_coef[number, columns], first_intercept[number])
        coef[number, columns], intercept[number] = _machine(
            X, sign, sample.weight[rows], C, slope, start
        )
    return coef, intercept


def _machine(
    X: OddEven, sign: Floats, weight: Floats, C: float, slope: float, start: Floats
) -> tuple[Floats, float]:
    """Coefficients and intercept of one SVM with squared hinge loss (the intercept is penalised).

    `sign` is `(2, n_rows)`: what both orders of a row are. `start` are coefficients and intercept.
    """
    total = 2 * C * weight.sum()

    def objective(flat: Floats) -> tuple[float, Floats]:
        odd, even = X.dot(flat[:-1])
        short = np.maximum(0, 1 - sign * (even + flat[-1] + np.stack([odd, -odd])))
        straight, turned = -2 * C * weight * sign * short
        both = straight + turned
        slopes = np.append(X.slopes(straight - turned, both), both.sum()) + flat
        loss = C * (weight * short**2).sum() + flat @ flat / 2
        return float(loss) / total, slopes / total

    # Both orders bend the loss by 2 C where their margins are below 1
    ridge = np.full(X.X.shape[1] + 1, 1 / total)
    flat = descend(objective, Curvature.of(X, 4 * C * weight / total, (1, 1), ridge), slope, start)
    return flat[:-1], float(flat[-1])


def _margins(X: Matrix, coef: Floats, intercept: Floats) -> Floats:
    return np.asarray(X @ coef.T) + intercept


MODEL = Model("svm", SvmParams, fit, Linear.load, runs=_runs)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
