import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.tables import write_table
from stages.features import _corpus

COLUMNS = ("prompt", "response_a")


@pytest.fixture
def paths(tmp_path):
    """A hundred rows, of which every fourth is a test row; the folds in another order."""
    names = [f"r{i}" for i in range(100)]
    clean = pd.DataFrame(
        {"response_a": [f"a{i}" for i in range(100)], "id": names,
         "prompt": [f"p{i} 🦦" for i in range(100)]}
    )  # fmt: skip
    write_table(clean, tmp_path / "clean.parquet")
    folds = pd.DataFrame({"id": names, "part": ["test", "train", "train", "dev"] * 25})
    write_table(folds[::-1], tmp_path / "folds.parquet")
    return tmp_path / "clean.parquet", tmp_path / "folds.parquet"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(_corpus, "ROWS", 7)
    monkeypatch.setenv("VERDICT_WORKERS", "1")


def collect(corpus, max_texts, seed=0):
    found = {column: [] for column in COLUMNS}
    for column, texts in corpus.draw(max_texts, seed):
        found[column] += texts
    return found


def test_batches_are_the_rows_of_the_table_in_its_order(paths):
    corpus = _corpus.read_corpus(*paths, COLUMNS)
    frames = list(corpus.map(lambda frame: frame))
    assert [len(frame) for frame in frames] == [7] * 14 + [2]
    expected = pd.read_parquet(paths[0])[["prompt", "response_a"]]
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), expected)
    assert corpus.ids.tolist() == [f"r{i}" for i in range(100)]
    train = [f"r{i}" for i in range(100) if i % 4 in (1, 2)]
    assert corpus.ids[corpus.is_train].tolist() == train
    assert corpus.train.ids.tolist() == train
    texts = pd.concat(corpus.train.map(lambda frame: frame["prompt"])).tolist()
    assert texts == [f"p{name[1:]} 🦦" for name in train]


def test_rows_that_the_folds_lack_are_left_out(paths):
    folds = pd.read_parquet(paths[1])
    write_table(folds[folds["id"] != "r8"], paths[1])
    corpus = _corpus.read_corpus(*paths, COLUMNS)
    found = pd.concat(corpus.map(lambda frame: frame["response_a"])).tolist()
    assert found == [f"a{i}" for i in range(100) if i != 8]
    assert [f"a{name[1:]}" for name in corpus.ids] == found


def test_row_without_a_cleaned_text_and_missing_columns_are_refused(paths):
    write_table(pd.read_parquet(paths[0])[3:], paths[0])
    with pytest.raises(InputError, match=r"clean\.parquet: no row for 3 of 100 ids, the first"):
        _corpus.read_corpus(*paths, COLUMNS)
    with pytest.raises(InputError, match=r"clean\.parquet: missing columns \['text'\]"):
        _corpus.read_corpus(*paths, ("text",))


def test_each_train_text_is_drawn_by_itself_and_all_of_few_are(paths):
    train = _corpus.read_corpus(*paths, COLUMNS).train
    texts = pd.concat(train.map(lambda frame: frame))
    everything = {column: texts[column].tolist() for column in COLUMNS}
    assert collect(train, 100) == collect(train, 10**9) == everything
    drawn = collect(train, 40)
    is_drawn = np.random.default_rng(0).random((2, 50)) < 0.4
    assert drawn == {
        column: texts.loc[own, column].tolist()
        for column, own in zip(COLUMNS, is_drawn, strict=True)
    }
    assert 25 < sum(map(len, drawn.values())) < 55
    assert collect(train, 40, seed=1) != drawn


def test_table_without_rows_is_one_batch_without_rows(paths):
    for path in paths:
        write_table(pd.read_parquet(path)[:0], path)
    corpus = _corpus.read_corpus(*paths, COLUMNS)
    assert list(corpus.map(len)) == [0]
    assert collect(corpus.train, 5) == {"prompt": [], "response_a": []}
