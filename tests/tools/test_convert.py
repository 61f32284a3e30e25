"""A folder as the hub has microsoft/deberta-v3-base: pickled weights, a sentencepiece file."""

import json
from pathlib import Path

import pytest
import torch

from stages.core.errors import InputError
from stages.tools import fetch
from stages.transformer.network.backbones import load_backbone, load_tokenizer
from stages.transformer.network.params import BackboneParams

CPU = torch.device("cpu")
WORDS = "the a cat dog sat ran on under mat tree and or quickly slowly big small red blue"


@pytest.fixture
def deberta(tmp_path):
    import sentencepiece
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    folder = tmp_path / "deberta-v3-tiny"
    folder.mkdir()
    lines = [
        f"{a} {b} {c}" for a in WORDS.split() for b in WORDS.split() for c in WORDS.split()[:3]
    ]
    with (folder / "spm.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=36, minloglevel=2,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
            eos_piece="[SEP]", unk_piece="[UNK]",
        )  # fmt: skip
    config = DebertaV2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, relative_attention=True, type_vocab_size=0,
    )  # fmt: skip
    config.save_pretrained(folder)
    torch.manual_seed(0)
    weights = DebertaV2ForMaskedLM(config).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"do_lower_case": False, "vocab_type": "spm", "tokenizer_class": "DebertaV2Tokenizer"}
        )
    )
    return folder, weights


def params(folder):
    return BackboneParams(name=str(folder))


def test_pickled_folder_is_refused_with_the_command_that_converts_it(deberta):
    with pytest.raises(InputError, match=r"no safetensors in .*`verdict fetch --model .*tiny`"):
        load_backbone(params(deberta[0]), device=CPU, dtype=torch.float32)
    with pytest.raises(InputError, match=r"verdict fetch --model"):
        load_tokenizer(params(deberta[0]))


def test_converted_folder_has_the_same_weights_and_words(deberta, tmp_path):
    folder, weights = deberta
    fetch.main(model=str(folder), to=tmp_path / "backbones")
    made = tmp_path / "backbones" / folder.name
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in made.iterdir()
    }
    assert not list(made.glob("*.bin"))
    model = load_backbone(params(made), device=CPU, dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[f"deberta.{name}"], rtol=0, atol=0)
    tokenizer = load_tokenizer(params(made))
    ids = tokenizer("the cat sat")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat sat"
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_weights_that_hold_code_are_refused(deberta, tmp_path):
    folder, _ = deberta
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: refused, got more than tensors"):
        fetch.main(model=str(folder), to=tmp_path / "backbones")
    assert not marker.exists()
    assert not (tmp_path / "backbones" / folder.name).exists()


def test_model_of_the_hub_needs_a_commit(tmp_path):
    with pytest.raises(
        InputError, match=r"--model: got 'microsoft/deberta-v3-base'; expected <id>@"
    ):
        fetch.main(model="microsoft/deberta-v3-base", to=tmp_path)


def test_model_and_dataset_at_once_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--model: got './x' and a dataset .*expected it alone"):
        fetch.main("dbpedia14", model="./x", to=tmp_path)


def test_folder_without_weights_is_refused(deberta, tmp_path):
    folder, _ = deberta
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin: missing"):
        fetch.main(model=str(folder), to=tmp_path / "backbones")
