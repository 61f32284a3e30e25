"""Audits: do the scores mean what they say?

In: rows, folds, style features, all models' predictions, the leaks that `split` counted, and the
names of the models that answered, which no other stage reads. Out: figures by audit, which `report`
puts into sentences. A `mean` stands beside its `standard_error`, clustered by prompt group; a gain
is the mean of paired differences of row losses, above 0 where the model is better.

- `duplicates`: leaks that `split` counted. Columns of the rows that a feature could be made of, but
  should not, are an error.
- `baselines`, of preferences: *pick the longer* (a calibrated three-class regression on the
  lengths) and logistic regression on style alone, both cross-fitted; what each model gains over
  them. `length` and `outcomes`: the final model by decile of the difference in length, and on ties.
- `position`: the lean of people to A, the largest change under the swap.
- `names`: the same regression on style, for rows whose models it never saw. Groups of models are
  left out, with every row that one of them has a part in; the control sees as many rows of any
  models. Rows without both names are left out, and counted.
- `folds`: whether the losses of the folds differ by more than chance (one-way analysis of variance
  with known variances).
- `truth`, where the judge is known: the loss that was seen against the one that the truth makes
  expect. Seen far below expected would be a leak of labels.

    python -m stages.evaluation.audit --dataset demo
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pandas as pd
from pydantic import Field

from stages.core.blocks import read_columns
from stages.core.build import judged_models
from stages.core.errors import InputError
from stages.core.folds import Folds, Indices, read_folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Block, Floats
from stages.core.params import Params, read_params
from stages.core.tables import (
    ID,
    MODEL_A,
    MODEL_B,
    PART,
    TARGET,
    TRUTH,
    by_id,
    columns_with,
    read_json,
    read_table,
    write_json,
)
from stages.core.tasks import Task, read_task
from stages.evaluation._audit_models import shift, tell_apart
from stages.evaluation.judging import clustered_mean
from stages.evaluation.scoring.oof import (
    PEOPLE,
    OofPredictions,
    length_bias,
    length_deciles,
    lengths,
    position_bias,
    read_oof,
    read_texts,
)
from stages.models.fitting.crossfit import crossfit, predict
from stages.models.fitting.design import Encoder, FeatureSets, SourceParams
from stages.models.fitting.sample import Sample, make_sample
from stages.models.logreg import LogregParams
from stages.models.logreg import fit as fit_logreg
from stages.runtime.cli import run

log = logging.getLogger("verdict")

DUPLICATES = ("exact_leaks", "leaks", "leak_share", "between_folds", "duplicates_in_train")
LENGTH = SourceParams(parts=("difference", "magnitude"), scale="standard", weight=1.0)
LENGTH_C = 1.0  # four columns and thousands of rows: hardly any penalty

Found: TypeAlias = dict[str, Any]  # figures, or more of these, by name


class AuditParams(Params):
    """Section `audit`: groups of models that are left out in turn, and the seed of the control."""

    section = "audit"

    model_groups: Annotated[int, Field(ge=3)] = 5
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Regression:
    """Logistic regression on one feature set: the baseline that audits compare with."""

    task: Task
    folds: Folds
    sets: FeatureSets
    sources: Mapping[str, SourceParams]
    params: LogregParams

    def fit(self, sample: Sample, seed: int) -> Any:
        """The fit of the stage `logreg`."""
        return fit_logreg(sample, self.params, seed)

    def losses(self) -> Floats:
        """Out-of-fold loss of each row, `(n_rows,)`."""
        found = crossfit(
            self.task, self.folds, self.sets, self.sources, self.fit,
            balance="none", seed=self.params.seed,
        )  # fmt: skip
        return self.task.row_losses(self.folds.targets, found.probabilities)

    def fitted_on(self, train: Indices, held: Indices) -> Floats:
        """The losses of the rows `held` under a model of the rows `train`."""
        encoder = Encoder.fit(self.task, self.sources, self.sets, train)
        design, targets = encoder(self.sets, train), self.folds.targets[train]
        sample = make_sample(self.task, design, targets, self.folds.group[train], "none", 0)
        model = self.fit(sample, self.params.seed)
        p = predict(self.task, encoder, model, self.sets, held)
        return self.task.row_losses(self.folds.targets[held], p)


def mean_of(values: Floats, folds: Folds) -> Found:
    """Mean and standard error, 0 where they are not known."""
    mean, error = np.nan_to_num(clustered_mean(values, folds.group)).tolist()
    return {"mean": mean, "standard_error": error}


def length_sets(texts: pd.DataFrame) -> dict[str, dict[str, Block]]:
    """What *pick the longer* knows: the length of each answer, and its logarithm."""
    blocks = {}
    for column in ("response_a", "response_b"):
        length = lengths(texts[column])
        X = np.column_stack([np.log1p(length), length / 1000]).astype(np.float32)
        blocks[column] = Block(X, ("log_length", "length"))
    return {"length": blocks}


def audit_baselines(judged: OofPredictions, folds: Folds, baselines: Mapping[str, Floats]) -> Found:
    """The log loss of each baseline, and what each model gains over it."""
    return {
        name: {
            "log_loss": mean_of(base, folds),
            "gain": {model: mean_of(base - own, folds) for model, own in judged.losses().items()},
        }
        for name, base in baselines.items()
    }


def audit_length(judged: OofPredictions, texts: pd.DataFrame, longer: Floats, final: str) -> Found:
    """The final model by decile of the difference in length, and who prefers the longer answer."""
    own = judged.losses()[final]
    _, parts = length_deciles(judged.task, texts)
    deciles = {}
    for k in range(len(parts.names)):
        inside = (parts.part == k) & ~np.isnan(own)
        if inside.any():
            deciles[str(k + 1)] = {
                "log_loss": float(own[inside].mean()),
                "gain_over_longer": float((longer - own)[inside].mean()),
            }
    names = {PEOPLE: "people", final: "final"}
    prefer = {
        names[line.who]: {"mean": line.share, "standard_error": line.error}
        for line in length_bias(judged, texts, final)
        if line.who in names and line.rows > 1
    }
    return {"deciles": deciles, "longer_preferred": prefer}


def audit_outcomes(judged: OofPredictions, folds: Folds, final: str) -> Found:
    """The final model on ties, and on the rows where one answer was preferred."""
    own = judged.losses()[final]
    tie = judged.targets.argmax(axis=1) == judged.task.classes.index("tie")
    found: Found = {}
    for name, inside in (("tie", tie), ("decided", ~tie)):
        rows = inside & ~np.isnan(own)
        gain = np.where(rows, judged.base_losses() - own, np.nan)
        found[name] = {
            "rows": float(rows.sum()),
            "log_loss": float(own[rows].mean()) if rows.any() else 0.0,
            "gain_over_class_shares": mean_of(gain, folds),
        }
    return found


def audit_position(judged: OofPredictions, folds: Folds, final: str) -> Found:
    """The lean to A, and the largest change of any model under the swap."""
    models = position_bias(judged)[1:]
    own = next(line for line in models if line.who == final)
    return {
        "lean_of_people": mean_of(judged.targets[:, 0] - judged.targets[:, 1], folds),
        "lean_of_final": own.lean,
        "swap_error": {line.who: float(line.swap_error or 0) for line in models},
    }


def audit_folds(losses: Floats, folds: Folds) -> Found:
    """Spread of the mean loss over the folds, and how likely chance makes one so large."""
    from scipy.stats import chi2

    known = {fold: folds.fold == fold for fold in folds.numbers}
    pairs = [
        clustered_mean(losses[rows], folds.group[rows])
        for rows in known.values()
        if (~np.isnan(losses[rows])).sum() > 1
    ]
    means, errors = np.array(pairs).reshape(-1, 2).T
    if len(means) < 2 or not np.nan_to_num(errors).all():
        return {"judged": float(len(means))}
    weight = 1 / np.square(errors)
    away = means - (weight @ means) / weight.sum()
    return {
        "judged": float(len(means)),
        "spread": float(means.max() - means.min()),
        "standard_error": float(means.std(ddof=1) / np.sqrt(len(means))),
        "chance": float(chi2.sf(weight @ np.square(away), len(means) - 1)),
    }


def audit_truth(judged: OofPredictions, truth: Floats, folds: Folds) -> Found:
    """For each model the seen loss less the one that the true probabilities make expect."""
    losses = judged.task.row_losses
    return {
        model: mean_of(losses(judged.targets, p) - losses(truth, p), folds)
        for model, p in judged.probabilities.items()
    }


def audit_names(names: pd.DataFrame, base: Regression, seen: Floats, params: AuditParams) -> Found:
    """Shift to models that were never seen, and what style knows of them.

    `names` has columns `model_a`, `model_b`, rows as in the folds; `base` is the regression on
    style, `seen` its out-of-fold losses on the stored folds.
    """
    known = names.notna().all(axis=1).to_numpy()
    found: Found = {
        "rows_with_names": float(known.sum()),
        "rows_without_names": float((~known).sum()),
        "models": float(len(set(names[known].to_numpy().ravel()))),
    }
    folds = base.folds
    unseen, control, size = shift(names, folds, base.fitted_on, params.model_groups, params.seed)
    judged = ~np.isnan(unseen)
    if not judged.any():
        return found
    blocks = base.sets["style"]
    if told := tell_apart(names, folds, (blocks["response_a"], blocks["response_b"])):
        found["told_by_style"] = told
    found["shift"] = {
        "rows": float(judged.sum()),
        "train_rows": size,
        "log_loss": {
            "stored_folds": float(seen[judged].mean()),
            "control": float(control[judged].mean()),
            "unseen": float(unseen[judged].mean()),
        },
        "lost": mean_of(unseen - control, folds),
    }
    return found


def unknown_columns(rows: Path, task: Task) -> list[str]:
    """Columns of rows.parquet beside id, part, texts, targets and truth: there should be none."""
    expected = {ID, PART, *task.text_columns}
    expected |= {prefix + name for prefix in (TARGET, TRUTH) for name in task.classes}
    return sorted(set(columns_with(rows, "")) - expected)


def main(*, dataset: str) -> None:
    """Audit one dataset; the ensemble is the model that is looked at more closely."""
    layout = Layout(dataset)
    params = read_params(AuditParams, layout)
    baseline = read_params(LogregParams, layout, "logreg")
    task = read_task(layout.labels)
    rows = layout.rows
    if strange := unknown_columns(rows, task):
        raise InputError(f"{rows}: got columns {strange}; expected texts, targets and truth only")
    folds = read_folds(layout.folds, task)
    judged = read_oof(task, folds, layout, judged_models(layout))
    folds = folds.take(folds.judged)
    if ENSEMBLE not in judged.probabilities:
        raise InputError(f"{layout.predictions(ENSEMBLE)}: got no row predicted out of fold")
    counted = read_json(layout.split)
    found: Found = {
        "duplicates": {name: float(counted[name]) for name in DUPLICATES},
        "folds": audit_folds(judged.losses()[ENSEMBLE], folds),
    }
    if truth := columns_with(rows, TRUTH):
        table = by_id(read_table(rows, [ID, *truth]), judged.ids, rows)
        found["truth"] = audit_truth(judged, table[truth].to_numpy(), folds)
    if task.symmetric:
        texts = read_texts(task, rows, judged.ids)
        longer = Regression(
            task, folds, length_sets(texts), {"length": LENGTH},
            baseline.model_copy(update={"C": LENGTH_C}),
        )  # fmt: skip
        sets = {"style": read_columns(layout.features("style"), judged.ids)}
        styled = Regression(task, folds, sets, {"style": baseline.style}, baseline)
        baselines = {"longer": longer.losses(), "style": styled.losses()}
        names = read_table(layout.strata, [ID, MODEL_A, MODEL_B]).set_index(ID).reindex(judged.ids)
        found |= {
            "baselines": audit_baselines(judged, folds, baselines),
            "length": audit_length(judged, texts, baselines["longer"], ENSEMBLE),
            "outcomes": audit_outcomes(judged, folds, ENSEMBLE),
            "position": audit_position(judged, folds, ENSEMBLE),
            "names": audit_names(names.reset_index(drop=True), styled, baselines["style"], params),
        }
    write_json(found, layout.audit)
    log.info("audit: %s, of %d models", ", ".join(found), len(judged.probabilities))


if __name__ == "__main__":
    run(main)
