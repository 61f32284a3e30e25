import json

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.layout import Layout
from stages.core.tables import write_json, write_table
from stages.core.tasks import MultiLabel, Preference, SingleLabel
from stages.data import split
from tests.given import write_params

TARGETS = ["y_a", "y_b", "y_tie"]
WORDS = [
    *("otter", "river", "copper", "violin", "harbour", "lantern"),
    *("pepper", "glacier", "saddle", "meadow", "quartz", "ribbon"),
]


def make_params(**changes):
    params = {
        "n_folds": 3,
        "seed": 7,
        "near_duplicate_threshold": 0.8,
        "permutations": 128,
        "shingle_size": 5,
        "max_leak_share": 0.0,
        "train_on_dev": False,
    }
    return split.SplitParams(**(params | changes))


def make_rows(prompts, part="train"):
    """Rows with the given prompts, answers that no other row has, and classes in turn."""
    n = len(prompts)
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(n)], "part": part})
    rows["prompt"] = prompts
    for side in "ab":
        rows[f"response_{side}"] = [[f"{side} answers {i}"] for i in range(n)]
    rows[TARGETS] = np.eye(3)[np.arange(n) % 3]
    return rows


def distinct_prompts(n):
    rng = np.random.default_rng(0)
    return [[" ".join(rng.choice(WORDS, 12)) + f" {i}"] for i in range(n)]


def put(rows, column, cells):
    rows[column] = [cells.get(row, value) for row, value in enumerate(rows[column])]


def do_split(rows, **changes):
    return split.split_rows(rows, Preference(), make_params(**changes))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["What  is\nLIFE?"], ["what is life"]),
        (["Hello", "world"], ["hello world"]),
        (["Hello", None], ["hello"]),
        (["Ｆｕｌｌ width"], ["full width"]),
        (["STRASSE"], ["straße"]),
        ("a text", ["a text"]),
    ],
)
def test_normalize_folds_case_form_space_and_punctuation(one, other):
    assert split.normalize(one) == split.normalize(other) != ""


@pytest.mark.parametrize("absent", [None, float("nan"), [], [None], [""], [" \n"]])
def test_absent_prompt_is_empty(absent):
    assert split.normalize(absent) == ""


def test_prompt_of_signs_keeps_them():
    assert split.normalize(["😀"]) != split.normalize(["???"]) != ""


@pytest.mark.parametrize(
    "one", ["", "a", "abcd", "abcde", "日本語のテキストです", "😀😀😀😀😀😀x\ud800"]
)
@pytest.mark.parametrize(
    "other", ["", "abc", "abcdeabcde", "日本語のテキストでした", "x😀😀😀😀😀😀"]
)
def test_jaccard_of_hashes_is_jaccard_of_strings(one, other):
    def substrings(text):
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    first, second = substrings(one), substrings(other)
    expected = len(first & second) / len(first | second)
    assert split.jaccard(split.shingles(one, 5), split.shingles(other, 5)) == expected


def test_groups_equal_those_of_all_pairs_compared():
    rng = np.random.default_rng(3)
    texts = [split.normalize(prompt) for prompt in distinct_prompts(40)]
    for _ in range(160):  # chains of variants, each a word or two from an earlier text
        words = texts[rng.integers(len(texts))].split()
        words[rng.integers(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    texts = list(dict.fromkeys(texts))
    sets = [split.shingles(text, 5) for text in texts]
    keys = split.Keys(np.arange(len(texts)), np.arange(len(texts)), texts)
    true = [
        (i, j) for j in range(len(sets)) for i in range(j) if split.jaccard(sets[i], sets[j]) >= 0.8
    ]
    found = split.near_duplicates(texts, make_params())
    assert set(found) <= set(true)
    expected = split.group_rows(len(texts), keys, true)
    assert 40 <= expected.max() < len(texts) - 20
    np.testing.assert_array_equal(split.group_rows(len(texts), keys, found), expected)


def test_same_or_nearly_same_prompt_stands_in_one_fold():
    prompts = distinct_prompts(60)
    for row in range(30):
        prompts[row + 30] = [prompts[row][0].upper() + ("!" if row % 2 else " s")]
    folds, metrics = do_split(make_rows(prompts))
    assert (folds["fold"][:30].to_numpy() == folds["fold"][30:].to_numpy()).all()
    assert folds["group"].tolist() == [*range(30), *range(30)]
    assert (metrics["groups"], metrics["largest_group"], metrics["between_folds"]) == (30, 2, 0)
    assert metrics["exact_duplicates_in_train"] == 15
    assert metrics["duplicates_in_train"] == 30


def test_between_folds_counts_a_text_or_pair_that_was_torn_apart():
    keys = split.Keys(np.arange(4), np.array([0, 0, 1, 2]), ["x", "y", "z"])
    assert split.count_between_folds(keys, np.array([0, 1, 0, 0]), []) == 1
    assert split.count_between_folds(keys, np.array([0, 0, 1, 1]), [(0, 1), (1, 2)]) == 1
    assert split.count_between_folds(keys, np.array([0, 0, -1, 1]), [(0, 1), (1, 2)]) == 0


def test_rows_without_a_prompt_are_grouped_by_a_common_answer_only():
    rows = make_rows(distinct_prompts(30))
    put(rows, "prompt", {3: [None], 8: [None], 11: [""], 12: [""]})
    put(rows, "response_b", {3: ["The same answer."]})
    # Row 20 has a prompt of its own.
    put(rows, "response_a", {8: ["the same answer"], 20: ["the same answer"]})
    folds, _ = do_split(rows)
    assert folds["group"][3] == folds["group"][8]
    assert folds["group"].nunique() == 29


def test_folds_are_stratified_and_hold_every_train_row_once():
    rows = make_rows(distinct_prompts(90))
    rows.loc[80:, "part"] = "test"
    rows.loc[80:, TARGETS] = np.nan
    folds, metrics = do_split(rows)
    assert folds["id"].tolist() == rows["id"].tolist()
    assert (folds["fold"][80:] == -1).all()
    counts = folds[:80].groupby("fold")[TARGETS].sum()
    assert counts.index.tolist() == [0, 1, 2]
    assert (counts.max() - counts.min()).max() <= 1
    assert (metrics["rows_train"], metrics["rows_test"]) == (80, 10)
    assert metrics["smallest_fold"] + metrics["largest_fold"] >= 53


def test_soft_targets_are_stratified_by_the_likeliest_class_and_kept():
    rows = make_rows(distinct_prompts(30))
    rows[TARGETS] = rows[TARGETS] * 0.4 + 0.2
    pd.testing.assert_frame_equal(do_split(rows)[0][TARGETS], rows[TARGETS])


def leaking_rows():
    prompts = distinct_prompts(40)
    prompts[31] = [prompts[2][0].upper()]
    prompts[35] = [prompts[4][0] + " x"]
    prompts[37] = prompts[36]  # two alike in test are no leak
    rows = make_rows(prompts)
    rows.loc[30:, "part"] = "test"
    return rows


def test_leaks_are_counted_and_kept():
    folds, metrics = do_split(leaking_rows(), max_leak_share=0.2)
    assert len(folds) == 40
    assert (metrics["exact_leaks"], metrics["leaks"], metrics["leak_share"]) == (1, 2, 0.2)


def test_leak_above_the_limit_is_refused_with_its_ids():
    with pytest.raises(InputError, match=r"2 test rows(?s:.)*r31 \(test\) like r2 \(train\)"):
        do_split(leaking_rows(), max_leak_share=0.1)


def test_train_row_without_target_and_unknown_part_are_refused_at_once():
    rows = make_rows(distinct_prompts(30))
    rows.loc[4, "y_b"] = np.nan
    rows.loc[5, "part"] = "holdout"
    with pytest.raises(InputError, match=r"part: got \['holdout'\](?s:.)*\['r4'\]"):
        do_split(rows)


def test_class_with_fewer_groups_than_folds_is_refused():
    rows = make_rows(distinct_prompts(30))
    rows = rows[(rows["y_tie"] == 0) | (rows.index < 6)].reset_index(drop=True)
    with pytest.raises(InputError, match=r"n_folds = 3(?s:.)*y_tie: got 2"):
        do_split(rows)


def test_share_of_a_class_counts_though_it_is_never_the_likeliest():
    soft = np.tile([0.5, 0.4, 0.1], (6, 1))
    folds = split.make_folds(Preference(), soft, np.arange(6), make_params(n_folds=3))
    assert np.bincount(folds).tolist() == [2, 2, 2]


def test_preference_without_any_tie_is_split_and_told(caplog):
    hard = np.eye(3)[[0, 1] * 6]
    folds = split.make_folds(Preference(), hard, np.arange(12), make_params(n_folds=3))
    assert np.bincount(folds).tolist() == [4, 4, 4]
    assert "no row has any share of ['tie']" in caplog.text
    hard[0] = [0, 0, 1]
    with pytest.raises(InputError, match=r"make fewer folds, or join .*\n  y_tie: got 1 groups"):
        split.make_folds(Preference(), hard, np.arange(12), make_params(n_folds=3))


def test_seed_changes_folds_but_not_groups():
    rows = make_rows(distinct_prompts(60))
    one, same, other = (do_split(rows, seed=seed)[0] for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert one["group"].tolist() == other["group"].tolist()
    assert one["fold"].tolist() != other["fold"].tolist()


def test_main_writes_the_same_bytes_twice_and_flat_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts = Layout("one"), Layout("two")
    for layout in layouts:
        write_params(tmp_path, layout.dataset, split=make_params().model_dump())
        write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
        write_table(make_rows(distinct_prompts(30)), layout.rows)
        split.main(dataset=layout.dataset)
    one, two = layouts
    assert one.folds.read_bytes() == two.folds.read_bytes()
    assert all(
        isinstance(value, int | float) for value in json.loads(one.split.read_text()).values()
    )
    folds = read_folds(one.folds, Preference())
    assert folds.numbers == [0, 1, 2]


SEVERAL = MultiLabel(("often", "sometimes", "rare"))


def make_texts(n=120, n_dev=0, n_test=0):
    """Rows of one text each with several classes: half, a fifth and a tenth of the rows."""
    rows = pd.DataFrame({"id": [f"t{i}" for i in range(n)], "part": "train"})
    rows["text"] = [prompt[0] for prompt in distinct_prompts(n)]
    for name, every in zip(SEVERAL.classes, (2, 5, 10), strict=True):
        rows[f"y_{name}"] = (np.arange(n) % every == 0).astype(float)
    if n_test:
        rows.loc[n - n_test :, "part"] = "test"
        rows.loc[n - n_test :, [f"y_{name}" for name in SEVERAL.classes]] = np.nan
    rows.loc[n - n_test - n_dev : n - n_test - 1, "part"] = "dev"
    return rows


def test_several_classes_are_all_stratified():
    rows = make_texts()
    folds, _ = split.split_rows(rows, SEVERAL, make_params())
    counts = folds.groupby("fold")[["y_often", "y_sometimes", "y_rare"]].sum()
    assert (counts.max() - counts.min()).max() <= 1
    again, other = (split.split_rows(rows, SEVERAL, make_params(seed=s))[0] for s in (7, 8))
    pd.testing.assert_frame_equal(folds, again)
    assert folds["fold"].tolist() != other["fold"].tolist()


def test_groups_of_rows_with_several_classes_are_kept_whole():
    rows = make_texts()
    rows.loc[60:89, "text"] = [text.upper() + "!" for text in rows["text"][:30]]
    folds, metrics = split.split_rows(rows, SEVERAL, make_params())
    assert metrics["duplicates_in_train"] == 30
    assert folds.groupby("group")["fold"].nunique().max() == 1
    assert folds.groupby("fold")["y_rare"].sum().min() >= 3


def test_class_that_too_few_groups_have_among_others_is_refused():
    rows = make_texts()
    rows["y_rare"] = (np.arange(120) < 2).astype(float)
    with pytest.raises(InputError, match=r"n_folds = 3(?s:.)*y_rare: got 2"):
        split.split_rows(rows, SEVERAL, make_params())


def test_dev_part_has_no_fold_and_its_leaks_are_counted():
    rows = make_texts(n_dev=20, n_test=10)
    rows.loc[95, "text"] = rows["text"][3].upper()
    folds, metrics = split.split_rows(rows, SEVERAL, make_params(max_leak_share=0.05))
    assert set(folds.loc[folds["part"] == "dev", "fold"]) == {-1}
    assert folds.loc[folds["part"] == "dev", "y_often"].notna().all()
    assert (metrics["rows_train"], metrics["rows_dev"], metrics["rows_test"]) == (90, 20, 10)
    assert (metrics["dev_leaks"], metrics["dev_exact_leaks"], metrics["leaks"]) == (1, 1, 0)
    with pytest.raises(InputError, match=r"1 dev rows(?s:.)*t95 \(dev\) like t3 \(train\)"):
        split.split_rows(rows, SEVERAL, make_params())


def test_dev_part_is_trained_on_only_where_the_params_say_so():
    rows = make_texts(n_dev=20, n_test=10)
    folds, metrics = split.split_rows(rows, SEVERAL, make_params(train_on_dev=True))
    assert set(folds["part"]) == {"train", "test"}
    assert (metrics["rows_train"], metrics["rows_test"]) == (110, 10)
    assert "rows_dev" not in metrics


def test_dev_row_without_target_is_refused():
    rows = make_texts(n_dev=20)
    rows.loc[110, "y_rare"] = np.nan
    with pytest.raises(InputError, match=r"1 train or dev rows lack a target.*\['t110'\]"):
        split.split_rows(rows, SEVERAL, make_params())


def test_texts_of_one_class_are_stratified():
    rows = make_texts().rename(columns={"y_rare": "y_yes"})
    rows["y_no"] = 1 - rows["y_yes"]
    folds, _ = split.split_rows(rows, SingleLabel(("no", "yes")), make_params())
    assert folds.groupby("fold")["y_yes"].sum().tolist() == [4, 4, 4]
