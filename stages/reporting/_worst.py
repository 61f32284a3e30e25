"""The rows that a model got most wrong, as a person would read them.

Answers are shown as Markdown, as chat pages do, of which only what cannot harm is left: HTML stays
text, and there are no links and no images. All other text is escaped by the template.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from stages.core.matrices import Floats
from stages.evaluation.scoring.metrics import decide
from stages.evaluation.scoring.oof import OofPredictions, characters

ROWS = 20
LONGEST = 3000  # characters of a text that are shown
CHANCES = 6  # classes whose probability is shown, of many
FORBIDDEN = ["image", "link", "autolink", "html_block", "html_inline", "reference"]


@dataclass(frozen=True)
class Chance:
    """The probability that a row was given of a class."""

    name: str
    probability: float
    actual: bool
    given: bool


@dataclass(frozen=True)
class Turn:
    """What stands side by side: the prompt and both answers, or a text alone; None: nothing."""

    asked: str | None
    answers: tuple[Markup | None, ...]


@dataclass(frozen=True)
class Row:
    """One badly predicted row."""

    id: str
    loss: float
    chances: list[Chance]
    turns: list[Turn]
    hidden: int  # characters that are not shown

    def names(self, what: str) -> str:
        """The classes that the row has (`actual`) or was given (`given`)."""
        return ", ".join(c.name for c in self.chances if getattr(c, what)) or "(none)"


def worst_rows(
    judged: OofPredictions, model: str, texts: pd.DataFrame, thresholds: Mapping[str, float]
) -> list[Row]:
    """The 20 rows with the largest log loss; of equal ones the first."""
    losses = judged.losses()[model]
    known = np.flatnonzero(~np.isnan(losses))
    chosen = known[np.argsort(-losses[known], kind="stable")][:ROWS]
    targets, p = judged.targets[chosen], judged.probabilities[model][chosen]
    limits = np.array([thresholds.get(name, 0.5) for name in judged.task.classes])
    actual, given = judged.task.has_classes(targets), decide(judged.task, p, limits)
    found = []
    for k, row in enumerate(chosen):
        turns, hidden = _read(texts.iloc[row].to_dict(), symmetric=judged.task.symmetric)
        chances = _chances(judged.task.classes, p[k], actual[k], given[k])
        found.append(Row(str(judged.ids[row]), float(losses[row]), chances, turns, hidden))
    return found


def _chances(names: tuple[str, ...], p: Floats, actual: Any, given: Any) -> list[Chance]:
    """All classes of a few, in their order; of many those that count, the likeliest first."""
    chances = [
        Chance(name, float(p[k]), bool(actual[k]), bool(given[k])) for k, name in enumerate(names)
    ]
    if len(chances) <= CHANCES:
        return chances
    ranked = sorted(chances, key=lambda c: -c.probability)
    likeliest = ranked[:CHANCES]
    return [c for c in ranked if c.actual or c.given or c in likeliest]


def _read(texts: Mapping[str, list[str | None]], *, symmetric: bool) -> tuple[list[Turn], int]:
    shown = {name: list(_head(turns)) for name, turns in texts.items()}
    hidden = sum(characters(texts[name]) - characters(shown[name]) for name in texts)
    if not symmetric:
        return [Turn(text, ()) for text in shown["text"]], hidden
    together = zip_longest(shown["prompt"], shown["response_a"], shown["response_b"])
    return [Turn(asked, tuple(map(markdown, answers))) for asked, *answers in together], hidden


def _head(turns: list[str | None]) -> Iterator[str | None]:
    """The first characters of a text, as many as are shown, turn by turn."""
    left = LONGEST
    for turn in turns:
        if left <= 0:
            return
        yield readable(turn[:left]) if turn is not None else None
        left -= len(turn or "")


def readable(text: str) -> str:
    """Text that can be written as UTF-8: a lone surrogate becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown(text: str | None) -> Markup | None:
    """Markdown as HTML without anything that loads, leads away, or disturbs the page."""
    if text is None:
        return None
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
    parser.disable(FORBIDDEN)
    tokens = parser.parse(text)
    for token in tokens:
        token.attrs.pop("style", None)  # of aligned cells: the page allows no inline style
        if token.tag in {"h1", "h2", "h3", "h4", "h5", "h6"}:
            token.tag = "p"  # the headings of the page are its own
            if token.nesting == 1:
                token.attrs["class"] = "heading"
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - escaped above
