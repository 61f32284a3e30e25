r"""Audits: do the scores mean what they say?

In: rows, folds, style features, all models' predictions, the leaks that `split` counted, and the
names of the models that answered, which no other stage reads. Out: flat metrics, which `report`
puts into sentences. A `_standard_error` is clustered by prompt group; a gain is the mean of paired
differences of row losses, above 0 where the model is better.

- Leaks: duplicates, and columns of the rows that a feature could be made of but should not.
- Length, of preferences: *pick the longer* (a calibrated three-class regression on the lengths) and
  logistic regression on style alone, both cross-fitted; what each model gains over them; the final
  model's loss by decile of the difference in length, and on ties.
- Position: the lean to A of people, the largest change under the swap.
- Shift: the same regression on style, for rows whose models it never saw. Groups of models are left
  out, with every row that one of them has a part in; the control sees as many rows of any models.
  Rows without both names are left out, and counted.
- Folds: whether the losses of the folds differ by more than chance (one-way analysis of variance
  with known variances).
- Truth, where the judge is known: the loss that was seen against the one that the truth makes
  expect. Seen far below expected would be a leak of labels.

    python -m stages.evaluation.audit --dataset demo --labels data/demo/labels.json \
        --folds data/demo/folds.parquet --rows data/demo/rows.parquet \
        --strata data/demo/strata.parquet --style data/demo/style.parquet \
        --predictions data/demo/predictions --models svm --models ensemble --final ensemble \
        --split metrics/split/demo.json --metrics metrics/audit/demo.json
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from stages.core.blocks import read_columns
from stages.core.errors import InputError
from stages.core.folds import Folds, Indices, read_folds
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
from stages.core.tasks import Block, Floats, Task, read_task
from stages.evaluation._audit_models import shift, tell_apart
from stages.evaluation.judged import (
    PEOPLE,
    Judged,
    length_bias,
    length_deciles,
    lengths,
    position_bias,
    read_judged,
    read_texts,
)
from stages.evaluation.judging import mean_and_error
from stages.models.fitting.crossfit import crossfit, predict
from stages.models.fitting.design import Encoder, FeatureSets, SourceParams
from stages.models.fitting.sample import Sample, make_sample
from stages.models.logreg import LogregParams
from stages.models.logreg import fit as fit_logreg
from stages.runtime.cli import run

log = logging.getLogger("verdict")

LEAKS = ("exact_leaks", "leaks", "leak_share", "between_folds", "duplicates_in_train")
LENGTH = SourceParams(parts=("difference", "magnitude"), scale="standard", weight=1.0)
LENGTH_C = 1.0  # four columns and thousands of rows: hardly any penalty

Found = dict[str, float]


class AuditParams(Params):
    """Section `audit`: groups of models that are left out in turn, and the seed of the control."""

    model_groups: Annotated[int, Field(ge=3)]
    seed: Annotated[int, Field(ge=0)]


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


def named(name: str, values: Floats, folds: Folds) -> Found:
    """Mean and standard error under the names of metrics, 0 where they are not known."""
    mean, error = np.nan_to_num(mean_and_error(values, folds.group)).tolist()
    return {name: mean, f"{name}_standard_error": error}


def length_sets(texts: pd.DataFrame) -> dict[str, dict[str, Block]]:
    """What *pick the longer* knows: the length of each answer, and its logarithm."""
    blocks = {}
    for column in ("response_a", "response_b"):
        length = lengths(texts[column])
        X = np.column_stack([np.log1p(length), length / 1000]).astype(np.float32)
        blocks[column] = Block(X, ("log_length", "length"))
    return {"length": blocks}


def audit_length(
    judged: Judged, folds: Folds, texts: pd.DataFrame, baselines: Mapping[str, Floats], final: str
) -> Found:
    """Baselines and gains; the final model by decile of the difference in length, and on ties."""
    losses = judged.losses()
    found: Found = {}
    for name, base in baselines.items():
        found |= named(f"{name}_log_loss", base, folds)
        for model, own in losses.items():
            found |= named(f"{model}_gain_over_{name}", base - own, folds)
    _, deciles = length_deciles(judged.task, texts)
    own, longer = losses[final], baselines["longer"]
    for k in range(len(deciles.names)):
        inside = (deciles.part == k) & ~np.isnan(own)
        if inside.any():
            found[f"length_decile_{k + 1}_log_loss"] = float(own[inside].mean())
            found[f"length_decile_{k + 1}_gain_over_longer"] = float((longer - own)[inside].mean())
    tie = judged.targets.argmax(axis=1) == judged.task.classes.index("tie")
    for name, inside in (("tie", tie), ("decided", ~tie)):
        rows = inside & ~np.isnan(own)
        gain = np.where(rows, judged.base_losses() - own, np.nan)
        found[f"{name}_rows"] = float(rows.sum())
        found[f"{name}_log_loss"] = float(own[rows].mean()) if rows.any() else 0.0
        found |= named(f"{name}_gain_over_class_shares", gain, folds)
    for line in length_bias(judged, texts, final):
        if line.who in (PEOPLE, final) and line.rows > 1:
            found[f"longer_preferred_{line.who}"] = line.share
            found[f"longer_preferred_{line.who}_standard_error"] = line.error
    return found


def audit_position(judged: Judged, folds: Folds, final: str) -> Found:
    """The lean to A, and the largest change of any model under the swap."""
    models = position_bias(judged)[1:]
    own = next(line for line in models if line.who == final)
    found = named("lean_of_people", judged.targets[:, 0] - judged.targets[:, 1], folds)
    swaps = {f"{line.who}_swap_error": float(line.swap_error or 0) for line in models}
    return found | {"lean_of_final": own.lean} | swaps


def audit_folds(losses: Floats, folds: Folds) -> Found:
    """Spread of the mean loss over the folds, and how likely chance makes one so large."""
    from scipy.stats import chi2

    known = {fold: folds.fold == fold for fold in folds.numbers}
    pairs = [
        mean_and_error(losses[rows], folds.group[rows])
        for rows in known.values()
        if (~np.isnan(losses[rows])).sum() > 1
    ]
    means, errors = np.array(pairs).reshape(-1, 2).T
    if len(means) < 2 or not np.nan_to_num(errors).all():
        return {"folds_judged": float(len(means))}
    weight = 1 / np.square(errors)
    away = means - (weight @ means) / weight.sum()
    return {
        "folds_judged": float(len(means)),
        "fold_spread": float(means.max() - means.min()),
        "fold_standard_error": float(means.std(ddof=1) / np.sqrt(len(means))),
        "fold_chance": float(chi2.sf(weight @ np.square(away), len(means) - 1)),
    }


def audit_truth(judged: Judged, truth: Floats, folds: Folds) -> Found:
    """For each model the seen loss less the one that the true probabilities make expect."""
    found: Found = {}
    for model, p in judged.probabilities.items():
        seen = judged.task.row_losses(judged.targets, p)
        found |= named(
            f"{model}_seen_less_expected", seen - judged.task.row_losses(truth, p), folds
        )
    return found


def audit_models(names: pd.DataFrame, base: Regression, seen: Floats, params: AuditParams) -> Found:
    """Shift to models that were never seen, and what style knows of them.

    Args:
        names: Columns `model_a`, `model_b`, rows as in the folds.
        base: The regression on style.
        seen: Its out-of-fold losses on the stored folds.
        params: How models are left out.
    """
    known = names.notna().all(axis=1).to_numpy()
    found = {
        "rows_with_models": float(known.sum()),
        "rows_without_models": float((~known).sum()),
        "models": float(len(set(names[known].to_numpy().ravel()))),
    }
    folds = base.folds
    unseen, control, size = shift(names, folds, base.fitted_on, params.model_groups, params.seed)
    judged = ~np.isnan(unseen)
    if not judged.any():
        return found
    blocks = base.sets["style"]
    found |= tell_apart(names, folds, (blocks["response_a"], blocks["response_b"]))
    found |= {"shift_rows": float(judged.sum()), "shift_train_rows": size}
    found["shift_stored_folds_log_loss"] = float(seen[judged].mean())
    found["shift_control_log_loss"] = float(control[judged].mean())
    found["shift_unseen_log_loss"] = float(unseen[judged].mean())
    return found | named("shift_loss", unseen - control, folds)


def unknown_columns(rows: Path, task: Task) -> list[str]:
    """Columns of rows.parquet beside id, part, texts, targets and truth: there should be none."""
    expected = {ID, PART, *task.text_columns}
    expected |= {prefix + name for prefix in (TARGET, TRUTH) for name in task.classes}
    return sorted(set(columns_with(rows, "")) - expected)


def main(
    *,
    dataset: str,
    labels: Path,
    folds: Path,
    rows: Path,
    strata: Path,
    style: Path,
    predictions: Path,
    models: list[str],
    final: str,
    split: Path,
    metrics: Path,
) -> None:
    """Audit one dataset; `final` is the model that is looked at more closely."""
    params = read_params(AuditParams, dataset, "audit")
    baseline = read_params(LogregParams, dataset, "logreg")
    task = read_task(labels)
    if strange := unknown_columns(rows, task):
        raise InputError(f"{rows}: got columns {strange}; expected texts, targets and truth only")
    stored = read_folds(folds, task)
    judged = read_judged(task, stored, predictions, models)
    stored = stored.take(stored.judged)
    if final not in judged.probabilities:
        raise InputError(f"{predictions / final}.parquet: got no row predicted out of fold")
    counted = read_json(split)
    found: Found = {name: float(counted[name]) for name in LEAKS}
    found |= audit_folds(judged.losses()[final], stored)
    if truth := columns_with(rows, TRUTH):
        table = by_id(read_table(rows, [ID, *truth]), judged.ids, rows)
        found |= audit_truth(judged, table[truth].to_numpy(), stored)
    if task.symmetric:
        texts = read_texts(task, rows, judged.ids)
        longer = Regression(
            task, stored, length_sets(texts), {"length": LENGTH},
            baseline.model_copy(update={"C": LENGTH_C}),
        )  # fmt: skip
        sets = {"style": read_columns(style, judged.ids)}
        styled = Regression(task, stored, sets, {"style": baseline.style}, baseline)
        baselines = {"longer": longer.losses(), "style": styled.losses()}
        found |= audit_length(judged, stored, texts, baselines, final)
        found |= audit_position(judged, stored, final)
        names = read_table(strata, [ID, MODEL_A, MODEL_B]).set_index(ID).reindex(judged.ids)
        found |= audit_models(names.reset_index(drop=True), styled, baselines["style"], params)
    write_json(found, metrics)
    log.info("audit: %d figures of %d models", len(found), len(judged.probabilities))


if __name__ == "__main__":
    run(main)
