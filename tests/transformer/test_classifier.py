import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.errors import InputError
from stages.core.tables import read_json
from stages.transformer.network.network import align_left, pool
from stages.transformer.network.params import FinetuneParams
from stages.transformer.training.classifier import (
    build,
    head_parameters,
    layers,
    load,
    save,
    unfreeze,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = (
    "bert", "distilbert", "roberta", "deberta-v2", "modernbert", "t5",
    "gpt2", "gemma2", "llama", "qwen2",
)  # fmt: skip
LORA = {
    "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear",
    "rank_stabilised": False, "bits": None,
}  # fmt: skip
WAYS = {"full": None, "lora": LORA}
PLAIN = {
    "encoding": {"max_tokens": 64, "prompt_tokens": None},
    "steps": [{"unfreeze": "all", "learning_rate": 0.1, "head_learning_rate": 0.1, "epochs": 1.0}],
    "lora": None, "batch_size": 4, "tokens_per_batch": 64, "schedule": "linear", "warmup": 0.0,
    "layer_decay": 1.0, "weight_decay": 0.0, "label_smoothing": 0.0, "r_drop": 0.0, "clip": 1.0,
    "balance": "none", "checkpointing": False, "compile": False, "precision": "fp32",
    "folds": None, "test": "mean", "checkpoint_steps": None, "stopping": None,
    "seed": 0, "seeds": 1,
}  # fmt: skip
TORCH_DEPRECATES = pytest.mark.filterwarnings(  # what its own compiler imports
    "ignore:.*torch.jit.script:DeprecationWarning"
)
EXACT = {"atol": 1e-5, "rtol": 0}


def params_of(folder, **changes):
    backbone = {
        "name": str(folder), "revision": None, "pooling": changes.pop("pooling", "mean"),
        "attention": "auto", "dropout": 0.1, "attention_dropout": 0.0,
    }  # fmt: skip
    tree = {"backbone": backbone} | PLAIN | changes
    return FinetuneParams.model_validate(tree, strict=False)


def make(params, n_classes=3, seed=1):
    return build(params, n_classes, device=CPU, seed=seed)


def trained(params):
    """A classifier whose head and weights (or adapters) have moved."""
    classifier = make(params)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return classifier.eval()


def batch(n=32, longest=40, side="right"):
    """Sequences of mixed lengths, padded with the pad token that most families have at 0."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, longest + 1, (n,), generator=generator)
    lengths[0] = longest
    tokens = torch.randint(8, 250, (n, longest), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).long()
    if side == "left":
        order = (lengths[:, None] + torch.arange(longest)) % longest
        tokens, mask = tokens.gather(1, order), mask.flip(1)
    return tokens, mask


def fill(tokens, mask, folder):
    pad = read_json(Path(folder) / "config.json").get("pad_token_id")
    return torch.where(mask == 1, tokens, 0 if pad is None else pad)


@torch.no_grad()
def probabilities(classifier, tokens, mask):
    return torch.softmax(classifier(tokens, mask).double(), dim=1)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def test_batch_size_and_padding_side_do_not_change_probabilities(tiny, family):
    folder = tiny(family)
    classifier = trained(params_of(folder))
    for pooling in ("mean", "first", "last"):
        classifier.pooling = pooling
        check_invariance(classifier, folder, pooling)


def check_invariance(classifier, folder, pooling):
    tokens, mask = batch()
    right = probabilities(classifier, fill(tokens, mask, folder), mask)
    assert right.std(dim=0).max() > (0 if pooling == "first" and classifier.causal else 1e-3)
    alone = [
        probabilities(classifier, row[keep == 1][None], None)
        for row, keep in zip(tokens, mask, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), right, **EXACT)
    tokens, mask = batch(side="left")
    left = probabilities(classifier, fill(tokens, mask, folder), mask)
    torch.testing.assert_close(left, right, **EXACT)


@pytest.mark.parametrize("lora", WAYS.values(), ids=WAYS)
def test_saved_and_loaded_gives_the_same_probabilities(tiny, family, lora, tmp_path):
    params = params_of(tiny(family), lora=lora)
    classifier = trained(params)
    save(classifier, tmp_path / "fold0", params)
    expected = probabilities(classifier, *batch())
    loaded = load(tmp_path / "fold0", device=CPU)
    torch.testing.assert_close(probabilities(loaded, *batch()), expected, **EXACT)
    merged = load(tmp_path / "fold0", device=CPU, merge=True)
    torch.testing.assert_close(probabilities(merged, *batch()), expected, **EXACT)
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    untrained = probabilities(make(params).eval(), *batch())
    assert (untrained - expected).abs().max() > 1e-3


def test_adapters_start_as_the_pretrained_backbone(tiny, family):
    plain, adapted = make(params_of(tiny(family))), make(params_of(tiny(family), lora=LORA))
    torch.testing.assert_close(
        probabilities(adapted.eval(), *batch()), probabilities(plain.eval(), *batch()), **EXACT
    )


def test_layers_hold_every_weight_of_the_backbone_once_from_bottom_to_top(tiny, family):
    classifier = make(params_of(tiny(family)))
    groups = layers(classifier)
    assert len(groups) == 4
    ours = [id(p) for group in groups for p in group]
    assert sorted(ours) == sorted(id(p) for p in classifier.backbone.parameters())
    names = {id(p): name for name, p in classifier.backbone.named_parameters()}
    bottom = {names[id(p)].split(".")[-2] for p in groups[0]}
    assert bottom & {"word_embeddings", "tok_embeddings", "embed_tokens", "wte", "shared"}
    for number, group in enumerate(groups[1:]):
        assert f".{number}." in names[id(group[0])]


def moved(classifier):
    """Numbers of the groups, with the head as -1, that a step of gradient descent moves."""
    tokens, mask = batch(n=4, longest=12)
    classifier.zero_grad(set_to_none=True)
    classifier(tokens, mask).square().sum().backward()
    groups = dict(enumerate(layers(classifier))) | {-1: head_parameters(classifier)}
    return {n for n, group in groups.items() if any(p.grad is not None for p in group)}


@pytest.mark.parametrize("lora", WAYS.values(), ids=WAYS)
def test_only_what_is_unfrozen_learns(tiny, lora):
    classifier = make(params_of(tiny("bert"), lora=lora))
    everything = {0, 1, 2, 3} if lora is None else {1, 2, 3}
    assert moved(classifier) == everything | {-1}
    unfreeze(classifier, "head")
    assert moved(classifier) == {-1}
    unfreeze(classifier, 2)
    assert moved(classifier) == {-1, 2, 3}
    learning = [n for n, p in classifier.backbone.named_parameters() if p.requires_grad]
    assert lora is None or all("lora_" in name for name in learning)
    unfreeze(classifier, "all")
    assert moved(classifier) == everything | {-1}


def test_more_layers_than_there_are_cannot_be_unfrozen(tiny):
    with pytest.raises(InputError, match=r"steps.unfreeze: got 4; expected at most 3"):
        unfreeze(make(params_of(tiny("bert"))), 4)


def test_sequences_longer_than_the_learned_positions_are_refused(tiny):
    encoding = {"max_tokens": 97, "prompt_tokens": None}
    for family, longest in {"bert": 96, "distilbert": 96, "roberta": 98, "gpt2": 96}.items():
        params = params_of(tiny(family), encoding=encoding | {"max_tokens": longest})
        make(params)
        with pytest.raises(InputError, match=rf"max_tokens: got {longest + 1}; .* most {longest},"):
            make(params_of(tiny(family), encoding=encoding | {"max_tokens": longest + 1}))
    make(params_of(tiny("deberta-v2"), encoding=encoding))


def test_seed_draws_the_head_and_leaves_the_global_generator(tiny):
    params = params_of(tiny("bert"), lora=LORA)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (dict(make(params, seed=s).named_parameters()) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    differ = {name for name, value in one.items() if not torch.equal(value, other[name])}
    assert "head.weight" in differ
    assert all("lora_A" in name or name == "head.weight" for name in differ)
    assert one["head.weight"].std() < 0.03


def test_targets_that_the_backbone_lacks_are_refused_with_those_it_has(tiny):
    lora = LORA | {"targets": ["q_proj"]}
    with pytest.raises(InputError, match=r"(?s)lora.targets: .*'key', 'query', 'value'"):
        make(params_of(tiny("bert"), lora=lora))
    adapted = make(params_of(tiny("llama"), lora=lora))
    assert [sum(p.requires_grad for p in group) for group in layers(adapted)] == [0, 2, 2, 2]


def test_rank_stabilised_adapters_scale_by_the_root_of_the_rank(tiny):
    def scaling(**changes):
        backbone = make(params_of(tiny("bert"), lora=LORA | changes)).backbone
        return {m.scaling["default"] for m in backbone.modules() if hasattr(m, "lora_A")}

    assert scaling() == {2.0}
    assert scaling(rank_stabilised=True) == {4.0}


@pytest.mark.parametrize("lora", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("family", ["bert", "gemma2"])
def test_checkpointing_does_not_change_gradients(tiny, family, lora):
    def gradients(checkpointing):
        classifier = make(params_of(tiny(family), lora=lora, checkpointing=checkpointing))
        torch.manual_seed(0)
        classifier(*batch(n=4)).square().sum().backward()
        return {n: p.grad for n, p in classifier.named_parameters() if p.grad is not None}

    plain, saving = gradients(checkpointing=False), gradients(checkpointing=True)
    assert plain.keys() == saving.keys()
    assert len(plain) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, msg=name)


def test_bfloat16_is_within_a_hundredth_and_scores_stay_float32(tiny, family):
    exact = trained(params_of(tiny(family)))
    rough = trained(params_of(tiny(family), precision="bf16"))
    found = probabilities(rough, *batch())
    assert rough(*batch()).dtype == torch.float32
    torch.testing.assert_close(found, probabilities(exact, *batch()), atol=1e-2, rtol=0)


@TORCH_DEPRECATES
def test_compiling_keeps_the_names_of_the_weights(tiny):
    plain, compiled = (make(params_of(tiny("bert"), compile=c)) for c in (False, True))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert compiled.backbone.encoder.layer[0]._compiled_call_impl is not None


SAVE = """
import json, sys
from pathlib import Path
import torch
from stages.transformer.training.classifier import build, save
from stages.transformer.network.params import FinetuneParams
for name, given in json.loads(sys.argv[1]).items():
    params = FinetuneParams.model_validate_json(json.dumps(given))
    save(build(params, 3, device=torch.device("cpu"), seed=1), Path(sys.argv[2]) / name, params)
"""


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f.relative_to(folder).as_posix(): sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_weights_are_the_same_bytes_in_every_process_and_folder(tiny, tmp_path):
    kinds = {name: params_of(tiny("bert"), lora=lora) for name, lora in WAYS.items()}
    for name, params in kinds.items():
        save(make(params), tmp_path / "here" / name, params)
    given = json.dumps({name: params.model_dump(mode="json") for name, params in kinds.items()})
    command = [sys.executable, "-c", SAVE, given, str(tmp_path / "there")]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert set(content(tmp_path / "here")) == {
        "full/backbone/config.json", "full/backbone/model.safetensors",
        "full/head.safetensors", "full/finetune.json",
        "lora/adapter/adapter_config.json", "lora/adapter/adapter_model.safetensors",
        "lora/head.safetensors", "lora/finetune.json",
    }  # fmt: skip


def test_saved_adapter_is_one_that_peft_loads(tiny, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    params = params_of(tiny("llama"), lora=LORA)
    classifier = trained(params)
    save(classifier, tmp_path / "fold0", params)
    plain = AutoModel.from_pretrained(tiny("llama"))
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        theirs = PeftModel.from_pretrained(plain, tmp_path / "fold0/adapter").eval()
    tokens, _ = batch(n=1)
    with torch.no_grad():
        expected = classifier.backbone(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(theirs(input_ids=tokens).last_hidden_state, expected)


def test_saving_replaces_what_was_there_without_a_word(tiny, tmp_path, capfd):
    (tmp_path / "fold0/adapter").mkdir(parents=True)
    params = params_of(tiny("bert"))
    save(make(params), tmp_path / "fold0", params)
    assert not (tmp_path / "fold0/adapter").exists()
    assert capfd.readouterr() == ("", "")


def test_head_alone_is_saved_where_it_alone_was_tuned(tiny, tmp_path):
    step = {"unfreeze": "head", "learning_rate": 1e-3, "head_learning_rate": 1e-2, "epochs": 1}
    params = params_of(tiny("bert"), steps=[step])
    classifier = make(params).eval()
    torch.nn.init.normal_(classifier.head.weight)
    save(classifier, tmp_path / "fold0", params)
    files = sorted(path.name for path in (tmp_path / "fold0").iterdir())
    assert files == ["finetune.json", "head.safetensors"]
    expected = probabilities(classifier, *batch())
    found = probabilities(load(tmp_path / "fold0", device=CPU), *batch())
    torch.testing.assert_close(found, expected, **EXACT)


def test_damaged_folders_are_refused(tiny, tmp_path):
    params = params_of(tiny("bert"), lora=LORA)
    save(make(params), tmp_path / "fold0", params)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load(tmp_path / "nowhere", device=CPU)
    other = params_of(tiny("gpt2"), lora=LORA)
    save(make(other), tmp_path / "other", other)
    adapter = tmp_path / "other/adapter"
    adapter.rename(tmp_path / "gpt2")
    shutil.copytree(tmp_path / "fold0/adapter", adapter)
    with pytest.raises(InputError, match="not the adapters of this backbone"):
        load(tmp_path / "other", device=CPU)
    (tmp_path / "fold0/head.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load(tmp_path / "fold0", device=CPU)


@TORCH_DEPRECATES
def test_loading_neither_compiles_nor_checkpoints(tiny, tmp_path):
    params = params_of(tiny("bert"), compile=True, checkpointing=True)
    save(make(params), tmp_path / "fold0", params)
    loaded = load(tmp_path / "fold0", device=CPU)
    assert not loaded.training
    assert loaded.backbone.encoder.layer[0]._compiled_call_impl is None
    assert read_json(tmp_path / "fold0/finetune.json") == {
        "n_classes": 3,
        "params": params.model_dump(mode="json"),
    }


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0], [2.0], [9.0]], [[4.0], [5.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[1.5], [5.0]]
    assert pool(hidden, mask, "first").tolist() == [[1.0], [4.0]]
    assert pool(hidden, mask, "last").tolist() == [[2.0], [6.0]]
    assert pool(hidden, None, "mean").tolist() == [[4.0], [5.0]]
    assert pool(hidden, None, "last").tolist() == [[9.0], [6.0]]


def test_rows_are_aligned_left_in_their_order():
    ids, mask = torch.tensor([[0, 7, 8], [5, 6, 0]]), torch.tensor([[0, 1, 1], [1, 1, 0]])
    ids, mask = align_left(ids, mask)
    assert ids.tolist() == [[7, 8, 0], [5, 6, 0]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 0]]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn about themselves
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_cuda_gives_the_probabilities_of_the_cpu(tiny, family, compiled):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = probabilities(make(params_of(tiny(family), lora=LORA)).eval(), *batch())
    tokens, mask = (tensor.cuda() for tensor in batch())
    for precision, distance in {"fp32": 1e-4, "bf16": 1e-2}.items():
        params = params_of(tiny(family), lora=LORA, compile=compiled, precision=precision)
        classifier = build(params, 3, device=torch.device("cuda"), seed=1)
        assert classifier(tokens, mask).square().sum().backward() is None
        found = probabilities(classifier.eval(), tokens, mask).cpu()
        torch.testing.assert_close(found, expected, atol=distance, rtol=0)


@TORCH_DEPRECATES
@pytest.mark.filterwarnings("ignore")  # compilers warn about themselves
def test_few_graphs_are_compiled_for_many_shapes(tiny, monkeypatch):
    from torch._dynamo.utils import counters

    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compile_(self, backend="eager", **how)
    )
    torch._dynamo.reset()
    counters.clear()
    params = params_of(tiny("bert"), compile=True)
    classifier = build(params, 3, device=CPU, seed=1)
    rng = np.random.default_rng(0)
    for _ in range(90):
        n, longest = int(rng.integers(2, 30)), int(rng.integers(3, 60))
        ids = torch.from_numpy(rng.integers(5, 40, (n, longest)))
        mask = torch.ones_like(ids)
        mask[0, -1] = 0
        classifier(ids, mask).sum().backward()
    assert counters["stats"]["unique_graphs"] <= 20
    assert not counters["graph_break"]
