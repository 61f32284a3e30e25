import shutil
import weakref

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from threadpoolctl import threadpool_limits

from stages.core.blocks import read_blocks
from stages.core.errors import InputError
from stages.core.idf import fit_idf, weigh
from stages.core.matrices import Block
from stages.features import _corpus, _ngrams, tfidf
from tests.given import write_params

TEXTS = [
    "the cat sat on the mat",
    "",
    "the dog 🦦 sat sat sat",
    "🦦🦦 Ünïcode ẞ the CAT",
    " \t two  spaces\nand a\u00a0no-break space \u2028 x",
    "a",
    "cat",
    "sat on the mat the cat",
]
HELD = ["the unknown words sat", "", "🦦", "cat cat 🐙 cat the cat", "zzz"]


def make_params(min_df=1, max_features=10_000, words=(1, 2), characters=(2, 4)):
    limits = {"min_df": min_df, "max_features": max_features}
    return tfidf.TfidfParams(
        words=tfidf.WordParams(shortest=words[0], longest=words[1], **limits),
        characters=tfidf.CharacterParams(shortest=characters[0], longest=characters[1], **limits),
        max_texts=1000, lsa_components=3, lsa_texts=100, seed=0,
    )  # fmt: skip


def transform(texts, vocabulary, params):
    return tfidf.transform(texts, tfidf.terms_of(vocabulary, params))


def encode(texts, held, params):
    """Names and tf-idf of `held`, everything fitted on `texts`."""
    vocabulary, _ = tfidf.fit(texts, params)
    idf = fit_idf([transform(texts, vocabulary, params)])
    block = Block(transform(held, vocabulary, params), vocabulary.names)
    return vocabulary, weigh(block, idf)


def oracle(texts, held, params):
    parts = [
        TfidfVectorizer(
            ngram_range=(own.shortest, own.longest), min_df=own.min_df,
            sublinear_tf=True, lowercase=False, **tokens,
        ).fit(texts)
        for own, tokens in (
            (params.words, {"token_pattern": r"\S+"}),
            (params.characters, {"analyzer": "char_wb"}),
        )
    ]  # fmt: skip
    names = [part.get_feature_names_out().tolist() for part in parts]
    return names, sparse.hstack([part.transform(held) for part in parts]).toarray()


def check_against_scikit_learn(texts, held, params):
    vocabulary, found = encode(texts, held, params)
    names, expected = oracle(texts, held, params)
    assert [sorted(vocabulary.words), sorted(vocabulary.characters)] == names
    place = {name: i for i, name in enumerate(vocabulary.names)}
    by_name = [place[f"word {name}"] for name in names[0]]
    by_name += [place[f"char {name}"] for name in names[1]]
    np.testing.assert_allclose(found.toarray()[:, by_name], expected, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("min_df", [1, 2])
@pytest.mark.parametrize("words", [(1, 1), (1, 2), (2, 3)])
def test_tf_idf_is_that_of_scikit_learn(min_df, words):
    params = make_params(min_df=min_df, words=words)
    check_against_scikit_learn(TEXTS, TEXTS, params)
    check_against_scikit_learn(TEXTS, HELD, params)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("ab🦦é \n", max_size=12), min_size=1, max_size=6),
    held=st.lists(st.text("abc🦦 ", max_size=12), min_size=1, max_size=3),
)
def test_tf_idf_is_that_of_scikit_learn_on_any_text(texts, held):
    check_against_scikit_learn(["a b", *texts], held, make_params())


def test_most_frequent_terms_are_kept_and_come_first_ties_by_name():
    params = make_params(max_features=3, words=(1, 1), characters=(1, 1))
    vocabulary, _ = tfidf.fit(["c c c b b a", "b b d d a"], params)
    assert vocabulary.words == ["b", "c", "a"]  # a and d stand twice: a comes first
    assert len(vocabulary.characters) == 3


def test_words_that_are_known_beforehand_change_no_count():
    params = make_params()
    vocabulary, terms = tfidf.fit(TEXTS, params)
    assert {"CAT", "a"} < set(terms.number)
    found = tfidf.transform(HELD, terms)
    np.testing.assert_array_equal(found.toarray(), transform(HELD, vocabulary, params).toarray())
    assert found.indices.tolist() == transform(HELD, vocabulary, params).indices.tolist()


@pytest.mark.parametrize("min_df", [1, 2, 300])
def test_hash_tables_that_are_full_grow_and_rare_ngrams_are_left_out(monkeypatch, min_df):
    monkeypatch.setattr(_ngrams, "SLOTS", 4)
    rng = np.random.default_rng(0)
    texts = ["the cat " + " ".join(rng.choice(list("abcdefgh"), 8)) for _ in range(400)]
    params = make_params(min_df=min_df, words=(1, 3), characters=(1, 2))
    found, _ = tfidf.fit(texts, params)
    words = CountVectorizer(ngram_range=(1, 3), min_df=min_df, token_pattern=r"\S+").fit(texts)
    assert sorted(found.words) == words.get_feature_names_out().tolist()


def test_row_does_not_depend_on_the_other_rows():
    params = make_params()
    vocabulary, _ = tfidf.fit(TEXTS, params)
    together = transform(HELD, vocabulary, params).toarray()
    alone = [transform([text], vocabulary, params).toarray()[0] for text in HELD]
    np.testing.assert_array_equal(together, alone)


def test_svd_is_that_of_the_weighed_matrix_and_the_same_twice():
    params = make_params()
    vocabulary, _ = tfidf.fit(TEXTS, params)
    columns = (TEXTS, [*HELD, *TEXTS[len(HELD) :]])
    blocks = [Block(transform(texts, vocabulary, params), vocabulary.names) for texts in columns]
    rows = np.arange(len(TEXTS))
    latent = tfidf.fit_latent(blocks, rows, params)
    weighed = np.vstack([weigh(block, latent.idf).toarray() for block in blocks])
    expected = np.linalg.svd(weighed, full_matrices=False)[2][:3]
    np.testing.assert_allclose(abs(np.sum(latent.components * expected, axis=1)), 1, atol=1e-4)
    again = tfidf.fit_latent(blocks, rows, params)
    np.testing.assert_array_equal(again.components, latent.components)


def test_svd_does_not_depend_on_the_threads_of_blas():
    rng = np.random.default_rng(0)
    X = sparse.random(4000, 1500, 0.02, "csr", np.float32, random_state=rng)
    block = Block(X, tuple(map(str, range(1500))))
    found = []
    for n in (1, 2):
        with threadpool_limits(limits=n):
            params = make_params().model_copy(update={"lsa_components": 64, "lsa_texts": 4000})
            found.append(tfidf.fit_latent([block], np.arange(4000), params).components)
    np.testing.assert_array_equal(*found)


def test_keys_that_would_not_fit_into_64_bits_are_refused(monkeypatch):
    many = tfidf.Tokens(range(2_100_000), np.empty(0, int), np.zeros(1, int))
    monkeypatch.setattr(tfidf.Tokens, "of", lambda _: many)
    with pytest.raises(
        InputError, match=r"tfidf\.words\.longest: too many distinct words \(2100000"
    ):
        tfidf.fit([], make_params(words=(1, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"longest": 4}, "less than or equal to 3"), ({"shortest": 3}, "must not exceed longest")],
)
def test_sizes_out_of_range_are_refused(changes, message):
    given = {"shortest": 1, "longest": 2, "min_df": 1, "max_features": 10}
    with pytest.raises(ValidationError, match=message):
        tfidf.WordParams(**(given | changes))


@pytest.fixture
def inputs(tmp_path, monkeypatch, layout):
    """The tables of the stage, and its params; where they are."""
    write_params(tmp_path, "tiny", tfidf=make_params().model_dump(mode="json"))
    monkeypatch.setenv("VERDICT_WORKERS", "1")
    return layout


def run_stage(inputs):
    """The files of both feature sets, written afresh."""
    folder = inputs.features("tfidf").parent
    shutil.rmtree(folder, ignore_errors=True)
    tfidf.main(dataset="tiny")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}


def test_stage_writes_what_the_whole_table_gives_whatever_the_batches(monkeypatch, inputs):
    found = []
    for rows in (1, 3, 1000):
        monkeypatch.setattr(_corpus, "ROWS", rows)
        found.append(run_stage(inputs))
    assert len(found[0]) == (2 + 3 * 3) + (2 + 4 + 1)  # of tfidf, of lsa
    assert found[0] == found[1] == found[2]

    params = make_params()
    texts = pd.read_parquet(inputs.clean).set_index("id")
    train = [text for column in texts for text in texts[column].drop("c")]
    vocabulary, _ = tfidf.fit(train, params)
    blocks = read_blocks(inputs.features("tfidf"), pd.Series(texts.index))
    for column, block in blocks.items():
        assert block.names == vocabulary.names
        expected = transform(texts[column], vocabulary, params)
        np.testing.assert_array_equal(block.X.toarray(), expected.toarray())


def test_stage_holds_a_batch_and_not_the_matrix(monkeypatch, inputs):
    made, alive = [], []
    frequencies = tfidf.frequencies

    def spy(texts, terms):
        alive.append(sum(each() is not None for each in made))
        found = frequencies(texts, terms)
        made.extend(map(weakref.ref, found.values()))
        return found

    monkeypatch.setattr(tfidf, "frequencies", spy)
    monkeypatch.setattr(_corpus, "ROWS", 1)
    run_stage(inputs)
    assert len(made) == 4 * 3
    assert max(alive) <= 3


def test_vocabulary_is_that_of_the_texts_that_are_drawn(tmp_path, monkeypatch, inputs):
    draw = _corpus.Corpus.draw
    drawn = []

    def spy(corpus, max_texts, seed):
        for column, texts in draw(corpus, max_texts, seed):
            drawn.extend(texts)
            yield column, texts

    params = make_params().model_copy(update={"max_texts": 3})
    write_params(tmp_path, "tiny", tfidf=params.model_dump(mode="json"))
    monkeypatch.setattr(_corpus.Corpus, "draw", spy)
    run_stage(inputs)
    assert 0 < len(drawn) < 9
    found = tfidf.Vocabulary.load(inputs.features("tfidf"))
    assert found == tfidf.fit(drawn, params)[0]
