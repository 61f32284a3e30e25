"""The model card of the ensemble: what it is, how good, on what data, and where it fails.

In: what the pipeline found for one dataset, and what its params say of licence and languages. Out:
Markdown with the metadata of a Hugging Face model card (their library checks it), to be kept beside
the models. Intervals are at 95 %, out of fold, and count groups of rows (near-duplicates of one
prompt are not independent): percentiles of 1,000 bootstrap samples, for position and length 1.96
standard errors.

    python -m stages.reporting.card --dataset demo
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from stages.core.errors import InputError
from stages.core.folds import Folds, read_folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Floats
from stages.core.params import Params, read_params
from stages.core.tables import atomic, read_json
from stages.core.tasks import read_task
from stages.evaluation.judging import judging_folds, resampled_sums
from stages.evaluation.scoring.measures import MEASURES
from stages.evaluation.scoring.metrics import Labels, decide, nested_thresholds
from stages.evaluation.scoring.oof import (
    OofPredictions,
    by_slice,
    length_bias,
    lengths,
    position_bias,
    ranges,
    read_oof,
    read_texts,
)
from stages.evaluation.scoring.quality import base_loss
from stages.reporting._texts import TEXTS
from stages.runtime.cli import run

log = logging.getLogger("verdict")

SAMPLES = 1000
NAMES = {  # by the keys of the Hugging Face hub
    "log_loss": MEASURES["log_loss"].label,
    "accuracy": MEASURES["accuracy"].label,
    "f1": MEASURES["macro_f1"].label,
}


class CardParams(Params):
    """Section `card`: what no file of the pipeline says.

    `license` is an identifier of the Hugging Face hub, `language` holds ISO 639 codes, `data` says
    in a sentence or two where the data come from and under which terms.
    """

    section = "card"

    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    language: Annotated[
        tuple[Annotated[str, Field(pattern=r"^([a-z]{2,3}|multilingual)$")], ...],
        Field(min_length=1),
    ]
    data: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval; `key` names it as the Hugging Face hub does."""

    key: str
    value: float
    low: float
    high: float


def measure(losses: Floats, actual: Labels, given: Labels, group: npt.NDArray[Any]) -> list[Metric]:
    """Log loss, accuracy (of whole rows) and macro-F1 with their intervals.

    Args:
        losses: `(n_rows,)`.
        actual: The classes that rows have, `(n_rows, n_classes)`.
        given: The classes that they are given, of that shape.
        group: `(n_rows,)`; rows of a group are drawn together.
    """
    columns = np.column_stack(
        [np.ones(len(losses)), losses, (actual == given).all(axis=1), actual & given,
         actual.astype(int) + given]
    )  # fmt: skip
    _, member = np.unique(group, return_inverse=True)
    sums = np.stack([np.bincount(member, column) for column in columns.T], axis=1, dtype=float)
    # a class that no row has or is given does not count; one that no drawn row has still does
    occur = int((actual | given).any(axis=0).sum())
    observed = _ratios(sums.sum(axis=0)[None], occur)[0]
    low, high = np.quantile(_ratios(resampled_sums(sums, SAMPLES), occur), [0.025, 0.975], axis=0)
    return [
        Metric(key, float(observed[k]), float(low[k]), float(high[k]))
        for k, key in enumerate(NAMES)
    ]


def _ratios(totals: Floats, occur: int) -> Floats:
    """The metrics `(n_samples, 3)` of sums `(n_samples, 3 + 2 n_classes)` over rows.

    `occur` is the number of classes that the mean of F1 is taken over.
    """
    hits, both = np.split(totals[:, 3:], 2, axis=1)
    f1 = (2 * hits / np.maximum(both, 1)).sum(axis=1) / max(occur, 1)
    return np.column_stack([totals[:, 1] / totals[:, 0], totals[:, 2] / totals[:, 0], f1])


def judge(judged: OofPredictions, model: str, folds: Folds) -> list[Metric]:
    """The metrics of the rows that the model predicted; thresholds as `score` chooses them."""
    p = judged.probabilities[model]
    known = ~np.isnan(p).any(axis=1)
    rows = folds.judged[known]
    parts = judging_folds(folds, np.isin(np.arange(len(folds.ids)), rows))
    actual = judged.task.has_classes(judged.targets[known])
    thresholds = nested_thresholds(actual, p[known], parts.fold[rows])
    given = decide(judged.task, p[known], thresholds)
    return measure(judged.losses()[model][known], actual, given, folds.group[rows])


def biases(judged: OofPredictions, texts: pd.DataFrame) -> list[str]:
    """What is known of the influence of position and length, a sentence each."""
    if not judged.task.symmetric:
        quarters = by_slice(judged, ranges(lengths(texts["text"]), 4))
        pairs = zip(quarters["loss"], quarters["label"], strict=True)
        told = [f"{loss:.4f} ({label} characters)" for loss, label in pairs]
        if not told:
            return ["Length of the text: too few rows were judged to tell its influence."]
        return [f"Length of the text: the log loss by quarters is {', '.join(told)}."]
    lean, own = position_bias(judged)
    people, expected = length_bias(judged, texts, *judged.probabilities)
    return [
        f"Position: the judges preferred A more often than B by {100 * lean.lean:+.1f} percentage "
        f"points (95 % interval {_interval(lean.lean, lean.error)}). The model can't follow: "
        "exchanging the answers exchanges its probabilities (largest difference "
        f"{own.swap_error:.1g}).",
        f"Length: where one answer was preferred, it was the longer one in {people.share:.1%} of "
        f"{people.rows:,} rows (95 % interval {_interval(people.share, people.error)}); the model "
        f"expects {expected.share:.1%}. As far as that is a taste for length, whether or not the "
        "longer answer is better, the model has learned it.",
    ]


def _interval(share: float, error: float) -> str:
    low, high = 100 * (share - 1.96 * error), 100 * (share + 1.96 * error)
    return f"{low:.1f} to {high:.1f}"


TEMPLATE = """\
# {{ dataset }}: ensemble

A {{ form }} of {{ used }}, trained by the Verdict pipeline. It predicts {{ texts.predicts }}, as
probabilities of {{ task.classes | length }} classes.

## Intended use

{{ texts.use }}

Not for: {{ texts.misuse }}

## Data

{{ params.data }}

- Raw rows: {{ "{:,.0f}".format(ingest.raw_rows) }}, of which
  {{ "{:,.0f}".format(ingest.rejects) }} were rejected. Train rows: {{ "{:,}".format(n_train) }}.
- Groups of near-duplicates, all parts together: {{ "{:,.0f}".format(split.groups) }}.
- Shares of the classes in the train part: {{ shares }}.
- Test rows with a near-duplicate in the train part: {{ "{:,.0f}".format(split.leaks) }}.

## Metrics

Out of fold on {{ "{:,}".format(n_judged) }} rows: each is predicted by models that never saw its
group, and blended with weights that were {{ learned }}. Intervals are of a
bootstrap over groups.

| metric | value | 95 % interval |
| --- | ---: | ---: |
{% for m in metrics %}
| {{ names[m.key] }} | {{ "%.4f" | format(m.value) }} | {{ "%.4f" | format(m.low) }} to \
{{ "%.4f" | format(m.high) }} |
{% endfor %}
| log loss of the class shares alone | {{ "%.4f" | format(base_loss) }} | |

{% if dev %}
On the dev part ({{ "{:,.0f}".format(dev.rows) }} rows, never trained on): log loss
{{ "%.4f" | format(dev.log_loss) }}, macro-F1 {{ "%.4f" | format(dev.macro_f1) }}.

{% endif %}
{% if known_judge %}
The judge of this data is known: on the test part the log loss is expected to be
{{ "%.4f" | format(known_judge.expected_log_loss) }}, where the best possible one is
{{ "%.4f" | format(known_judge.best_log_loss) }}.

{% endif %}
## Biases that were measured

{% for bias in biases %}
- {{ bias }}
{% endfor %}

## Limits

- It knows the judges and the kinds of text of its data, nothing else; how good it is on others was
  not measured.
- The metrics are those of these rows. They say nothing about groups of people.
- Its classical members read the surface (words, lengths, style), and sentence embeddings where
  their params say so.

## Licence

`{{ params.license }}`, with the terms of the data above. Fine-tuned members keep the licence of
their backbone.

## How to use it

In a clone of the repository that trained it:

```sh
dvc pull        # or: dvc repro
verdict predict --dataset {{ dataset }} new.csv out.csv
```

Models are safetensors, UBJ, LightGBM's text format and NumPy arrays: nothing is unpickled.
"""


def form_of(weights: Mapping[str, Any]) -> str:
    """What the blend is, for a sentence."""
    if weights["product"]:
        return "product of powers"
    if weights["temperature"] == 1:
        return "mixture"
    return f"mixture, at temperature {weights['temperature']:.3f},"


def text(
    dataset: str,
    judged: OofPredictions,
    params: CardParams,
    metrics: list[Metric],
    found: Mapping[str, Mapping[str, Any]],
    told: list[str],
) -> str:
    """The card below its metadata."""
    from jinja2 import Environment, StrictUndefined

    weights, scores = found["weights"], found["scores"]
    used = {name: weight for name, weight in weights["weight"].items() if weight > 0}
    shares = zip(judged.task.classes, judged.targets.mean(axis=0), strict=True)
    markdown = Environment(  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).from_string(TEMPLATE)
    return markdown.render(
        found,
        dataset=dataset,
        task=judged.task,
        params=params,
        metrics=metrics,
        names=NAMES,
        biases=told,
        texts=TEXTS[judged.task.kind],
        dev=scores.get("dev"),
        known_judge=scores.get("test", {}).get("known_judge"),
        form=form_of(weights),
        learned="learned without its fold" if len(weights["nested_log_loss"]) > 1 else "given",
        used=", ".join(f"{name} ({weight:.3f})" for name, weight in used.items()),
        shares=", ".join(f"{name} {share:.1%}" for name, share in shares),
        n_train=len(judged.ids),
        n_judged=int(scores["oof"]["rows"]),
        base_loss=base_loss(judged, *judged.probabilities),
    )


def card(
    dataset: str, kind: str, n_rows: int, params: CardParams, metrics: list[Metric], body: str
) -> str:
    """The whole card: metadata that the library of the hub accepts, and the text."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="train",
            metric_type=metric.key,
            metric_name=f"{NAMES[metric.key]}, out of fold on {n_rows} rows",
            metric_value=round(metric.value, 6),
        )
        for metric in metrics
    ]
    data = ModelCardData(
        language=list(params.language),
        license=params.license,
        tags=["verdict", "dvc", kind.replace("_", "-")],
        pipeline_tag="text-classification",
        metrics=[metric.key for metric in metrics],
        model_name=f"verdict-{dataset}",
        eval_results=results,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")).rstrip() + "\n"


def main(*, dataset: str) -> None:
    """Write the card of one dataset's ensemble."""
    layout = Layout(dataset)
    params = read_params(CardParams, layout)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    judged = read_oof(task, folds, layout, [ENSEMBLE])
    if ENSEMBLE not in judged.probabilities:
        raise InputError(
            f"{layout.predictions(ENSEMBLE)}: got no row that was predicted out of fold"
        )
    texts = read_texts(task, layout.rows, judged.ids)
    found = {
        "scores": read_json(layout.scores(ENSEMBLE)),
        "weights": read_json(layout.weights),
        "ingest": read_json(layout.ingest),
        "split": read_json(layout.split),
    }
    metrics = judge(judged, ENSEMBLE, folds)
    body = text(dataset, judged, params, metrics, found, biases(judged, texts))
    n_judged = int(found["scores"]["oof"]["rows"])
    written = card(dataset, task.kind, n_judged, params, metrics, body)
    with atomic(layout.card) as temporary:
        temporary.write_text(written, encoding="utf-8")
    log.info("card: %s", ", ".join(f"{NAMES[m.key]} {m.value:.4f}" for m in metrics))


if __name__ == "__main__":
    run(main)
