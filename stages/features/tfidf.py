r"""Counts of word and character n-grams, ready for idf.

In: cleaned tokens and folds. Out: for each text column a sparse matrix of sublinear term
frequencies over one vocabulary (`tfidf/`), and the coordinates of each text in the space of a
truncated SVD of the tf-idf matrix (`lsa/`: latent semantic analysis, Deerwester et al. 1990) for
models that want few dense columns.

Vocabulary and SVD are fitted without labels on the train part. The idf weights of the linear models
are fitted later, inside the fold. Counting is exact and works on integers: a word n-gram is one
64-bit key made of its word numbers, and since character n-grams stay inside words, their counts are
(texts x words) @ (words x n-grams): each distinct word is cut once.

    python -m stages.features.tfidf --dataset demo --labels data/demo/labels.json \
        --clean data/demo/clean.parquet --folds data/demo/augmented/folds.parquet \
        --tfidf data/demo/tfidf --lsa data/demo/lsa
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, model_validator
from scipy import sparse

from stages.base.blocks import read_state, write_blocks
from stages.base.cli import run
from stages.base.errors import InputError
from stages.base.folds import TRAIN
from stages.base.idf import WORD, fit_idf, weigh
from stages.base.params import Params, read_params
from stages.base.tables import ID, PART, by_id, read_json, read_table
from stages.base.tasks import Block, Floats, read_task

log = logging.getLogger("verdict")

CHARACTERS = "char "  # prefix of the names of character n-grams
BATCH = 4096  # texts counted at a time: bounds the memory, changes no result
Ints = npt.NDArray[np.int64]


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

    longest: Annotated[int, Field(le=3)]


class TfidfParams(Params):
    """Section `tfidf`.

    The SVD has `lsa_components` and is fitted on about `lsa_texts` texts, drawn with `seed`.
    """

    words: WordParams
    characters: NgramParams
    lsa_components: Annotated[int, Field(ge=1)]
    lsa_texts: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


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


@dataclass(frozen=True)
class Tokens:
    """Texts as numbers of `words`: text i is `numbers[starts[i] : starts[i + 1]]`."""

    words: list[str]
    numbers: Ints
    starts: Ints

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Tokens":
        """Number the words of `texts` (split at white space) in order of first appearance."""
        index: defaultdict[str, int] = defaultdict()
        index.default_factory = index.__len__
        rows = [np.fromiter(map(index.__getitem__, text.split()), np.int64) for text in texts]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return cls(list(index), np.concatenate([*rows, np.empty(0, np.int64)]), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def ngrams(self, size: int) -> tuple[Ints, Ints]:
        """(text, key) of each word n-gram: word numbers are digits in base `len(words)`."""
        n = max(len(self.numbers) - size + 1, 0)
        text = np.repeat(np.arange(len(self)), np.diff(self.starts))
        key = np.zeros(n, np.int64)
        for step in range(size):
            key = key * len(self.words) + self.numbers[step : step + n]
        inside = (
            text[:n] == text[len(text) - n :]
        )  # an n-gram does not reach over the end of its text
        return text[:n][inside], key[inside]

    def term(self, key: int, size: int) -> str:
        """The words behind an n-gram's key, separated by a space."""
        digits = []
        for _ in range(size):
            key, digit = divmod(key, len(self.words))
            digits.append(self.words[digit])
        return " ".join(reversed(digits))

    def counts(self) -> sparse.csr_matrix:
        """How often each text has each word: `(n_texts, n_words)`."""
        ones = np.ones(len(self.numbers), np.float32)
        counts = sparse.csr_matrix(
            (ones, self.numbers, self.starts), shape=(len(self), len(self.words))
        )
        counts.sum_duplicates()
        return counts


def count_words(tokens: Tokens, terms: Sequence[str]) -> sparse.csr_matrix:
    """How often each text has each word n-gram of `terms`: `(n_texts, n_terms)`."""
    number = {word: i for i, word in enumerate(tokens.words)}
    texts, columns = [], []
    for size, members in _by_size(terms).items():
        found: dict[int, int] = {}
        for column in members:
            digits = [number[word] for word in terms[column].split(" ") if word in number]
            if len(digits) == size:
                found[reduce(lambda key, digit: key * len(number) + digit, digits, 0)] = column
        if found:
            keys = np.fromiter(sorted(found), np.int64)
            text, key = tokens.ngrams(size)
            place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            hit = keys[place] == key
            texts.append(text[hit])
            columns.append(np.fromiter((found[key] for key in keys.tolist()), np.int64)[place[hit]])
    rows = np.concatenate([*texts, np.empty(0, np.int64)])
    data = np.ones(len(rows), np.float32)
    shape = (len(tokens), len(terms))
    return sparse.csr_matrix(
        (data, (rows, np.concatenate([*columns, np.empty(0, np.int64)]))), shape=shape
    )


def count_characters(
    tokens: Tokens, terms: Sequence[str], params: NgramParams
) -> sparse.csr_matrix:
    """How often each text has each character n-gram of `terms`: `(n_texts, n_terms)`."""
    cut = _cutter(params, dict(zip(terms, range(len(terms)), strict=True))).transform(tokens.words)
    return (tokens.counts() @ cut.astype(np.float32)).tocsr()


def fit_words(tokens: Tokens, params: NgramParams) -> list[str]:
    """The word n-grams of the vocabulary, sorted."""
    found: list[str] = []
    frequency: list[int] = []
    for size in range(params.shortest, params.longest + 1):
        text, key = tokens.ngrams(size)
        keys, column, total = np.unique(key, return_inverse=True, return_counts=True)
        n_texts = np.bincount(
            np.unique(text * len(keys) + column) % max(len(keys), 1), minlength=len(keys)
        )
        kept = n_texts >= params.min_df
        found += [tokens.term(key, size) for key in keys[kept].tolist()]
        frequency += total[kept].tolist()
    return _most_frequent(found, np.array(frequency), params.max_features)


def fit_characters(tokens: Tokens, params: NgramParams) -> list[str]:
    """The character n-grams of the vocabulary, sorted."""
    if not tokens.words:
        return []
    cutter = _cutter(params)
    cut = cutter.fit_transform(tokens.words).astype(np.float32)
    counts = tokens.counts()
    n_texts = np.zeros(cut.shape[1], np.int64)
    for start in range(0, len(tokens), BATCH):
        product = counts[start : start + BATCH] @ cut
        n_texts += np.bincount(product.indices, minlength=cut.shape[1])
    total = cut.T @ np.asarray(counts.sum(axis=0)).ravel().astype(np.float64)
    kept = n_texts >= params.min_df
    return _most_frequent(
        cutter.get_feature_names_out()[kept].tolist(), total[kept], params.max_features
    )


def fit(texts: Iterable[str], params: TfidfParams) -> Vocabulary:
    """The vocabulary of `texts`.

    Raises:
        InputError: There are too many words to number n-grams, or no n-gram is frequent enough.
    """
    tokens = Tokens.of(texts)
    if len(tokens.words) ** params.words.longest >= 2**63:
        raise InputError(
            f"tfidf.words.longest: too many distinct words ({len(tokens.words)}), "
            f"got {params.words.longest}; expected less"
        )
    found = Vocabulary(fit_words(tokens, params.words), fit_characters(tokens, params.characters))
    for name, terms in (("words", found.words), ("characters", found.characters)):
        if not terms:
            min_df = getattr(params, name).min_df
            raise InputError(f"tfidf.{name}.min_df: no n-gram is that frequent, got {min_df}")
    return found


def transform(
    texts: Iterable[str], vocabulary: Vocabulary, params: TfidfParams
) -> sparse.csr_matrix:
    """Sublinear term frequencies 1 + log(count), `(n_texts, n_terms)`, float32; no idf yet."""
    tokens = Tokens.of(texts)
    counts = sparse.hstack(
        [
            count_words(tokens, vocabulary.words),
            count_characters(tokens, vocabulary.characters, params.characters),
        ],
        format="csr",
        dtype=np.float32,
    )
    counts.sort_indices()
    counts.data = 1 + np.log(counts.data)
    return counts


def apply(texts: pd.DataFrame, vocabulary: Vocabulary, params: TfidfParams) -> dict[str, Block]:
    """`transform` of each column of cleaned `texts`."""
    names = vocabulary.names
    return {
        str(column): Block(transform(texts[column], vocabulary, params), names) for column in texts
    }


@dataclass(frozen=True)
class Latent:
    """Latent semantic analysis: idf `(n_terms,)`, components `(n_components, n_terms)`."""

    idf: Floats
    components: Floats

    def apply(self, blocks: Mapping[str, Block]) -> dict[str, Floats]:
        """Coordinates `(n_texts, n_components)` of term frequencies, by text column."""
        return {
            column: (weigh(block, self.idf) @ self.components.T).astype(np.float32)
            for column, block in blocks.items()
        }

    @classmethod
    def load(cls, lsa: Path) -> "Latent":
        """That of the folder `lsa`."""
        return cls(**read_state(lsa, "svd"))


def fit_latent(blocks: Sequence[Block], params: TfidfParams) -> Latent:
    """Idf of the texts in `blocks`, and the SVD's components."""
    from sklearn.decomposition import TruncatedSVD

    idf = fit_idf(block.X for block in blocks)
    n_texts = sum(block.X.shape[0] for block in blocks)
    share = min(1.0, params.lsa_texts / max(n_texts, 1))
    rng = np.random.default_rng(params.seed)
    drawn = [rng.random(block.X.shape[0]) < share for block in blocks]
    sample = sparse.vstack(
        [
            weigh(Block(block.X[rows], block.names), idf)
            for block, rows in zip(blocks, drawn, strict=True)
        ],
        format="csr",
    )
    components = min(params.lsa_components, *sample.shape)
    svd = TruncatedSVD(components, random_state=params.seed).fit(sample)
    return Latent(idf, svd.components_.astype(np.float32))


def _cutter(params: NgramParams, vocabulary: dict[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    sizes = (params.shortest, params.longest)
    return CountVectorizer(
        analyzer="char_wb", ngram_range=sizes, lowercase=False, vocabulary=vocabulary
    )


def _by_size(terms: Sequence[str]) -> dict[int, list[int]]:
    sizes: dict[int, list[int]] = {}
    for column, term in enumerate(terms):
        sizes.setdefault(term.count(" ") + 1, []).append(column)
    return sizes


def _most_frequent(terms: list[str], frequency: npt.NDArray[Any], limit: int) -> list[str]:
    order = sorted(range(len(terms)), key=lambda i: (-frequency[i], terms[i]))
    return sorted(terms[i] for i in order[:limit])


def main(*, dataset: str, labels: Path, clean: Path, folds: Path, tfidf: Path, lsa: Path) -> None:
    """Write the folders `tfidf` and `lsa` from the cleaned tokens."""
    params = read_params(TfidfParams, dataset, "tfidf")
    task = read_task(labels)
    parts = read_table(folds, [ID, PART])
    texts = by_id(read_table(clean, [ID, *task.text_columns]), parts[ID], clean)
    is_train = (parts[PART] == TRAIN).to_numpy()
    vocabulary = fit(
        (text for column in task.text_columns for text in texts.loc[is_train, column]), params
    )
    blocks = apply(texts[list(task.text_columns)], vocabulary, params)
    latent = fit_latent(
        [Block(block.X[is_train], block.names) for block in blocks.values()], params
    )
    write_blocks(tfidf, parts[ID], blocks)
    write_blocks(lsa, parts[ID], task.relate(latent.apply(blocks)), {"svd": vars(latent)})
    log.info(
        "tfidf: %d texts, %d word and %d character n-grams",
        len(texts) * len(blocks),
        len(vocabulary.words),
        len(vocabulary.characters),
    )


if __name__ == "__main__":
    run(main)
