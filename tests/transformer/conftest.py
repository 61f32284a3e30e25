"""Tiny models on disk, each written once a session."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

SPEC = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
# by its path: a dependency installs a package `tests`, which hides this folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(family) -> folder` with the model and the tokenizer of that family."""
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    return cache(lambda family: module.write_tiny(tmp_path_factory.mktemp("tiny") / family, family))


@pytest.fixture(scope="session")
def make_params(tiny):
    """`make_params(**changes)`: a run of two epochs of full tuning of the tiny BERT, no dropout."""
    from stages.transformer.network.params import FinetuneParams

    plain = {
        "backbone": {
            "name": str(tiny("bert")), "revision": None, "pooling": "mean", "attention": "auto",
            "dropout": 0.0, "attention_dropout": 0.0,
        },
        "encoding": {"max_tokens": 64, "prompt_tokens": 16},
        "steps": [
            {"unfreeze": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 2}
        ],
        "lora": None, "batch_size": 8, "tokens_per_batch": 256, "schedule": "linear",
        "warmup": 0.1, "layer_decay": 0.9, "weight_decay": 0.01, "label_smoothing": 0.0,
        "r_drop": 0.0, "clip": 1.0, "balance": "none", "checkpointing": False, "compile": False,
        "precision": "fp32", "folds": None, "test": "mean", "checkpoint_steps": None,
        "stopping": None, "seed": 0, "seeds": 1,
    }  # fmt: skip

    def make(**changes):
        return FinetuneParams.model_validate_json(json.dumps(plain | changes))

    return make


@pytest.fixture(scope="session")
def pairs():
    """Pairs as tokens, both orders: the answer with more of token 10 wins. Targets with ties."""
    from stages.core.tasks import Preference
    from stages.transformer.network.predict import Data
    from stages.transformer.network.tokens import Tokens

    rng = np.random.default_rng(0)
    sequences, targets = [], []
    for _ in range(30):
        a, b = (rng.integers(8, 14, rng.integers(2, 20)) for _ in range(2))
        gap = (a == 10).sum() - (b == 10).sum()
        for first, second in ((a, b), (b, a)):
            sequences.append(np.array([2, *first, 3, *second, 3], np.int32))
        targets.append(np.eye(3)[2 if gap == 0 else int(gap < 0)])
    return Data(Preference(), Tokens.of(sequences, 2, 0), np.array(targets))


@pytest.fixture
def accelerator():
    """One process on the CPU, one thread."""
    import torch
    from accelerate import Accelerator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Accelerator(cpu=True)
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread():
    """Threads that wait for each other cost tiny models more than they do, on busy machines."""
    import torch

    given = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(given)
