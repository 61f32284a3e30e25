import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.blocks import read_blocks
from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.matrices import cosine
from stages.core.tables import write_json, write_table
from stages.transformer import embed as stage
from stages.transformer.network.params import BackboneParams
from tests.given import write_params

ROOT = Path(__file__).resolve().parents[2]
ROWS = pd.DataFrame(
    [
        ("What is 2 + 2?", ["4.", "By sums."], ["I cannot answer that.", None]),
        ("Hallo 🙂", ["Guten Tag!"], ["Hallo 🙂"]),
        ("", [], [None]),
        ("What is 2 + 2?", ["long " * 40], ["[SEP] \ud800"]),
    ],
    columns=["prompt", "response_a", "response_b"],
)


@pytest.fixture(scope="session")
def make_embedder(tiny):
    def make(family="bert", pooling="mean", **changes):
        backbone = BackboneParams(
            name=str(tiny(family)), revision=None, pooling=pooling, attention="auto",
            dropout=0.1, attention_dropout=0.1,
        )  # fmt: skip
        given = {"max_tokens": 32, "tokens_per_batch": 64, "precision": "fp32"} | changes
        return stage.Embedder.load(stage.EmbedParams(backbone=backbone, **given))

    return make


def one_column(*texts):
    return pd.DataFrame({"text": texts})


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_embedding_is_the_pooled_last_layer_at_length_one(tiny, make_embedder, pooling):
    import torch
    from transformers import AutoModel, AutoTokenizer

    text = "Hallo 🙂"
    model = AutoModel.from_pretrained(tiny("bert")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    ids = [
        tokenizer.cls_token_id,
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        tokenizer.sep_token_id,
    ]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    expected = {"mean": hidden.mean(axis=0), "first": hidden[0], "last": hidden[-1]}[pooling]
    found = make_embedder(pooling=pooling)(one_column(text, "long " * 9))["text"]
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_embedding_does_not_depend_on_the_batch_nor_on_the_order_of_rows(make_embedder, family):
    texts = one_column("a", "two words", "", "x" * 200, "a", "three small words")
    small, large = (make_embedder(family, tokens_per_batch=n) for n in (8, 4096))
    together = large(texts)["text"]
    alone = np.concatenate([large(texts.iloc[i : i + 1])["text"] for i in range(len(texts))])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, small(texts)["text"], atol=1e-6)
    np.testing.assert_array_equal(together, large(texts[::-1])["text"][::-1])
    np.testing.assert_array_equal(together[0], together[4])
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_tokens_behind_the_limit_are_not_read(make_embedder):
    embedder = make_embedder(max_tokens=8)
    found = embedder(one_column("abcdef" + "x", "abcdef" + "y", "abcdez"))["text"]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-2


def test_turns_are_lines_of_one_text(make_embedder):
    embedder = make_embedder()
    turns = embedder(ROWS)["response_a"]
    lines = embedder(one_column("4.\nBy sums.", "Guten Tag!", ""))["text"]
    np.testing.assert_allclose(turns[:3], lines, atol=1e-6)


def test_threads_of_torch_are_as_before(make_embedder):
    import torch

    given = torch.get_num_threads()
    make_embedder()(one_column("a"))
    assert torch.get_num_threads() == given


def test_texts_longer_than_the_positions_of_the_backbone_are_refused(make_embedder):
    with pytest.raises(InputError, match=r"^max_tokens: got 97; expected at most 96"):
        make_embedder(max_tokens=97)


def test_embedder_without_a_backbone_is_refused():
    params = stage.EmbedParams(backbone=None, max_tokens=8, tokens_per_batch=8, precision="fp32")
    with pytest.raises(InputError, match=r"embed\.backbone: got null; expected a backbone"):
        stage.Embedder.load(params)


@pytest.fixture
def inputs(tmp_path, tiny):
    """What the stage reads for two datasets with a backbone and for one without."""
    table = ROWS.assign(id=list("abcd"))[["id", *ROWS.columns]]
    table["prompt"] = [[text] for text in table["prompt"]]
    table.loc[3, "response_b"][0] = "[SEP] ?"
    backbone = {
        "name": str(tiny("bert")), "revision": None, "pooling": "mean", "attention": "auto",
        "dropout": 0.0, "attention_dropout": 0.0,
    }  # fmt: skip
    given = {"max_tokens": 32, "tokens_per_batch": 64, "precision": "fp32"}
    for dataset, own in (("pairs", backbone), ("again", backbone), ("none", None)):
        layout = Layout(dataset, tmp_path)
        write_params(tmp_path, dataset, embed=given | {"backbone": own})
        write_table(table, layout.augmented)
        write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)


def run_stage(folder, dataset, workers="1"):
    """The stage in a process of its own; what of torch it imported."""
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd()); os.chdir(sys.argv[1]);"
        "from stages.transformer.embed import main; main(dataset=sys.argv[2]);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, dataset],
        check=True, cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONHASHSEED": workers, "VERDICT_WORKERS": workers},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.usefixtures("inputs")
def test_stage_writes_the_same_bytes_with_any_number_of_workers(tmp_path):
    one, two = (Layout(dataset, tmp_path).features("embed") for dataset in ("pairs", "again"))
    for dataset, workers in (("pairs", "1"), ("again", "2")):
        assert run_stage(tmp_path, dataset, workers) == "True"
    names = sorted(path.name for path in one.iterdir())
    assert names == [
        *("ids.parquet", "names.json", "pair.npy", "prompt.npy", "response_a.npy"),
        "response_b.npy",
    ]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    blocks = read_blocks(one, pd.Series(list("dcba")))
    prompt, a, b = (blocks[key].X for key in ROWS.columns)
    assert prompt.shape == (4, 32)
    assert blocks["response_a"].names[-1] == "prompt_cosine"
    np.testing.assert_array_equal(prompt[0], prompt[3])
    expected = cosine(a[:, :-1], b[:, :-1])
    np.testing.assert_allclose(blocks["pair"].X[:, 0], expected, atol=1e-6)
    assert expected[1] == pytest.approx(1)  # both answers of the third row are empty


@pytest.mark.usefixtures("inputs")
def test_dataset_without_a_backbone_gets_an_empty_set_and_loads_no_torch(tmp_path):
    assert run_stage(tmp_path, "none") == "False"
    assert read_blocks(Layout("none", tmp_path).features("embed"), pd.Series(list("abcd"))) == {}
