"""Level the classes of the train part with varied copies of the rows of rarer ones.

In: rows and folds. Out: both again, with the copies behind them. On request the text of every row
first gets a word for what the amounts in it did (`_comparisons.py`; `predict` does the same). A
copy is of the part `augmented` and has the fold and the group of its source, so that it is trained
on where its source is, and never else; it is neither predicted nor judged. Classes are counted
within each fold, so that no fold knows of another.

A copy differs from its source by one of the operations of EDA (Wei and Zou 2019), drawn at random:
words replaced by a WordNet synonym, pairs of words swapped, words deleted. A row of several labels
is copied with all of them. `data/<dataset>/augmented/` is what features and models read.

    python -m stages.data.augment --dataset demo
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from stages.core.folds import AUGMENTED, read_folds
from stages.core.layout import Layout
from stages.core.params import Params, read_params
from stages.core.tables import ID, PART, by_id, read_table, write_json, write_table
from stages.core.tasks import read_task
from stages.data._nltk import GET_WORDNET, from_nltk_data
from stages.data.comparisons import put_into_words
from stages.runtime.cli import run

log = logging.getLogger("verdict")

WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’]\w+)*")
Operation = Callable[[list[str], np.random.Generator], list[str]]
Share = Annotated[float, Field(ge=0, le=1)]


class VariationParams(Params):
    """Shares of a text's words (at least one word each) that an operation changes; 0 leaves it out.

    Wei and Zou (2019) advise 0.05 for many texts and 0.1 for few. `synonyms` needs WordNet.
    """

    synonyms: Share = 0.0
    swaps: Share = 0.0
    deletions: Share = 0.0

    @model_validator(mode="after")
    def _some(self) -> "VariationParams":
        if not any((self.synonyms, self.swaps, self.deletions)):
            raise ValueError("expected at least one share above 0, got none")
        return self


class AugmentParams(Params):
    """Section `augment`; `variation: null` makes no copies.

    `comparisons` adds a word for what the amounts did that an English text compares. Each class is
    filled up to the share `level` of the most frequent class of its fold, with at most `copies`
    copies of a row.
    """

    section = "augment"

    comparisons: bool = False
    variation: VariationParams | None = None
    level: Annotated[float, Field(gt=0, le=1)] = 0.1
    copies: Annotated[int, Field(ge=1)] = 4
    seed: Annotated[int, Field(ge=0)] = 0


def sources(targets: npt.NDArray[Any], params: AugmentParams) -> npt.NDArray[np.intp]:
    """Numbers of the rows to copy, as often as they stand there, of rows that belong together.

    The rarest class is filled up first; what that adds to the others counts for them.

    Args:
        targets: `(n_rows, n_classes)`; a row has the classes of one half and more.
        params: How far, and the seed.
    """
    rng = np.random.default_rng(params.seed)
    has = targets >= 0.5
    size = has.sum(axis=0)
    wanted = round(params.level * size.max(initial=0))
    used = np.zeros(len(targets), np.intp)
    drawn: list[int] = []
    for k in np.argsort(size, kind="stable"):
        own = np.flatnonzero(has[:, k])
        missing = wanted - int(size[k])
        while missing > 0:  # each row once a round: all are copied equally often
            free = own[used[own] < params.copies]
            if not len(free):
                break
            taken = rng.permutation(free[used[free] == used[free].min()])[:missing]
            used[taken] += 1
            size = size + has[taken].sum(axis=0)
            missing -= len(taken)
            drawn += taken.tolist()
    return np.array(drawn, np.intp)


def make_operations(params: VariationParams) -> list[Operation]:
    """The operations with a share above 0: words (and what stands between them) to such.

    A text is a list of words at odd places and what surrounds them at even ones.

    Raises:
        InputError: WordNet is needed and not installed.
    """
    made: list[tuple[float, Callable[[float], Operation]]] = [
        (params.synonyms, _replace),
        (params.swaps, _swap),
        (params.deletions, _delete),
    ]
    return [make(share) for share, make in made if share]


def vary(text: Any, operations: Sequence[Operation], rng: np.random.Generator) -> Any:
    """A text, or list of turns, changed by one operation; one without words stays as it is."""
    if text is None:
        return None
    if not isinstance(text, str):
        return [vary(turn, operations, rng) for turn in text]
    pieces = _pieces(text)
    if len(pieces) < 2:
        return text
    return "".join(operations[int(rng.integers(len(operations)))](pieces, rng))


def _pieces(text: str) -> list[str]:
    pieces, end = [], 0
    for word in WORD.finditer(text):
        pieces += [text[end : word.start()], word.group()]
        end = word.end()
    return [*pieces, text[end:]]


def _places(pieces: list[str], share: float, rng: np.random.Generator) -> list[int]:
    words = np.arange(1, len(pieces), 2)
    chosen: list[int] = rng.permutation(words)[: max(1, round(share * len(words)))].tolist()
    return chosen


def _replace(share: float) -> Operation:
    find = make_synonyms()

    def replace(pieces: list[str], rng: np.random.Generator) -> list[str]:
        changed, left = list(pieces), max(1, round(share * (len(pieces) // 2)))
        for place in _places(pieces, 1.0, rng):
            synonyms = find(pieces[place].lower())
            if synonyms and left:
                changed[place] = synonyms[int(rng.integers(len(synonyms)))]
                left -= 1
        return changed

    return replace


def _swap(share: float) -> Operation:
    def swap(pieces: list[str], rng: np.random.Generator) -> list[str]:
        changed = list(pieces)
        for place in _places(pieces, share, rng):
            other = int(rng.choice(np.arange(1, len(pieces), 2)))
            changed[place], changed[other] = changed[other], changed[place]
        return changed

    return swap


def _delete(share: float) -> Operation:
    def delete(pieces: list[str], rng: np.random.Generator) -> list[str]:
        if len(pieces) < 4:
            return pieces  # the only word stays
        lost = set(_places(pieces, min(share, 1 - 2 / len(pieces)), rng))
        return [
            "" if i in lost or (i + 1 in lost and piece == " ") else piece
            for i, piece in enumerate(pieces)
        ]

    return delete


def make_synonyms() -> Callable[[str], Sequence[str]]:
    """For a word in lower case the lemmas of all its WordNet synsets, sorted; stop words have none.

    Raises:
        InputError: WordNet is not installed.
    """
    from nltk.corpus import wordnet
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    from_nltk_data("augment.variation.synonyms", GET_WORDNET, lambda: wordnet.synsets("word"))

    @cache
    def synonyms(word: str) -> Sequence[str]:
        if word in ENGLISH_STOP_WORDS:
            return ()
        lemmas = {name for synset in wordnet.synsets(word) for name in synset.lemma_names()}
        return sorted({re.sub("[_-]", " ", lemma.lower()) for lemma in lemmas} - {word})

    return synonyms


def copied(table: pd.DataFrame, drawn: npt.NDArray[np.intp]) -> pd.DataFrame:
    """The rows `drawn` of a table, each copy with an id and the part of its own."""
    chosen = table.iloc[drawn].reset_index(drop=True)
    number = chosen.groupby(ID).cumcount() + 1
    ids = [f"{name} (copy {n})" for name, n in zip(chosen[ID], number, strict=True)]
    return chosen.assign(**{ID: ids, PART: AUGMENTED})


def main(*, dataset: str) -> None:
    """Write rows and folds with the copies behind them."""
    layout = Layout(dataset)
    params = read_params(AugmentParams, layout)
    task = read_task(layout.labels)
    stored = read_folds(layout.folds, task)
    fold_table = read_table(layout.folds)
    table = by_id(read_table(layout.rows), fold_table[ID], layout.rows)
    if params.comparisons:
        table = put_into_words(table, task.text_columns)
    if params.variation is not None:
        held = [stored.held(fold) for fold in stored.numbers]
        drawn = np.concatenate([own[sources(stored.targets[own], params)] for own in held])
        operations = make_operations(params.variation)
        rng = np.random.default_rng(params.seed)
        copies = copied(table, drawn)
        for column in task.text_columns:
            texts = tqdm(copies[column], desc="augment", unit="text", disable=None)
            copies[column] = [vary(text, operations, rng) for text in texts]
        table = pd.concat([table, copies], ignore_index=True)
        fold_table = pd.concat([fold_table, copied(fold_table, drawn)], ignore_index=True)
    write_table(table, layout.augmented_rows)
    write_table(fold_table, layout.augmented_folds)
    n_copies = len(table) - len(stored.ids)
    write_json({"train_rows": len(stored.train(None)), "copies": n_copies}, layout.augment)
    log.info("augment: %d copies beside %d rows", n_copies, len(stored.ids))


if __name__ == "__main__":
    run(main)
