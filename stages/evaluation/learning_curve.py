r"""How little labelled data is enough: chosen models on nested fractions of the train folds.

In: folds and feature sets. Out: one table for a plot, a row for each model and fraction, with its
metrics on all out-of-fold rows. The rows of a smaller fraction are among those of each larger one
(nested), and each class keeps its share but at least one row (stratified; a row of several labels
counts as one of its rarest). Seeds draw the rows, and what a model draws: metrics are means over
them, and `log_loss_seed_deviation` says how far the log loss strays; on all rows (fraction 1) that
is the model's own chance. Folds and models are those of the models' own sections, without their
search. Vocabulary and vectors need no labels: they are those of the whole train part.

It imports the stages of the models: it fits what they fit, without augmented copies. No models in
the params: an empty table.

    python -m stages.evaluation.learning_curve --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --tfidf data/demo/tfidf --lsa data/demo/lsa \
        --word2vec data/demo/word2vec --style data/demo/style.parquet --embed data/demo/embed \
        --curve metrics/learning_curves/demo.csv
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, Field
from tqdm import tqdm

from stages.core.folds import Folds, Indices, read_folds
from stages.core.params import Params, each_once, read_params
from stages.core.tables import write_table
from stages.core.tasks import Task, read_task
from stages.evaluation.metrics import (
    actual_labels,
    decide,
    decision_metrics,
    nested_thresholds,
    probability_metrics,
)
from stages.models.fitting.crossfit import CrossFit, crossfit
from stages.models.fitting.design import FeatureSets
from stages.models.fitting.sample import Sample, rarest
from stages.models.fitting.search import ModelParams
from stages.models.fitting.seeds import Fit, Model, with_params
from stages.models.fitting.train import read_sets
from stages.models.forest import ForestParams
from stages.models.forest import fit as fit_forest
from stages.models.lgbm import LgbmParams
from stages.models.lgbm import fit as fit_lgbm
from stages.models.logreg import LogregParams
from stages.models.logreg import fit as fit_logreg
from stages.models.svm import SvmParams
from stages.models.svm import fit as fit_svm
from stages.models.xgb import XgbParams
from stages.models.xgb import fit as fit_xgb
from stages.runtime.cli import run
from stages.runtime.tracking import Mirror

log = logging.getLogger("verdict")

M = TypeVar("M", bound=ModelParams)

METRICS = [  # columns of the table; those that the task has
    "log_loss",
    "log_loss_standard_error",
    "accuracy",
    "balanced_accuracy",
    "subset_accuracy",
    "macro_f1",
    "micro_f1",
    "mean_average_precision",
    "macro_auc",
]
SEEDS, DEVIATION = "seeds", "log_loss_seed_deviation"


class LearningCurveParams(Params):
    """Section `learning_curve`: what to fit on which shares of each fold's training rows."""

    models: Annotated[
        tuple[Literal["logreg", "svm", "forest", "xgb", "lgbm"], ...], AfterValidator(each_once)
    ]
    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(min_length=1),
        AfterValidator(each_once),
    ]
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(each_once)
    ]


@dataclass(frozen=True)
class FewerRows(Folds):
    """Folds whose models see only some of their training rows."""

    chosen: Mapping[int, Indices]

    def train(self, fold: int | None) -> Indices:
        """The chosen rows of a fold's model; None: the whole train part."""
        return super().train(None) if fold is None else self.chosen[fold]


@dataclass(frozen=True)
class Candidate:
    """A model's params, and how it is fitted with them."""

    params: ModelParams
    fit: Fit

    @classmethod
    def of(cls, params: M, fit: Callable[[Sample, M, int], Model]) -> "Candidate":
        """A model by its own `fit`."""
        return cls(params, with_params(fit, params))


def fewer_rows(folds: Folds, stratum: npt.NDArray[np.intp], fraction: float, seed: int) -> Folds:
    """For each fold the first rows, in one random order, of each stratum of its training rows."""
    order = np.random.default_rng(seed).permutation(len(folds.ids))
    chosen = {}
    for fold in folds.numbers:
        rows = order[np.isin(order, folds.train(fold))]
        own = stratum[rows]
        kept = np.ceil((fraction * np.bincount(own)).round(6))  # of each stratum; 0.1 * 30 is 3
        place = pd.Series(own).groupby(own).cumcount().to_numpy()
        chosen[fold] = np.sort(rows[place < kept[own]])
    return FewerRows(folds.ids, folds.part, folds.fold, folds.group, folds.targets, chosen)


def judge(task: Task, folds: Folds, fitted: CrossFit) -> dict[str, float]:
    """Metrics of the out-of-fold rows, labels given as in `score`."""
    actual = actual_labels(task, folds.targets)
    thresholds = nested_thresholds(actual, fitted.probabilities, folds.fold)
    given = decide(task, fitted.probabilities, thresholds)
    found = probability_metrics(task, folds.targets, fitted.probabilities, folds.group)
    found |= decision_metrics(task, actual, given)
    return {name: found[name] for name in METRICS if name in found}


def learning_curve(
    task: Task,
    folds: Folds,
    sets: FeatureSets,
    candidates: Mapping[str, Candidate],
    params: LearningCurveParams,
) -> pd.DataFrame:
    """A row for each model and fraction; `rows` is the mean number of rows that a model saw.

    Metrics are means over the seeds.
    """
    stratum = rarest(actual_labels(task, folds.targets))
    trials = [(name, fraction) for name in candidates for fraction in sorted(params.fractions)]
    lines = []
    for name, fraction in tqdm(trials, desc="learning_curve", unit="fit", disable=None):
        model, judged, rows = candidates[name], [], []
        for seed in params.seeds:
            fewer = fewer_rows(folds, stratum, fraction, seed)
            fitted = crossfit(
                task, fewer, sets, model.params.sources(), model.fit,
                balance=model.params.balance, seed=model.params.seed + seed * len(folds.numbers),
                spread=getattr(model.params, "workers", 1) > 1,
            )  # fmt: skip
            judged.append(judge(task, fewer, fitted))
            rows += [len(fewer.train(fold)) for fold in fewer.numbers]
        found = pd.DataFrame(judged)
        spread = float(found["log_loss"].std(ddof=1)) if len(judged) > 1 else 0.0
        lines.append(
            {"model": name, "fraction": fraction, "rows": float(np.mean(rows))}
            | found.mean().to_dict()
            | {SEEDS: len(judged), DEVIATION: spread}
        )
    head = ["model", "fraction", "rows", *METRICS, SEEDS, DEVIATION]
    return pd.DataFrame(lines, columns=[n for n in head if not lines or n in lines[0]])


def main(
    *, dataset: str, labels: Path, folds: Path, tfidf: Path, lsa: Path, word2vec: Path,
    style: Path, embed: Path, curve: Path,
) -> None:  # fmt: skip
    """Write the learning curves of the chosen models."""
    params = read_params(LearningCurveParams, dataset, "learning_curve")
    known: dict[str, Callable[[], Candidate]] = {
        "logreg": lambda: Candidate.of(read_params(LogregParams, dataset, "logreg"), fit_logreg),
        "svm": lambda: Candidate.of(read_params(SvmParams, dataset, "svm"), fit_svm),
        "forest": lambda: Candidate.of(read_params(ForestParams, dataset, "forest"), fit_forest),
        "xgb": lambda: Candidate.of(read_params(XgbParams, dataset, "xgb"), fit_xgb),
        "lgbm": lambda: Candidate.of(read_params(LgbmParams, dataset, "lgbm"), fit_lgbm),
    }
    candidates: dict[str, Candidate] = {name: known[name]() for name in params.models}
    mirror = Mirror("learning_curve", dataset, [labels, folds])
    task = read_task(labels)
    whole = read_folds(folds, task)
    stored = whole.take(whole.judged)  # no other is to be predicted here
    paths = {"tfidf": tfidf, "lsa": lsa, "word2vec": word2vec, "style": style, "embed": embed}
    needed = {name for model in candidates.values() for name in model.params.sources()}
    sets = read_sets(paths, needed, stored.ids)
    table = learning_curve(task, stored, sets, candidates, params)
    write_table(table, curve)
    mirror.finish(params=params.model_dump(mode="json"), metrics={}, tables={"curve": curve})
    log.info("learning_curve: %d points of %s", len(table), ", ".join(params.models) or "no model")


if __name__ == "__main__":
    run(main)
