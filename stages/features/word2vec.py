"""Mean word vectors of each text, from word2vec trained on the texts themselves.

In: cleaned tokens and folds. Out: for each text column a dense matrix of the mean of its words'
vectors (Mikolov et al. 2013), weighted by idf (Arora et al. 2017), and the cosines between a row's
texts. Trained without labels on the train part, with one worker: gensim's threads race.

    python -m stages.features.word2vec --dataset demo
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import sparse

from stages.core.blocks import blocks_writer, read_state
from stages.core.errors import InputError
from stages.core.idf import fit_idf
from stages.core.layout import Layout
from stages.core.matrices import Floats
from stages.core.params import Params, read_params
from stages.core.tasks import read_task
from stages.features._corpus import Corpus, column_by_column, read_corpus
from stages.features._ngrams import Tokens
from stages.runtime.cli import run

log = logging.getLogger("verdict")

# gensim silently drops what a sentence has beyond this (MAX_WORDS_IN_BATCH)
LONGEST_SENTENCE = 10_000


class Word2vecParams(Params):
    """Section `word2vec`: gensim's parameters of the same names; `skip_gram` false is CBOW.

    The vectors are trained on about `max_texts` texts of the train part, drawn with `seed`.
    """

    section = "word2vec"

    dimensions: Annotated[int, Field(ge=1)] = 300
    window: Annotated[int, Field(ge=1)] = 5
    min_count: Annotated[int, Field(ge=1)] = 2
    epochs: Annotated[int, Field(ge=1)] = 5
    negative: Annotated[int, Field(ge=1)] = 5
    skip_gram: bool = True
    max_texts: Annotated[int, Field(ge=1)] = 50_000
    seed: Annotated[int, Field(ge=0)] = 0


class Sentences:
    """Token lists of texts, cut to what gensim takes; can be walked many times."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[list[str]]:
        for text in self.texts:
            words = text.split()
            for start in range(0, len(words), LONGEST_SENTENCE):
                yield words[start : start + LONGEST_SENTENCE]


def fit(texts: Sequence[str], params: Word2vecParams) -> tuple[list[str], Floats]:
    """Words, most frequent first, and their vectors `(n_words, dimensions)`.

    Raises:
        InputError: No word is frequent enough.
    """
    from gensim.models import Word2Vec

    sentences = Sentences(texts)
    model = Word2Vec(
        vector_size=params.dimensions,
        window=params.window,
        min_count=params.min_count,
        negative=params.negative,
        sg=int(params.skip_gram),
        seed=params.seed,
        workers=1,
    )
    model.build_vocab(sentences)
    if not len(model.wv):
        raise InputError(
            f"word2vec.min_count: no word is that frequent, got {params.min_count}; expected less"
        )
    model.train(sentences, total_examples=model.corpus_count, epochs=params.epochs)
    return list(model.wv.index_to_key), model.wv.vectors.astype(np.float32)


def drawn_texts(corpus: Corpus, params: Word2vecParams) -> list[str]:
    """The texts to train on, column by column."""
    texts: dict[str, list[str]] = {column: [] for column in corpus.columns}
    for column, drawn in corpus.train.draw(params.max_texts, params.seed):
        texts[column] += drawn
    return [text for own in texts.values() for text in own]


def count(texts: Iterable[str], words: Sequence[str]) -> sparse.csr_matrix:
    """How often each text has each word, `(n_texts, n_words)`; unknown words are left out."""
    index = {word: i for i, word in enumerate(words)}
    tokens = Tokens.of(text.split() for text in texts)
    columns = np.array([index.get(word, -1) for word in tokens.words], np.int32)[tokens.numbers]
    known = columns >= 0
    starts = np.append(0, np.cumsum(known))[tokens.starts]
    ones = np.ones(starts[-1], np.float32)
    counts = sparse.csr_matrix((ones, columns[known], starts), shape=(len(tokens), len(words)))
    counts.sum_duplicates()
    return counts


def mean_vectors(counts: sparse.csr_matrix, idf: Floats, vectors: Floats) -> Floats:
    """Idf-weighted mean of the vectors of each text's words, `(n_texts, dimensions)`.

    0 for a text without known words.
    """
    weights = counts @ idf
    sums = counts @ (idf[:, None] * vectors)
    known = weights[:, None] > 0
    means: Floats = np.divide(sums, weights[:, None], out=np.zeros_like(sums), where=known)
    return means


@dataclass(frozen=True)
class Vectors:
    """Words, and their vectors `(n_words, dimensions)` and idf `(n_words,)`."""

    words: Sequence[str]
    vectors: Floats
    idf: Floats

    def apply(self, texts: pd.DataFrame) -> dict[str, Floats]:
        """`mean_vectors` of each column of cleaned `texts`."""
        counts = count(column_by_column(texts), self.words)
        means = mean_vectors(counts, self.idf, self.vectors)
        return dict(zip(map(str, texts), np.split(means, texts.shape[1]), strict=True))

    @classmethod
    def load(cls, word2vec: Path) -> "Vectors":
        """Those of the folder `word2vec`."""
        state = read_state(word2vec, "vectors")
        return cls(state["words"].tolist(), state["vectors"], state["idf"])


def main(*, dataset: str) -> None:
    """Write the feature set `word2vec` from the cleaned tokens."""
    layout = Layout(dataset)
    params = read_params(Word2vecParams, layout)
    task = read_task(layout.labels)
    corpus = read_corpus(layout.clean, layout.folds, task.text_columns)
    words, vectors = fit(drawn_texts(corpus, params), params)
    idf = fit_idf(corpus.train.map(lambda texts: count(column_by_column(texts), words)))
    means = Vectors(words, vectors, idf)
    state = {"vectors": {"words": np.array(words), "vectors": vectors, "idf": idf}}
    with blocks_writer(layout.features("word2vec"), corpus.ids, state) as append:
        for blocks in corpus.map(lambda texts: task.relate(means.apply(texts))):
            append(blocks)
    log.info("word2vec: %d rows, %d words", len(corpus.ids), len(words))


if __name__ == "__main__":
    run(main)
