"""Logistic regression on tf-idf and style features.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. A convex
problem: fitted on both orders of each pair, its solution is itself symmetric under the swap. Texts
get scikit-learn's, by the stochastic average gradient (Schmidt et al. 2017): after some ten
passes its held-out loss is that of the optimum, which L-BFGS reaches after 150 to 350.

    python -m stages.models.logreg --dataset demo
"""

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import log_softmax

from stages.core.matrices import Floats
from stages.models._linear import Linear, fit_linear
from stages.models._symmetric import Curvature, OddEven, descend
from stages.models.fitting.design import ScaledSource, SourceParams
from stages.models.fitting.model import Model
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams
from stages.models.fitting.train import training_stage
from stages.runtime.cli import run

TOLERANCE = 3e-2  # largest change of a weight in a pass, as a share of the largest weight
SLOPE = 1e-6  # largest slope of the loss of pairs at the end


class LogregParams(ModelParams):
    """Section `logreg`: `C` is the inverse strength of the L2 penalty, as in scikit-learn."""

    C: Annotated[float, Field(gt=0)] = 3.0
    tfidf: SourceParams = SourceParams()
    style: ScaledSource = ScaledSource()


def fit(sample: Sample, params: LogregParams, seed: int) -> Linear:
    """Fit: multinomial, or one a class where a row can have several classes."""
    if sample.task.symmetric:
        return _fit_symmetric(sample, params)
    from sklearn.linear_model import LogisticRegression

    coef, intercept = fit_linear(
        sample,
        lambda: LogisticRegression(
            C=params.C, solver="sag", tol=TOLERANCE, max_iter=1000, random_state=seed
        ),
    )
    return Linear(sample.task, coef.astype(np.float32), intercept.astype(np.float32))


def _fit_symmetric(sample: Sample, params: LogregParams) -> Linear:
    """Fit to the optimum of scikit-learn's LogisticRegression on both orders of the sample.

    By symmetry the optimum gives an odd column opposite weights for a and b and none for the tie,
    and an even one the same for a and b. With w for odd columns and v (tie minus a) for even ones,
    its penalty is |w|^2 + |v|^2 / 3, and both orders have the same loss: a problem of half the rows
    and a third of the weights.
    """
    X, task = OddEven(sample.X, sample.n_odd, np.arange(len(sample.y))), sample.task
    n_features = sample.X.shape[1]
    target = np.zeros((len(sample.y), sample.n_classes))
    target[np.arange(len(sample.y)), sample.y] = sample.weight
    total = 2 * sample.weight.sum()
    ridge = np.where(np.arange(n_features) < sample.n_odd, 1, 1 / 3) / params.C

    def objective(flat: Floats) -> tuple[float, Floats]:
        coef, bias = flat[:-1], flat[-1]
        utility, tie = X.dot(coef)
        scores = log_softmax(task.scores(utility, tie + bias), axis=1)
        by_utility, by_tie = task.slopes(np.exp(scores) * sample.weight[:, None] - target)
        slopes = 2 * np.append(X.slopes(by_utility, by_tie) + ridge * coef, by_tie.sum())
        return (ridge @ coef**2 - 2 * (target * scores).sum()) / total, slopes / total

    # Where all classes are as likely, the loss of a row bends by 2/3 and 2/9
    bend = (2 / 3, 2 / 9)
    curvature = Curvature.of(X, 2 * sample.weight / total, bend, np.append(2 * ridge / total, 0))
    flat = descend(objective, curvature, SLOPE)
    coef, bias = flat[:-1], flat[-1:]
    odd = np.arange(n_features) < sample.n_odd
    return Linear(
        task,
        coef=task.scores(np.where(odd, coef, 0), np.where(odd, 0, coef)).T.astype(np.float32),
        intercept=task.scores(np.zeros(1), bias)[0].astype(np.float32),
    )


MODEL = Model("logreg", LogregParams, fit, Linear.load)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
