import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.blocks import read_columns
from stages.core.layout import Layout
from stages.core.tables import write_json, write_table
from stages.core.tasks import Preference
from stages.features import style
from stages.features._text import Text, measure

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
ROWS = [
    (["What is 2 + 2?"], ["4."], ["I'm sorry, but as an AI I cannot answer that."]),
    (["Hallo 🙂", None], ["Guten Tag!", None], [None, ""]),
    (["写一首诗"], ["春天来了。花开了。"], ["Here is a poem:\n\n1. Spring\n2. Flower"]),
    (["code"], ["```python\nprint(1)\n```"], ["# Title\n\n- **one**\n- two\n* three"]),
    ([""], [""], [""]),
    ([], [], []),
]


def build(rows):
    return style.apply(rows, Preference.text_columns)


def answer(text):
    return measure(Text([text]))


def frame(rows):
    table = pd.DataFrame(rows, columns=list(Preference.text_columns))
    table.insert(0, "id", [str(i) for i in range(len(rows))])
    return table


def test_lengths_equal_a_count_by_hand():
    found = answer("The cat sat. The dog ran!\n\nA new paragraph, the last")
    expected = {
        "words": 11, "unique_words": 9, "sentences": 3, "paragraphs": 2,
        "characters": 52, "last_turn_words": 11,
    }  # fmt: skip
    assert {name: round(math.expm1(found[name])) for name in expected} == expected


def test_markdown_is_counted_by_kind():
    text = "# Title\n\n1. one\n2) two\n- **three**\n  * four\n#hashtag 3.5\n```\nx = 1\n```\n"
    found = answer(text)
    expected = {"headers": 1, "numbered_items": 2, "bullet_items": 2, "bold": 1, "code_blocks": 1}
    assert {name: round(math.expm1(found[name])) for name in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can’t help with that.",
        "As an AI language model, I have no opinion.",
        "Lo siento, no puedo ayudarte.",
        "很抱歉，我不能回答。",
    ],
)
def test_refusal_is_seen_in_several_languages(text):
    assert answer(text)["refusals"] > 0
    assert answer(text)["refusal_first"] == 1


def test_plain_answer_is_no_refusal():
    assert answer("Paris is the capital of France; I think you can fly there.")["refusals"] == 0


def test_null_and_empty_turns_are_empty_and_others_are_not():
    for turns in ([None], [""], [" \n"], ["text", None], []):
        assert measure(Text(turns))["empty"] == 1
    assert measure(Text(["text", "0"]))["empty"] == 0


def test_chinese_characters_are_words_and_full_stops_end_sentences():
    found = answer("春天来了。花开了。")
    assert round(math.expm1(found["words"])) == 7
    assert round(math.expm1(found["sentences"])) == 2


def test_marks_belong_to_their_word_and_are_none_without_one():
    assert Text(["नमस्ते दुनिया"]).words == ["नमस्ते", "दुनिया"]
    text = Text(["❤️ 5 km² 👩\u200d💻 don't cafe\u0301"])
    assert text.words == ["5", "km²", "don't", "cafe\u0301"]


def test_repeating_answer_is_seen_as_such():
    sane = answer("One fine day the old fox met a clever hen who sold him seven shiny buttons.")
    loop = answer("The fox ran to the hen and on. " * 30)
    assert loop["repeated_trigrams"] > 0.9 > 0.1 > sane["repeated_trigrams"]
    assert loop["repeated_sentences"] > 0.9
    assert loop["compression"] < 0.2 < sane["compression"]


def test_flesch_falls_with_longer_words_and_sentiment_has_a_sign():
    assert answer("The cat sat.")["flesch"] > answer("Institutional deliberation.")["flesch"]
    assert answer("A wonderful day!")["sentiment"] > 0 > answer("A terrible day!")["sentiment"]


def test_copy_of_the_prompt_matches_it_and_another_text_does_not():
    prompt = Text(["Tell me about green parrots living in Spanish city parks"])
    copied, other = Text(prompt.turns), Text(["Weather tomorrow: rain, 12 degrees"])
    same, apart = style.to_prompt(copied, prompt), style.to_prompt(other, prompt)
    for name in ("prompt_covered", "prompt_cosine", "copied_trigrams"):
        assert same[name] == pytest.approx(1)
        assert apart[name] == 0
    assert same["compression_given_prompt"] < 0.3 < apart["compression_given_prompt"]
    assert same["words_to_prompt"] == 0


def test_answer_in_another_script_than_the_prompt_is_far_from_it():
    prompt = Text(["Напиши стих о весне"])
    assert style.to_prompt(Text(["Spring is here"]), prompt)["script_distance"] == 1
    assert style.to_prompt(Text(["Весна"]), prompt)["script_distance"] == 0


def test_cosine_equals_numpy():
    a, b = {"x": 2.0, "y": 1.0}, {"y": 3.0, "z": 4.0}
    u, v = np.array([2, 1, 0]), np.array([0, 3, 4])
    expected = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert style.cosine(a, b) == pytest.approx(expected)
    assert style.cosine(a, {}) == 0


@pytest.mark.parametrize("row", ROWS)
def test_swap_of_the_answers_swaps_their_features_and_nothing_else(row):
    prompt, a, b = row
    straight, turned = style.describe_pair(prompt, a, b), style.describe_pair(prompt, b, a)
    assert list(straight) == list(turned)
    for name, value in straight.items():
        key, feature = name.split(".")
        assert turned[f"{Preference.swapped.get(key, key)}.{feature}"] == value, name


def test_every_feature_is_finite_and_answers_have_the_same_names():
    odd = ["\0", "🦦" * 50, "\ud800 lone", "‏مرحبا بالعالم", "...", "1 2 3", "a", "ß İ ﬁ"]
    rows = [*ROWS, *(([text], [text], ["plain"]) for text in odd)]
    found = build(frame(rows))
    assert np.isfinite(found.to_numpy()).all()
    assert set(found.dtypes) == {np.dtype(np.float32)}
    names = {
        key: [n.split(".")[1] for n in found if n.startswith(key)]
        for key in ("response_a", "response_b")
    }
    assert names["response_a"] == names["response_b"]
    assert 50 < len(names["response_a"]) < 70


def test_rows_do_not_depend_on_each_other():
    together = build(frame(ROWS))
    turned = build(frame(ROWS[::-1]))[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(turned, together)


def test_no_rows_give_no_rows_but_all_columns():
    assert list(build(frame([]))) == list(build(frame(ROWS)))


HUGE = 200_000


@pytest.mark.parametrize(
    "sign", ["a", " ", "\n", ".", "*", "`", "#", "[", "'", "1,", "- ", "\n ", "i am ", "作为", "🦦"]
)
def test_time_is_linear_in_a_huge_text_without_structure(sign):
    text = (sign * HUGE)[:HUGE]
    started = time.process_time()
    style.to_prompt(Text([text]), Text([text + "!"]))
    measure(Text([text]))
    assert time.process_time() - started < 5


def run_stage(folder, seed):
    command = [sys.executable, "-m", "stages.features.style", "--dataset", "demo"]
    environment = os.environ | {"PYTHONHASHSEED": seed, "VERDICT_WORKERS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    written = Layout("demo", folder).features("style")
    written.unlink(missing_ok=True)
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    return written.read_bytes()


def test_stage_writes_the_same_bytes_in_every_process_and_a_readable_table(tmp_path):
    layout = Layout("demo", tmp_path)
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
    write_table(frame(ROWS), layout.augmented)
    assert run_stage(tmp_path, "1") == run_stage(tmp_path, "2")
    ids = pd.Series(["2", "0"])
    blocks = read_columns(layout.features("style"), ids)
    assert list(blocks) == ["prompt", "response_a", "response_b", "pair"]
    expected = style.describe_pair(*ROWS[2])["response_b.numbered_items"]
    column = blocks["response_b"].names.index("numbered_items")
    assert blocks["response_b"].X[0, column] == pytest.approx(expected)


@pytest.mark.parametrize("dataset", ["arena", "pairs"])
def test_longer_real_answers_win_more_often(dataset):
    path = REAL / dataset / "train.csv"
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        raw = [row for row, _ in zip(csv.DictReader(file), range(120), strict=False)]
    found = build(frame([[json.loads(row[c]) for c in Preference.text_columns] for row in raw]))
    assert np.isfinite(found.to_numpy()).all()
    longer = np.sign(found["response_a.words"] - found["response_b.words"])
    won = np.array([int(row["winner_model_a"]) - int(row["winner_model_b"]) for row in raw])
    assert (longer * won).mean() > 0.03


def test_text_has_the_measures_of_one_text():
    found = style.apply(pd.DataFrame({"text": ["Great food!", ""]}), ("text",))
    expected = measure(Text(["Great food!"]))
    assert list(found) == [f"text.{name}" for name in expected]
    np.testing.assert_allclose(found.iloc[0], list(expected.values()), rtol=1e-6)
    assert np.isfinite(found.to_numpy()).all()
