import csv
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import InputError
from stages.data import demo
from tests.given import write_params

ROOT = Path(__file__).parents[2]
PARAMS = demo.DemoParams(train_rows=400, test_rows=250, seed=3, position_bias=0.03, tie=1.05)
ARENA = ROOT.parent / "shared/data/arena"


def read(path):
    csv.field_size_limit(10**9)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def turns_of(rows, *columns):
    return [json.loads(row[column]) for row in rows for column in columns]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "arena"
    demo.write_arena(PARAMS, folder)
    return folder


@pytest.fixture(scope="module")
def train(folder):
    return read(folder / "train.csv")


@pytest.fixture(scope="module")
def test_part(folder):
    return read(folder / "test.csv")


def write_section(folder, **changes):
    write_params(folder, "demo", demo={**PARAMS.model_dump(), **changes})


def test_folder_holds_the_competitions_files_and_the_truth(folder):
    assert sorted(contents(folder)) == [
        "sample_submission.csv", "test.csv", "train.csv", "truth.csv",
    ]  # fmt: skip
    assert (folder / "truth.csv").read_text().startswith("id,a,b,tie\n")


@pytest.mark.skipif(not ARENA.is_dir(), reason="the real arena is not at ../shared/data")
@pytest.mark.parametrize("name", ["train.csv", "test.csv", "sample_submission.csv"])
def test_headers_are_those_of_the_real_arena(folder, name):
    with (ARENA / name).open(encoding="utf-8") as file:
        assert (folder / name).read_text(encoding="utf-8").startswith(file.readline())


def test_every_row_is_one_line_of_ascii(folder):
    for content in contents(folder).values():
        assert content.isascii()
        assert b"\r" not in content
    assert (folder / "train.csv").read_bytes().count(b"\n") == PARAMS.train_rows + 1


def test_ids_are_whole_numbers_and_unique_over_both_parts(train, test_part):
    ids = [int(row["id"]) for row in train + test_part]
    assert len(set(ids)) == PARAMS.train_rows + PARAMS.test_rows


def test_each_train_row_has_one_winner_and_two_different_models(train):
    names = {model.name for model in demo.MODELS}
    for row in train:
        assert sorted(row[column] for column in demo.WINNERS) == ["0", "0", "1"]
        assert row["model_a"] != row["model_b"]
        assert {row["model_a"], row["model_b"]} <= names


def test_answers_have_as_many_turns_as_their_prompt(train, test_part):
    for row in train + test_part:
        prompt, a, b = turns_of([row], *demo.TEXTS)
        assert len(prompt) == len(a) == len(b) >= 1


def test_sample_and_truth_have_the_rows_in_order(folder, train, test_part):
    sample, truth = read(folder / "sample_submission.csv"), read(folder / "truth.csv")
    assert [row["id"] for row in sample] == [row["id"] for row in test_part]
    assert [row["id"] for row in truth] == [row["id"] for row in train + test_part]
    assert all(
        sum(float(row[name]) for name in ("a", "b", "tie")) == pytest.approx(1, abs=1e-8)
        for row in truth
    )


def test_labels_follow_the_truth(folder, train):
    truth = {row["id"]: row for row in read(folder / "truth.csv")}
    probabilities = [[float(truth[row["id"]][k]) for k in ("a", "b", "tie")] for row in train]
    loss = [
        -math.log(p[[row[column] for column in demo.WINNERS].index("1")])
        for row, p in zip(train, probabilities, strict=True)
    ]
    expected = [demo.entropy(p) for p in probabilities]
    assert sum(loss) / len(loss) == pytest.approx(sum(expected) / len(expected), abs=0.08)


def test_best_log_loss_is_the_mean_entropy_of_the_truth(folder, tmp_path):
    best = demo.write_arena(PARAMS, tmp_path / "again")
    truth = read(folder / "truth.csv")
    entropies = [demo.entropy([float(row[name]) for name in ("a", "b", "tie")]) for row in truth]
    assert best == pytest.approx(sum(entropies) / len(entropies), abs=1e-6)
    assert 0.9 < best < 1.05


def test_same_seed_writes_the_same_bytes_in_another_process(folder, tmp_path):
    write_section(tmp_path)
    command = [sys.executable, "-m", "stages.data.demo", "--dataset", "demo"]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert contents(tmp_path / "data/raw/demo") == contents(folder)


def test_another_seed_writes_other_rows():
    other = PARAMS.model_copy(update={"seed": 4})
    assert demo.draw_row(PARAMS, "train", 0).prompt != demo.draw_row(other, "train", 0).prompt


def test_larger_set_begins_with_the_rows_of_a_smaller_one(folder, tmp_path):
    demo.write_arena(PARAMS.model_copy(update={"train_rows": 50, "test_rows": 20}), tmp_path / "s")
    for name, content in contents(tmp_path / "s").items():
        if name != "truth.csv":  # which holds both parts, one after the other
            assert contents(folder)[name].startswith(content)


def test_position_bias_and_tie_change_no_text():
    other = PARAMS.model_copy(update={"position_bias": 0.5, "tie": 0.1})
    for number in range(20):
        row, changed = (demo.draw_row(params, "train", number) for params in (PARAMS, other))
        assert row.responses == changed.responses
        assert row.truth != changed.truth


def test_texts_hold_what_readers_must_bear(train, test_part):
    texts = turns_of(train + test_part, *demo.TEXTS)
    turns = [turn for text in texts for turn in text]
    joined = "\n".join(turn or "" for turn in turns)
    for piece in ("```", "**", "## ", "\n* ", "\n1. ", "language model", "🚀", "ß", "¿", "é", "/"):
        assert piece in joined
    assert None in turns
    assert "" in turns
    assert demo.LONE_SURROGATE in joined
    assert any(len(text) > 1 for text in texts)


def test_lengths_are_realistic(train):
    def mean_words(column):
        texts = turns_of(train, column)
        return sum(len((turn or "").split()) for turns in texts for turn in turns) / len(texts)

    assert 50 < mean_words("prompt") < 110
    assert 160 < mean_words("response_a") < 250


def test_some_train_prompts_stand_twice_and_few_test_prompts_stand_in_train(train, test_part):
    prompts = [row["prompt"] for row in train]
    assert 1 <= len(prompts) - len(set(prompts)) <= 10
    assert sum(row["prompt"] in prompts for row in test_part) == 2  # rows 7 and 207


def test_each_kind_of_brief_can_be_answered_in_each_way():
    rng = random.Random(0)
    kinds = set()
    for number in range(300):
        brief = demo.draw_brief(random.Random(number))
        kinds.add(brief.kind)
        for correctness in (demo.RIGHT, demo.NEARLY, demo.WRONG):
            for relevance in (demo.ON_TOPIC, demo.DRIFTS, demo.OFF_TOPIC):
                side = demo.Side("m", correctness, relevance, 40, frozenset({"list", "heading"}))
                answer = demo.write_answer(rng, brief, side)
                assert brief.facts[correctness] in answer[0]
                assert "{" not in answer[0].replace("{}", "")
    assert kinds == {*demo.text.PROMPTS, "foreign"}


def test_judge_prefers_right_long_structured_answers_and_dislikes_refusals():
    good = demo.Side("m", demo.RIGHT, demo.ON_TOPIC, 100, frozenset({"list"}))
    plain = demo.Side("m", demo.RIGHT, demo.ON_TOPIC, 100)
    nearly = demo.Side("m", demo.NEARLY, demo.ON_TOPIC, 100)
    wrong = demo.Side("m", demo.WRONG, demo.ON_TOPIC, 100)
    off_topic = demo.Side("m", demo.RIGHT, demo.OFF_TOPIC, 100)
    refused = demo.Side("m", demo.RIGHT, demo.ON_TOPIC, 100, refused=True)
    missing = demo.Side("m", demo.RIGHT, demo.ON_TOPIC, 100, missing=True)
    ranks = [demo.utility(side, 100) for side in (good, plain, nearly, wrong)]
    assert ranks == sorted(ranks, reverse=True)
    assert demo.utility(plain, 100) > demo.utility(refused, 100)
    assert demo.utility(plain, 100) > demo.utility(off_topic, 100)
    assert demo.utility(plain, 200) > demo.utility(plain, 100)
    assert demo.utility(plain, 800) == demo.utility(plain, demo.SATURATION)
    assert demo.utility(refused, 20) > demo.utility(missing, 0)


def test_davidson_is_symmetric_and_sums_to_one():
    a, b, tie = demo.davidson(0.7, -0.2, 1.05)
    assert demo.davidson(-0.2, 0.7, 1.05) == pytest.approx((b, a, tie))
    assert a + b + tie == pytest.approx(1)
    assert math.log(a / b) == pytest.approx(0.9)
    assert tie**2 == pytest.approx(1.05**2 * a * b)  # the definition: nu * sqrt(pi_a * pi_b)


def test_position_bias_costs_a_symmetric_forecast_less_than_a_thousandth():
    for difference in (0.0, 0.5, 2.0):
        p = demo.davidson(difference + PARAMS.position_bias, 0, PARAMS.tie)
        q = demo.davidson(difference, 0, PARAMS.tie)
        assert sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) < 1e-3


def test_wrong_params_are_named_all_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_section(tmp_path, train_rows=0, tie=-1, sed=1)
    with pytest.raises(InputError, match=r"(?s)3 fault.*train_rows.*tie.*sed"):
        demo.main(dataset="demo")
    assert not (tmp_path / "data").exists()


def test_nothing_is_left_of_a_broken_off_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_section(tmp_path)
    monkeypatch.setattr(demo, "turns_json", lambda turns: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        demo.main(dataset="demo")
    assert list((tmp_path / "data/raw").iterdir()) == []
