"""Counts of word and character n-grams, ready for idf.

In: cleaned tokens and folds. Out: for each text column a sparse matrix of sublinear term
frequencies over one vocabulary (`tfidf/`), and the coordinates of each text in the space of a
truncated SVD of the tf-idf matrix (`lsa/`: latent semantic analysis, Deerwester et al. 1990) for
models that want few dense columns.

Vocabulary and SVD are fitted without labels on texts of the train part. The idf weights of the
linear models are fitted later, inside the fold. Counting is exact and works on integers, batch by
batch (on a cluster its nodes count): in memory are the words of the texts that the vocabulary is
fitted on, and the batches at work.

    python -m stages.features.tfidf --dataset demo
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, model_validator
from scipy import sparse

from stages.core.blocks import blocks_writer, read_blocks, read_state
from stages.core.errors import InputError
from stages.core.folds import Indices
from stages.core.idf import WORD, fit_idf, weigh
from stages.core.layout import Layout
from stages.core.matrices import Block, Floats, Matrix
from stages.core.params import Params, read_params
from stages.core.tables import read_json
from stages.core.tasks import read_task
from stages.features import _corpus
from stages.features._ngrams import Pieces, Terms, Tokens, texts_with, word_ngrams
from stages.runtime import parallel
from stages.runtime.cli import run

log = logging.getLogger("verdict")

CHARACTERS = "char "  # prefix of the names of character n-grams


class NgramParams(Params):
    """N-grams of `shortest` to `longest` words or characters.

    Kept are those in `min_df` texts or more; of these the `max_features` most frequent.
    """

    shortest: Annotated[int, Field(ge=1)]
    longest: Annotated[int, Field(le=8)]
    min_df: Annotated[int, Field(ge=1)]
    max_features: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> "NgramParams":
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest must not exceed longest, got {self.shortest} and {self.longest}"
            )
        return self


class WordParams(NgramParams):
    """Word n-grams; three word numbers are what a 64-bit key holds."""

    shortest: Annotated[int, Field(ge=1)] = 1
    longest: Annotated[int, Field(le=3)] = 2
    min_df: Annotated[int, Field(ge=1)] = 2
    max_features: Annotated[int, Field(ge=1)] = 60_000


class CharacterParams(NgramParams):
    """Character n-grams."""

    shortest: Annotated[int, Field(ge=1)] = 2
    longest: Annotated[int, Field(le=8)] = 5
    min_df: Annotated[int, Field(ge=1)] = 3
    max_features: Annotated[int, Field(ge=1)] = 60_000


class TfidfParams(Params):
    """Section `tfidf`.

    The vocabulary is that of about `max_texts` texts of the train part (`min_df` counts these); the
    SVD has `lsa_components` and is fitted on about `lsa_texts`. Both are drawn with `seed`.
    """

    section = "tfidf"

    words: WordParams = WordParams()
    characters: CharacterParams = CharacterParams()
    max_texts: Annotated[int, Field(ge=1)] = 200_000
    lsa_components: Annotated[int, Field(ge=1)] = 64
    lsa_texts: Annotated[int, Field(ge=1)] = 20_000
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Vocabulary:
    """Terms in the order of their columns: word n-grams, then character n-grams."""

    words: list[str]
    characters: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each column."""
        return (
            *(f"{WORD}{term}" for term in self.words),
            *(f"{CHARACTERS}{term}" for term in self.characters),
        )

    @classmethod
    def load(cls, tfidf: Path) -> "Vocabulary":
        """That of the folder `tfidf`, from the names of its columns."""
        names: list[str] = next(iter(read_json(tfidf / "names.json").values()))
        words = [name.removeprefix(WORD) for name in names if name.startswith(WORD)]
        return cls(words, [name.removeprefix(CHARACTERS) for name in names[len(words) :]])


def cut(tokens: Tokens, params: TfidfParams) -> Pieces:
    """The character n-grams of the words of `tokens`."""
    return Pieces.of(tokens.words, params.characters.shortest, params.characters.longest)


def fit(texts: Iterable[str], params: TfidfParams) -> tuple[Vocabulary, Terms]:
    """The vocabulary of `texts`, and what counts its terms; their words are cut but once.

    Raises:
        InputError: There are too many words to number n-grams, or no n-gram is frequent enough.
    """
    tokens = Tokens.of(text.split() for text in texts)
    pieces = cut(tokens, params)
    sizes = range(params.words.shortest, params.words.longest + 1)
    if (len(tokens.words) + 1) ** sizes[-1] >= 2**63:
        raise InputError(
            f"tfidf.words.longest: too many distinct words ({len(tokens.words)}), "
            f"got {params.words.longest}; expected less"
        )
    keys, total = word_ngrams(tokens, sizes, params.words.min_df)
    places = most_frequent(total, params.words.max_features)
    words = {
        tokens.term(key): n for key, n in zip(keys[places].tolist(), total[places], strict=True)
    }
    kept = np.flatnonzero(texts_with(tokens, pieces) >= params.characters.min_df)
    n_words = np.bincount(tokens.numbers, minlength=len(tokens.words))
    total = (pieces.counts.T @ n_words.astype(np.float64))[kept]
    places = most_frequent(total, params.characters.max_features)
    characters = {pieces.grams[kept[place]]: total[place] for place in places}
    found = Vocabulary(
        _first(words, params.words.max_features),
        _first(characters, params.characters.max_features),
    )
    for name, terms in (("words", found.words), ("characters", found.characters)):
        if not terms:
            min_df = getattr(params, name).min_df
            raise InputError(
                f"tfidf.{name}.min_df: no n-gram is that frequent, got {min_df}; expected less"
            )
    return found, Terms.of(tokens, pieces, found.words, found.characters)


def most_frequent(total: npt.NDArray[Any], limit: int) -> npt.NDArray[np.intp]:
    """Places of the `limit` largest, and of what ties with the last of them."""
    if len(total) <= limit:
        return np.arange(len(total))
    return np.flatnonzero(total >= np.partition(total, -limit)[-limit])


def _first(total: Mapping[str, float], limit: int) -> list[str]:
    """The `limit` terms with the largest totals, from the largest on, ties by name.

    Frequent terms side by side stay in the processor's cache: linear models read a row of the
    matrix in half the time that it takes in the order of the alphabet.
    """
    return sorted(total, key=lambda term: (-total[term], term))[:limit]


def terms_of(vocabulary: Vocabulary, params: TfidfParams) -> Terms:
    """What counts the terms of a stored `vocabulary`."""
    tokens = Tokens.of(term.split(" ") for term in vocabulary.words)
    return Terms.of(tokens, cut(tokens, params), vocabulary.words, vocabulary.characters)


def transform(texts: Iterable[str], terms: Terms) -> sparse.csr_matrix:
    """Sublinear term frequencies 1 + log(count), `(n_texts, n_terms)`, float32; no idf yet."""
    counts = terms.count(text.split() for text in texts)
    counts.data = 1 + np.log(counts.data)
    return counts


def frequencies(texts: pd.DataFrame, terms: Terms) -> dict[str, sparse.csr_matrix]:
    """`transform` of each column of cleaned `texts`."""
    n = len(texts)
    X = transform((text for column in texts for text in texts[column]), terms)
    return {str(column): X[i * n : (i + 1) * n] for i, column in enumerate(texts)}


def apply(texts: pd.DataFrame, vocabulary: Vocabulary, params: TfidfParams) -> dict[str, Block]:
    """The blocks of new `texts`."""
    return as_blocks(frequencies(texts, terms_of(vocabulary, params)), vocabulary.names)


def as_blocks(matrices: Mapping[str, Matrix], names: tuple[str, ...]) -> dict[str, Block]:
    """Blocks of matrices with the same columns."""
    return {column: Block(X, names) for column, X in matrices.items()}


@dataclass(frozen=True)
class Latent:
    """Latent semantic analysis: idf `(n_terms,)`, components `(n_components, n_terms)`."""

    idf: Floats
    components: Floats

    def apply(self, blocks: Mapping[str, Block]) -> dict[str, Floats]:
        """Coordinates `(n_texts, n_components)` of term frequencies, by text column."""
        projection = np.ascontiguousarray(self.components.T)  # or scipy would copy it every time
        return {
            column: (weigh(block, self.idf) @ projection).astype(np.float32)
            for column, block in blocks.items()
        }

    @classmethod
    def load(cls, lsa: Path) -> "Latent":
        """That of the folder `lsa`."""
        return cls(**read_state(lsa, "svd"))


def fit_latent(blocks: Sequence[Block], params: TfidfParams, rows: Indices | None = None) -> Latent:
    """Idf of the texts in `blocks` (in their `rows`, where given), and the SVD's components."""
    from sklearn.decomposition import TruncatedSVD

    idf = fit_idf((block.X for block in blocks), rows)
    texts = [np.arange(block.X.shape[0]) if rows is None else rows for block in blocks]
    share = min(1.0, params.lsa_texts / max(sum(map(len, texts)), 1))
    rng = np.random.default_rng(params.seed)
    drawn = [own[rng.random(len(own)) < share] for own in texts]
    sample = sparse.vstack(
        [
            weigh(Block(block.X[own], block.names), idf)
            for block, own in zip(blocks, drawn, strict=True)
        ],
        format="csr",
    )
    components = min(params.lsa_components, *sample.shape)
    with parallel.one_blas_thread():
        svd = TruncatedSVD(components, random_state=params.seed).fit(sample)
    return Latent(idf, svd.components_.astype(np.float32))


def coordinates(
    matrices: Mapping[str, sparse.csr_matrix], latent: Latent, names: tuple[str, ...]
) -> dict[str, Floats]:
    """Those of term frequencies, by text column."""
    return latent.apply(as_blocks(matrices, names))


def row_batches(blocks: Mapping[str, Block]) -> Iterator[dict[str, sparse.csr_matrix]]:
    """The matrices of all blocks, some rows at a time."""
    n = next(iter(blocks.values())).X.shape[0]
    for first in range(0, max(n, 1), _corpus.ROWS):
        rows = slice(first, first + _corpus.ROWS)
        yield {column: block.X[rows] for column, block in blocks.items()}


def main(*, dataset: str) -> None:
    """Write the feature sets `tfidf` and `lsa` from the cleaned tokens."""
    layout = Layout(dataset)
    params = read_params(TfidfParams, layout)
    task = read_task(layout.labels)
    corpus = _corpus.read_corpus(layout.clean, layout.folds, task.text_columns)
    drawn = corpus.train.draw(params.max_texts, params.seed)
    vocabulary, terms = fit((text for _, texts in drawn for text in texts), params)
    names = vocabulary.names
    with blocks_writer(layout.features("tfidf"), corpus.ids) as append:
        for matrices in corpus.map(partial(frequencies, terms=terms)):
            append(as_blocks(matrices, names))
    blocks = read_blocks(layout.features("tfidf"), corpus.ids)
    latent = fit_latent(list(blocks.values()), params, np.flatnonzero(corpus.is_train))
    project = partial(coordinates, latent=latent, names=names)
    with blocks_writer(layout.features("lsa"), corpus.ids, {"svd": vars(latent)}) as append:
        for vectors in parallel.stream(project, row_batches(blocks)):
            append(task.relate(vectors))
    log.info(
        "tfidf: %d texts, %d word and %d character n-grams",
        len(corpus.ids) * len(blocks),
        len(vocabulary.words),
        len(vocabulary.characters),
    )


if __name__ == "__main__":
    run(main)
