r"""Multinomial logistic regression on tf-idf and style features.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. A convex
problem: fitted on both orders of each pair, its solution is itself symmetric under the swap.

    python -m stages.models.logreg --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --tfidf data/demo/tfidf --style data/demo/style.parquet \
        --model models/demo/logreg --predictions data/demo/predictions/logreg.parquet \
        --trials metrics/demo/trials/logreg.csv --cost metrics/demo/cost/logreg.json
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from stages.base.cli import run
from stages.base.params import read_params
from stages.models._design import SourceParams
from stages.models._linear import Linear
from stages.models._sample import Sample
from stages.models._search import ModelParams
from stages.models._train import train


class LogregParams(ModelParams):
    """Section `logreg`: `C` is the inverse strength of the L2 penalty, as in scikit-learn."""

    C: Annotated[float, Field(gt=0)]
    tfidf: SourceParams
    style: SourceParams


def fit(sample: Sample, params: LogregParams, seed: int) -> Linear:  # noqa: ARG001 - the solver draws nothing
    """Fit with Newton's method and conjugate gradients, on sparse text faster than L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=params.C, solver="newton-cg", max_iter=200)
    model.fit(sample.X, sample.y, sample.weight)
    return Linear(model.coef_.astype(np.float32), model.intercept_.astype(np.float32))


def main(
    *, dataset: str, labels: Path, folds: Path, tfidf: Path, style: Path,
    model: Path, predictions: Path, trials: Path, cost: Path,
) -> None:  # fmt: skip
    """Cross-fit logistic regression on tf-idf and style."""
    params = read_params(LogregParams, dataset, "logreg")
    train(
        params, fit, dataset=dataset, labels=labels, folds=folds,
        sets={"tfidf": tfidf, "style": style},
        model=model, predictions=predictions, trials=trials, cost=cost,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
