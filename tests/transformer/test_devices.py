import logging
from types import SimpleNamespace

import pytest
import torch

from stages.core.errors import InputError
from stages.transformer.network import devices
from stages.transformer.network.devices import (
    Abilities,
    abilities,
    autocast_dtype,
    choose_attention,
    is_out_of_memory,
)
from stages.transformer.network.params import BackboneParams

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
KIB = 1024
# compute capability and bytes of shared memory that a block can have, as NVIDIA's table gives them
CARDS = {
    "V100": ((7, 0), 96 * KIB),
    "T4": ((7, 5), 64 * KIB),
    "A100": ((8, 0), 163 * KIB),
    "RTX 3090": ((8, 6), 99 * KIB),
    "RTX 4090": ((8, 9), 99 * KIB),
    "H200": ((9, 0), 227 * KIB),
    "RTX 5090": ((12, 0), 99 * KIB),
}


@pytest.fixture
def card(monkeypatch):
    """`card(name, flash)`: torch sees that card."""

    def see(name, *, flash=False):
        (major, minor), memory = CARDS[name]
        facts = SimpleNamespace(major=major, minor=minor, shared_memory_per_block_optin=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: major >= 8)
        monkeypatch.setattr(devices, "find_spec", lambda name: object() if flash else None)
        return abilities(CUDA)

    return see


def params(**changes):
    return BackboneParams(name="/x", **({"dropout": 0.0} | changes))


def gemma2(head_dim=256):
    return SimpleNamespace(attn_logit_softcapping=50.0, model_type="gemma2", head_dim=head_dim)


@pytest.mark.parametrize("name", CARDS)
def test_auto_is_bf16_from_ampere_on_and_fp16_before(card, name):
    card(name)
    assert autocast_dtype("auto", CUDA) is (FP16 if name in {"V100", "T4"} else BF16)


def test_precision_is_what_the_params_say():
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) is BF16
    assert autocast_dtype("fp16", CPU) is FP16
    assert autocast_dtype("auto", CPU) in {None, BF16}


@pytest.mark.parametrize(
    ("name", "head_dim", "expected"),
    [
        ("A100", 256, "flex_attention"),
        ("H200", 256, "flex_attention"),
        ("RTX 4090", 256, "eager"),  # Gemma-2's heads want 144 KiB
        ("RTX 3090", 128, "flex_attention"),
        ("RTX 5090", 256, "eager"),
        ("T4", 128, "eager"),
        ("V100", 128, "eager"),
        ("H200", 512, "eager"),
    ],
)
def test_attention_with_a_cap_is_what_the_card_can_hold(card, name, head_dim, expected):
    can = card(name)
    half = BF16 if can.bf16 else FP16
    assert choose_attention(params(), gemma2(head_dim), can, half) == expected
    assert choose_attention(params(), gemma2(head_dim), can, FP32) == "eager"


def test_flash_attention_is_preferred_where_it_is_installed(card):
    assert choose_attention(params(), gemma2(), card("RTX 4090", flash=True), BF16) == (
        "flash_attention_2"
    )
    assert choose_attention(params(), gemma2(), card("T4", flash=True), FP16) == "eager"


def test_flex_attention_has_no_dropout(card):
    dropping = params(attention_dropout=0.1)
    assert choose_attention(dropping, gemma2(), card("H200"), BF16) == "eager"


def test_attention_without_a_cap_is_left_to_transformers(card):
    plain = SimpleNamespace(model_type="llama")
    assert choose_attention(params(), plain, card("H200"), BF16) is None


def test_flash_attention_that_is_not_installed_is_refused(card):
    asked = params(attention="flash_attention_2")
    with pytest.raises(InputError, match=r"got 'flash_attention_2'; expected auto, or a GPU of"):
        choose_attention(asked, gemma2(), card("H200"), BF16)
    assert choose_attention(asked, gemma2(), card("H200", flash=True), BF16) == asked.attention


def test_cpu_has_no_block_memory():
    assert choose_attention(params(), gemma2(), Abilities("cpu", bf16=True), BF16) == "eager"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_exhausted_memory_is_known_by_its_words(error):
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_exhausted_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_recompilations_are_allowed_wherever_flex_is_chosen(monkeypatch, caplog):
    import torch._dynamo.config as config

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(config, "recompile_limit", 8)
    monkeypatch.setattr(config, "accumulated_recompile_limit", 256)
    devices.allow_recompilations()
    assert config.recompile_limit >= 64
