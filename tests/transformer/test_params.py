from pathlib import Path

import pytest

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.transformer.network.params import read_finetune

SECTION = """
finetune:
  tiny:
    backbone:
      name: minilm
      revision: null
      pooling: mean
      attention: auto
      dropout: 0.1
      attention_dropout: 0.0
    encoding:
      max_tokens: 64
      prompt_tokens: null
    steps:
    - unfreeze: head
      learning_rate: 2e-5
      head_learning_rate: 1e-3
      epochs: 0.5
    - unfreeze: 2
      learning_rate: 2e-5
      head_learning_rate: 1e-3
      epochs: 1
    lora: null
    batch_size: 32
    tokens_per_batch: 4096
    schedule: linear
    warmup: 0.1
    layer_decay: 1
    weight_decay: 0.01
    label_smoothing: 0.0
    r_drop: 0.0
    clip: 1.0
    balance: none
    checkpointing: false
    compile: false
    precision: auto
    folds: null
    test: mean
    checkpoint_steps: null
    stopping: null
    seed: 0
    seeds: 1
"""


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(section):
    Path("params").mkdir()
    Path("params/demo.yaml").write_text(section, encoding="utf-8")


def read(section=SECTION):
    write(section)
    return read_finetune(Layout("demo"), "tiny")


def test_section_of_a_backbone_is_read_whole():
    params = read()
    assert [step.unfreeze for step in params.steps] == ["head", 2]
    assert params.steps[0].learning_rate == 2e-5
    assert params.lora is None


def test_null_section_is_none():
    assert read("finetune:\n  tiny:\n") is None


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        (
            "finetune:\n  other:\n",
            "finetune.tiny: no section 'tiny', got other; expected a section",
        ),
        (
            "finetune:\n  tiny: 3\n",
            r"finetune.tiny: got 3; expected an object with keys of \['back",
        ),
        ("finetune:\n  tiny: {seed: 0}\n", "finetune.tiny.backbone: missing; expected a value"),
    ],
)
def test_missing_or_wrong_section_is_refused(section, fault):
    with pytest.raises(InputError, match=fault):
        read(section)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("unfreeze: 2", "unfreeze: 0", "steps.1.unfreeze"),
        ("unfreeze: head", "unfreeze: tail", "steps.0.unfreeze"),
        ("dropout: 0.1", "dropout: 1.0", "backbone.dropout"),
        ("max_tokens: 64", "max_tokens: 4", "encoding.max_tokens"),
        ("layer_decay: 1", "layer_decay: 0", "layer_decay"),
        ("folds: null", "folds: [a]", "folds.0"),
        ("seed: 0", "seed: 0\n    rank: 8", "rank"),
        ("r_drop: 0.0", "r_drop: -1.0", "r_drop"),
        (
            "lora: null",
            "lora: {rank: 8, alpha: 16, dropout: 0, targets: all, rank_stabilised: true, bits: 4}",
            "lora.targets",
        ),
        (
            "lora: null",
            "lora: {rank: 8, alpha: 16, dropout: 0, targets: [q], rank_stabilised: true, bits: 2}",
            "lora.bits",
        ),
    ],
)
def test_wrong_value_is_named(old, new, fault):
    assert old in SECTION
    with pytest.raises(InputError, match=f"finetune.tiny.{fault}"):
        read(SECTION.replace(old, new))


def test_r_drop_needs_dropout():
    section = SECTION.replace("r_drop: 0.0", "r_drop: 1.0")
    fault = "finetune.tiny.r_drop: .*expected 0, or a backbone with dropout"
    with pytest.raises(InputError, match=fault):
        read(section.replace("dropout: 0.1", "dropout: 0.0"))
