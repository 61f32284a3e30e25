"""What the report and the card know of the judged rows: losses, kinds of text, biases.

Judged are the rows of the train part, each by a model that never saw its group.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.folds import Folds
from stages.core.layout import Layout
from stages.core.matrices import Floats
from stages.core.predictions import OOF
from stages.core.tables import ID, PART, PREDICTION, SWAPPED, by_id, read_table
from stages.core.tasks import Task
from stages.evaluation.judging import Rows, clustered_mean

LETTERS = 200  # of a text tell its script
FEWEST = 20  # rows of a slice: smaller scripts are taken together, smaller slices left out
CODE = "```"
SAME = 1e-6  # largest change under the swap that is rounding
PEOPLE = "people"
TURNS = ("1", "2", "3 to 5", "6 and more")
ALPHABETS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}  # Unicode's word: ours


@dataclass(frozen=True)
class Parts:
    """Parts that rows are divided into: their names, and the number of each row's, `(n_rows,)`."""

    names: tuple[str, ...]
    part: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class OofPredictions:
    """The judged rows: ids, groups, targets, and what each model says of them.

    Targets `(n_rows, n_classes)`. Probabilities, of the rows and of the exchanged rows, have that
    shape by model, NaN where a model predicted a row not out of fold. Models that predicted none
    are left out. Standard errors are clustered by group.
    """

    task: Task
    ids: pd.Series
    group: npt.NDArray[np.integer[Any]]
    targets: Floats
    probabilities: Mapping[str, Floats]
    swapped: Mapping[str, Floats]

    def losses(self) -> dict[str, Floats]:
        """Log loss of each row by model, `(n_rows,)`, NaN where it has no prediction."""
        return {
            name: self.task.row_losses(self.targets, p) for name, p in self.probabilities.items()
        }

    def base_losses(self) -> Floats:
        """Log loss of each row if all are given the class shares, `(n_rows,)`."""
        shares = self.targets.mean(axis=0)
        return self.task.row_losses(self.targets, np.tile(shares, (len(self.targets), 1)))


def read_oof(task: Task, folds: Folds, layout: Layout, models: Iterable[str]) -> OofPredictions:
    """The out-of-fold predictions of models, rows in the order of the folds."""
    rows = folds.judged
    ids = folds.ids.iloc[rows].reset_index(drop=True)
    straight, swapped = {}, {}
    for model in models:
        path = layout.predictions(model)
        columns = [PREDICTION + name for name in task.classes]
        exchanged = [SWAPPED + name for name in task.classes] if task.symmetric else []
        table = read_table(path, [ID, PART, *columns, *exchanged])
        table = table[table[PART] == OOF].set_index(ID)
        if len(table):
            straight[model] = table[columns].reindex(ids).to_numpy(np.float64)
            swapped[model] = table[exchanged].reindex(ids).to_numpy(np.float64)
    return OofPredictions(task, ids, folds.group[rows], folds.targets[rows], straight, swapped)


def read_texts(task: Task, path: Path, ids: pd.Series) -> pd.DataFrame:
    """The text columns of the rows `ids`; each text a list of turns."""
    table = by_id(read_table(path, [ID, *task.text_columns]), ids, path)
    texts: pd.DataFrame = table[list(task.text_columns)]
    return texts.map(lambda text: [text] if isinstance(text, str) else list(text))


def ranges(values: npt.NDArray[Any], n: int) -> Parts:
    """About `n` parts of equal size, each named by its smallest and largest value."""
    edges = np.unique(np.quantile(values, np.arange(1, n) / n))
    found, part = np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)
    bounds = [(values[part == k].min(), values[part == k].max()) for k in range(len(found))]
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in bounds]
    return Parts(tuple(name.replace("-", "−") for name in names), part)


def scripts(texts: Sequence[str]) -> npt.NDArray[Any]:
    """The script of most of the first letters of each text, by the names of Unicode's letters."""
    heads = [text[:LETTERS] for text in texts]
    codes = np.frombuffer("".join(heads).encode("utf-32-le", "surrogatepass"), np.uint32)
    row = np.repeat(np.arange(len(heads)), [len(head) for head in heads])
    letters, letter = np.unique(codes, return_inverse=True)
    names, name = np.unique([_script(chr(code)) for code in letters], return_inverse=True)
    if not len(names):
        return np.full(len(heads), "no letters")
    counts = np.bincount(
        row * len(names) + name[letter], minlength=len(heads) * len(names)
    ).reshape(len(heads), len(names))
    counts[:, names == ""] = 0
    return np.where(counts.any(axis=1), names[counts.argmax(axis=1)], "no letters")


def _script(character: str) -> str:
    if not unicodedata.category(character).startswith("L"):
        return ""
    word = unicodedata.name(character, "other").split()[0].partition("-")[0]
    return ALPHABETS.get(word, word.capitalize())


def _common(labels: npt.NDArray[Any]) -> Parts:
    """The labels that many rows have, the most frequent first, and `others`."""
    names, part, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((names, -counts))
    kept = order[counts[order] >= FEWEST]
    number = np.full(len(names), len(kept))
    number[kept] = np.arange(len(kept))
    return Parts((*names[kept].tolist(), "others"), number[part])


def characters(turns: list[str | None]) -> int:
    """The length of a text of several turns."""
    return sum(len(turn or "") for turn in turns)


def lengths(texts: pd.Series) -> npt.NDArray[np.int64]:
    """Characters of each text, `(n_rows,)`."""
    return np.array([characters(turns) for turns in texts], np.int64)


def slices(task: Task, texts: pd.DataFrame) -> dict[str, Parts]:
    """By kind of slice the slice of each row; kinds with fewer than two slices are left out."""
    what = task.text_columns[0]
    first = texts[what]
    has_code = [
        any(CODE in (turn or "") for text in row for turn in text)
        for row in zip(*(texts[name] for name in texts), strict=True)
    ]
    heads = [" ".join(turn[:LETTERS] for turn in turns if turn) for turns in first]
    kinds = {
        f"script of the {what}": _common(scripts(heads)),
        f"length of the {what}, characters": ranges(lengths(first), 4),
        "code": Parts(("no code block", "a code block"), np.array(has_code, np.intp)),
    }
    if task.symmetric:
        both = lengths(texts["response_a"]) + lengths(texts["response_b"])
        kinds["turns"] = Parts(TURNS, np.digitize([len(turns) for turns in first], [2, 3, 6]))
        kinds["length of both answers, characters"] = ranges(both, 4)
    return {
        kind: parts
        for kind, parts in kinds.items()
        if (np.bincount(parts.part) >= FEWEST).sum() > 1
    }


def length_deciles(task: Task, texts: pd.DataFrame) -> tuple[str, Parts]:
    """What the deciles are of, and the decile of each row; fewer and larger parts of few rows."""
    n = max(1, min(10, len(texts) // FEWEST))
    if not task.symmetric:
        return "length of the text, characters", ranges(lengths(texts["text"]), n)
    difference = lengths(texts["response_a"]) - lengths(texts["response_b"])
    return "length of A minus length of B, characters", ranges(difference, n)


def by_slice(judged: OofPredictions, labels: Parts) -> pd.DataFrame:
    """Columns `model, label, order, rows, loss, error, base`: mean losses of each model a slice.

    `error` is the standard error, `base` the loss of the class shares on the same rows. Slices of
    which a model judged fewer than 20 rows are left out.
    """
    base = judged.base_losses()

    def figures(losses: Floats, rows: Rows) -> tuple[float, ...]:
        return *clustered_mean(losses[rows], judged.group[rows]), float(base[rows].mean())

    return _by_slice(judged.losses(), labels, ("loss", "error", "base"), figures)


def shares_by_slice(judged: OofPredictions, labels: Parts) -> pd.DataFrame:
    """Columns `model, label, order, rows, actual, error, predicted`: how often A is preferred."""
    actual, predicted = judged.targets[:, 0], {m: p[:, 0] for m, p in judged.probabilities.items()}

    def figures(own: Floats, rows: Rows) -> tuple[float, ...]:
        return *clustered_mean(actual[rows], judged.group[rows]), float(own[rows].mean())

    return _by_slice(predicted, labels, ("actual", "error", "predicted"), figures)


def _by_slice(
    values: Mapping[str, Floats],
    labels: Parts,
    columns: tuple[str, ...],
    figures: Callable[[Floats, Rows], tuple[float, ...]],
) -> pd.DataFrame:
    """The `figures` of each model's values, in each slice of which enough are known."""
    found = []
    for model, own in values.items():
        for order, label in enumerate(labels.names):
            rows = (labels.part == order) & ~np.isnan(own)
            if rows.sum() >= FEWEST:
                found.append((model, label, order, int(rows.sum()), *figures(own, rows)))
    return pd.DataFrame(found, columns=["model", "label", "order", "rows", *columns])


@dataclass(frozen=True)
class Lean:
    """How much more often A is preferred than B, and what exchanging A and B changes.

    `swap_error` is the largest change of a probability; then the rows of which a probability and
    of which the decision changes. People were not asked again: None.
    """

    who: str
    lean: float
    error: float
    swap_error: float | None = None
    rows: int | None = None
    decisions: int | None = None


def position_bias(judged: OofPredictions) -> list[Lean]:
    """The lean to A of people, and of each model on average, with the swap audit."""
    actual = judged.targets[:, 0] - judged.targets[:, 1]
    found = [Lean(PEOPLE, *clustered_mean(actual, judged.group))]
    for model, p in judged.probabilities.items():
        known = ~np.isnan(p[:, 0])
        straight = p[known]
        back = judged.task.swap_classes(judged.swapped[model][known])
        changed = np.abs(straight - back).max(axis=1) > SAME
        other = straight.argmax(axis=1) != back.argmax(axis=1)
        found.append(
            Lean(
                model,
                *clustered_mean(p[:, 0] - p[:, 1], judged.group),
                swap_error=float(np.abs(straight - back).max()),
                rows=int(changed.sum()),
                decisions=int((changed & other).sum()),
            )
        )
    return found


@dataclass(frozen=True)
class Longer:
    """How often the longer answer is preferred, of the `rows` where one is preferred."""

    who: str
    share: float
    error: float
    rows: int


def length_bias(judged: OofPredictions, texts: pd.DataFrame, final: str) -> list[Longer]:
    """How often people prefer the longer answer, and how often each model expects it.

    On the rows that the model `final` predicted; a model that ran on some folds alone has fewer. A
    model's share is its mean probability of the longer one, given that one is preferred.
    """
    a, b = lengths(texts["response_a"]), lengths(texts["response_b"])
    longer = np.where(a > b, 0, 1)
    winner = judged.targets.argmax(axis=1)
    rows = (winner < 2) & (a != b) & ~np.isnan(judged.probabilities[final][:, 0])
    shares = {PEOPLE: (winner == longer).astype(float)}
    for model, p in judged.probabilities.items():
        shares[model] = p[np.arange(len(p)), longer] / (p[:, 0] + p[:, 1])
    return [
        Longer(
            who,
            *clustered_mean(share[rows], judged.group[rows]),
            rows=int((~np.isnan(share[rows])).sum()),
        )
        for who, share in shares.items()
    ]


def differences(judged: OofPredictions, other: str) -> dict[str, tuple[float, float]]:
    """Mean difference of each model's row losses to those of `other`, and its standard error.

    On the rows of both; below 0 a model is better than `other`.
    """
    losses = judged.losses()
    return {
        name: clustered_mean(values - losses[other], judged.group)
        for name, values in losses.items()
    }
