import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.layout import Layout
from stages.core.predictions import prediction_table
from stages.core.tables import write_json, write_table
from stages.core.tasks import MultiLabel
from stages.data import augment
from tests.given import write_params

TEXT = "I love the big dog, don't you?"
LAYOUT = Layout("tiny")
EVERY = augment.VariationParams(synonyms=0, swaps=0.2, deletions=0.2)


def make_params(**changes):
    values = {
        "comparisons": False,
        "variation": None,
        "level": 1.0,
        "copies": 100,
        "seed": 0,
    } | changes
    return augment.AugmentParams(**values)


@pytest.fixture
def wordnet(monkeypatch):
    """A WordNet of two words."""
    import nltk

    lemmas = {"big": ["big", "large", "full-grown"], "dog": ["dog", "domestic_dog"], "word": []}

    def synsets(word):
        return [SimpleNamespace(lemma_names=lambda: lemmas[word])] if word in lemmas else []

    monkeypatch.setattr(nltk.corpus, "wordnet", SimpleNamespace(synsets=synsets))


def change(text, seed=0, **shares):
    params = augment.VariationParams(**({"synonyms": 0, "swaps": 0, "deletions": 0} | shares))
    return augment.vary(text, augment.make_operations(params), np.random.default_rng(seed))


def test_rarer_classes_are_filled_up_to_the_level():
    targets = np.eye(3)[[0] * 10 + [1] * 4 + [2]]
    drawn = augment.sources(targets, make_params(level=0.6))
    assert np.bincount(targets[drawn].argmax(axis=1), minlength=3).tolist() == [0, 2, 5]


def test_row_has_no_more_copies_than_allowed_and_all_are_copied_equally_often():
    targets = np.eye(2)[[0] * 20 + [1] * 4]
    used = np.bincount(augment.sources(targets, make_params(copies=3)), minlength=24)
    assert used.tolist() == [0] * 20 + [3] * 4
    used = np.bincount(augment.sources(targets, make_params(level=0.5)), minlength=24)
    assert sorted(used[20:].tolist()) == [1, 1, 2, 2]


def test_copies_of_rows_with_several_labels_count_for_each_of_them():
    targets = np.array([[1, 0, 0]] * 6 + [[0, 1, 1]] * 2)
    drawn = augment.sources(targets, make_params())
    assert (targets.sum(axis=0) + targets[drawn].sum(axis=0)).tolist() == [6, 6, 6]


def test_class_without_rows_is_left_alone():
    drawn = augment.sources(np.eye(3)[[0, 0, 1]], make_params())
    assert drawn.tolist() == [2]


def test_synonyms_replace_content_words_only(wordnet):
    found = {change(TEXT, seed, synonyms=1.0) for seed in range(20)}
    assert found == {
        f"I love the {size} domestic dog, don't you?" for size in ("large", "full grown")
    }


def test_word_without_synonyms_is_passed_over(wordnet):
    assert change("reddit big reddit", synonyms=0.3) != "reddit big reddit"
    assert change("reddit", synonyms=1.0) == "reddit"


def test_swaps_keep_the_words_and_what_stands_between_them():
    found = change(TEXT, swaps=0.3)
    assert found != TEXT
    assert sorted(found.strip("?").replace(",", "").split()) == sorted(
        TEXT.strip("?").replace(",", "").split()
    )
    assert found.endswith("?")


def test_deletions_leave_words_in_order_and_at_least_one():
    words = "a b c d e f g h i j"
    found = change(words, deletions=0.3).split()
    assert len(found) == 7
    assert found == sorted(found)
    assert len(change("a b c", deletions=1.0).split()) == 1
    assert change("alone!", deletions=1.0) == "alone!"


@given(st.text(), st.integers(0, 5))
def test_any_text_can_be_varied(text, seed):
    found = change(text, seed, swaps=0.1, deletions=0.1)
    assert isinstance(found, str)
    assert bool(found.strip()) == bool(text.strip())


def test_turns_are_varied_one_by_one_and_nulls_stay():
    found = change(["one two three", None, "😀"], swaps=1.0)
    assert [len(found), found[1], found[2]] == [3, None, "😀"]
    assert sorted(found[0].split()) == ["one", "three", "two"]


def test_missing_wordnet_is_refused_with_the_command_that_gets_it(monkeypatch, tmp_path):
    import nltk
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    absent = LazyCorpusLoader("wordnet", WordNetCorpusReader, "no other languages")
    monkeypatch.setattr(nltk.corpus, "wordnet", absent)
    with pytest.raises(InputError, match=r"variation\.synonyms: the NLTK corpus is not installed"):
        change(TEXT, synonyms=0.1)


def test_variation_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one share above 0, got none"):
        augment.VariationParams(synonyms=0, swaps=0, deletions=0)


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Thirty train rows in three folds, a rare class, and a test row."""
    y = np.where(np.arange(30) < 24, 0, 1)
    frame = pd.DataFrame({"id": [f"r{i}" for i in range(31)], "part": ["train"] * 30 + ["test"]})
    folds = frame.assign(fold=[i % 3 for i in range(30)] + [-1], group=np.arange(31))
    folds[["y_x", "y_y"]] = np.vstack([np.eye(2)[y], [[np.nan, np.nan]]])
    monkeypatch.chdir(tmp_path)
    write_table(folds, LAYOUT.folds)
    write_table(frame.assign(text="some words of a text"), LAYOUT.rows)
    write_json({"kind": "multi_label", "classes": ["x", "y"]}, LAYOUT.labels)
    return tmp_path


def run_stage(folder, params):
    write_params(folder, "tiny", augment=params.model_dump(mode="json"))
    augment.main(dataset="tiny")
    return pd.read_parquet(LAYOUT.augmented_rows), pd.read_parquet(LAYOUT.augmented_folds)


def test_copies_are_trained_on_where_their_source_is_and_never_predicted(inputs):
    rows, table = run_stage(inputs, make_params(variation=EVERY, level=0.5, copies=2))
    assert rows["id"].tolist() == table["id"].tolist()
    copies = table["part"] == "augmented"
    source = table["id"].str.partition(" (copy ")[0]
    assert copies.sum() == 6  # in each fold two more of the two rows, to half of eight
    for column in ("fold", "group", "y_x", "y_y"):
        own = table.set_index("id").loc[source[copies], column].to_numpy()
        assert table.loc[copies, column].tolist() == own.tolist()
    assert (rows.loc[copies, "text"] != "some words of a text").any()
    task = MultiLabel(("x", "y"))
    folds = read_folds(LAYOUT.augmented_folds, task)
    for fold in (0, 1, 2):
        seen = set(source[folds.train(fold)])
        held = set(folds.ids[folds.held(fold)])
        assert len(folds.train(fold)) == 20 + 4
        assert held == {f"r{i}" for i in range(fold, 30, 3)}
        assert seen.isdisjoint(held)
    assert folds.ids[folds.unseen].tolist() == ["r30"]
    predicted = prediction_table(folds, task, {"p_": np.zeros((len(table), 2))})
    assert predicted["id"].tolist() == [f"r{i}" for i in range(31)]
    assert json.loads(LAYOUT.augment.read_text()) == {"train_rows": 30, "copies": 6}


def test_copies_of_a_fold_do_not_depend_on_other_folds(inputs):
    params = make_params(variation=EVERY, level=0.5)
    _, before = run_stage(inputs, params)
    folds = pd.read_parquet(LAYOUT.folds)
    folds.loc[folds["fold"] == 1, ["y_x", "y_y"]] = [0.0, 1.0]
    write_table(folds, LAYOUT.folds)
    _, after = run_stage(inputs, params)
    own = [table.loc[table["fold"] != 1, "id"].tolist() for table in (before, after)]
    assert own[0] == own[1]


def test_texts_of_all_rows_say_what_they_compare_and_their_copies_too(inputs):
    frame = pd.read_parquet(LAYOUT.rows)
    write_table(frame.assign(text="5 % against 4 %"), LAYOUT.rows)
    rows, _ = run_stage(inputs, make_params(comparisons=True, variation=EVERY, level=0.5))
    assert rows["text"].str.contains("rose").sum() >= 31
    assert rows["text"][:31].eq("5 % against 4 % (rose)").all()
    assert rows["text"][31:].ne("5 % against 4 % (rose)").any()


def test_without_variation_rows_and_folds_stay_as_they_are(inputs):
    run_stage(inputs, make_params())
    assert LAYOUT.augmented_rows.read_bytes() == LAYOUT.rows.read_bytes()
    assert LAYOUT.augmented_folds.read_bytes() == LAYOUT.folds.read_bytes()
