import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gensim.models.word2vec import MAX_WORDS_IN_BATCH

from stages.core.blocks import read_blocks
from stages.core.errors import InputError
from stages.core.idf import fit_idf
from stages.features import _corpus, word2vec
from tests.given import write_params

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {
    "dimensions": 8, "window": 3, "min_count": 1, "epochs": 2, "negative": 5, "skip_gram": False,
    "max_texts": 1000,    "seed": 0,
}  # fmt: skip
TEXTS = ["the cat sat on the mat", "", "🦦 the dog sat", "unseen 🦦", "dog " * 5]


def make_params(**changes):
    return word2vec.Word2vecParams(**(GIVEN | changes))


def test_mean_vectors_equal_a_plain_loop():
    words, vectors = word2vec.fit(TEXTS[:3], make_params())
    idf = np.linspace(1, 2, len(words)).astype(np.float32)
    found = word2vec.mean_vectors(word2vec.count(TEXTS, words), idf, vectors)
    for text, mean in zip(TEXTS, found, strict=True):
        known = [words.index(word) for word in text.split() if word in words]
        expected = np.average(vectors[known], axis=0, weights=idf[known]) if known else np.zeros(8)
        np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_text_without_known_words_is_zero():
    counts = word2vec.count(["", "unknown"], ["known"])
    found = word2vec.mean_vectors(counts, np.ones(1, np.float32), np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(found, np.zeros((2, 4)))


def test_text_beyond_what_gensim_takes_at_once_loses_no_word():
    assert word2vec.LONGEST_SENTENCE == MAX_WORDS_IN_BATCH
    text = "early words " * 5_000 + "late ones " * 6_000
    sentences = list(word2vec.Sentences([text, "", "short"]))
    assert [len(sentence) for sentence in sentences] == [10_000, 10_000, 2_000, 1]
    assert [word for words in sentences for word in words] == [*text.split(), "short"]

    words, vectors = word2vec.fit([text], make_params(epochs=1))
    longer = word2vec.fit([text], make_params(epochs=2))[1]
    moved = np.abs(longer - vectors).max(axis=1)
    assert moved[words.index("late")] > 0.01  # words at its end were trained on too


def test_word_that_is_too_rare_is_left_out_and_none_left_is_an_error():
    assert set(word2vec.fit(TEXTS, make_params(min_count=3))[0]) == {"the", "dog"}
    with pytest.raises(InputError, match=r"word2vec\.min_count: no word .* got 7; expected less"):
        word2vec.fit(TEXTS, make_params(min_count=7))


@pytest.fixture
def inputs(tmp_path, layout):
    """The tables of the stage, and its params; where they are."""
    write_params(tmp_path, "tiny", word2vec=GIVEN)
    return layout


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_stage_writes_the_same_bytes_in_two_processes(inputs):
    folder = inputs.features("word2vec")
    subprocess.run(
        [sys.executable, "-m", "stages.features.word2vec", "--dataset", "tiny"],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": str(ROOT)},
    )
    one = contents(folder)
    shutil.rmtree(folder)
    word2vec.main(dataset="tiny")
    assert list(one) == [
        *("ids.parquet", "names.json", "pair.npy", "prompt.npy", "response_a.npy"),
        *("response_b.npy", "vectors.state.npz"),
    ]
    assert contents(folder) == one


def test_words_of_test_rows_alone_get_no_vector(inputs):
    word2vec.main(dataset="tiny")
    folder = inputs.features("word2vec")
    with np.load(folder / "vectors.state.npz") as state:
        assert "held" not in state["words"].tolist()
        assert "w1" in state["words"].tolist()
    blocks = read_blocks(folder, pd.Series(list("abcd")))
    assert {key: block.X.shape for key, block in blocks.items()} == {
        "prompt": (4, 8), "response_a": (4, 9), "response_b": (4, 9), "pair": (4, 1),
    }  # fmt: skip


def test_batches_change_nothing_and_means_are_those_of_the_whole_table(monkeypatch, inputs):
    folder = inputs.features("word2vec")
    found = []
    for rows in (1, 3, 1000):
        monkeypatch.setattr(_corpus, "ROWS", rows)
        word2vec.main(dataset="tiny")
        found.append(contents(folder))
        shutil.move(folder, f"{rows} rows a batch")
    assert found[0] == found[1] == found[2]

    texts = pd.read_parquet(inputs.clean).set_index("id")
    train = [text for column in texts for text in texts[column].drop("c")]
    words, vectors = word2vec.fit(train, make_params())
    idf = fit_idf([word2vec.count(train, words)])
    blocks = read_blocks(Path("1 rows a batch"), pd.Series(texts.index))
    expected = word2vec.mean_vectors(word2vec.count(texts["prompt"], words), idf, vectors)
    np.testing.assert_array_equal(blocks["prompt"].X, expected)


def test_vectors_are_trained_on_the_texts_that_are_drawn(tmp_path, inputs):
    paths = inputs.clean, inputs.folds
    corpus = _corpus.read_corpus(*paths, ("prompt", "response_a"))
    few, all_of_them = (
        word2vec.drawn_texts(corpus, make_params(max_texts=max_texts)) for max_texts in (3, 6)
    )
    clean = pd.read_parquet(inputs.clean).drop(index=2)
    assert all_of_them == [*clean["prompt"], *clean["response_a"]]
    assert 0 < len(few) < 6
    write_params(tmp_path, "tiny", word2vec=GIVEN | {"max_texts": 3})
    word2vec.main(dataset="tiny")
    corpus = _corpus.read_corpus(*paths, tuple(clean.columns[1:]))
    drawn = word2vec.drawn_texts(corpus, make_params(max_texts=3))
    with np.load(inputs.features("word2vec") / "vectors.state.npz") as state:
        assert set(state["words"].tolist()) == {word for text in drawn for word in text.split()}
