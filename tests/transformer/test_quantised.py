"""QLoRA for real: bitsandbytes computes on CPUs too."""

import numpy as np
import pytest
import torch

from stages.core.errors import InputError
from stages.transformer.network.params import Inference
from stages.transformer.network.predict import predict
from stages.transformer.training.checkpoint import Checkpoint
from stages.transformer.training.classifier import TUNED, build, load, save
from stages.transformer.training.loop import Fit

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")  # bitsandbytes warns about the CPU
CPU = torch.device("cpu")
ROWS = np.arange(20)
LORA = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
STEPS = [{"unfreeze": "all", "learning_rate": 1e-2, "head_learning_rate": 1e-2, "epochs": 15}]


@pytest.fixture
def qlora(make_params, tiny):
    def make(bits, folder=None, lora=LORA):
        backbone = make_params().backbone.model_dump() | {
            "name": str(folder or tiny("llama-wide")), "pooling": "last"
        }  # fmt: skip
        return make_params(
            backbone=backbone, lora=lora and {**lora, "bits": bits}, steps=STEPS, precision="bf16"
        )

    return make


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_model_learns_and_is_loaded_as_it_was(qlora, pairs, accelerator, tmp_path, bits):
    params = qlora(bits)
    classifier = build(params, 3, device=CPU, seed=0)
    kinds = {type(module).__name__ for module in classifier.backbone.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in kinds
    assert {name.split(".")[-3] for name, p in classifier.backbone.named_parameters()
            if p.requires_grad} == {"lora_A", "lora_B"}  # fmt: skip
    fit = Fit(
        classifier, pairs, ROWS, np.ones(20), None, params, 0,
        accelerator=accelerator, checkpoint=Checkpoint(tmp_path / "none.pt"), name="fold0",
    )  # fmt: skip
    curve = fit.run()
    assert curve[-1]["train_loss"] < curve[0]["train_loss"] / 2
    save(classifier, tmp_path / "fold0", params)
    scores = predict(classifier, pairs, ROWS, params, accelerator)
    loaded = load(tmp_path / "fold0", device=CPU)
    np.testing.assert_allclose(
        predict(loaded, pairs, ROWS, params, accelerator), scores, atol=1e-2, rtol=0
    )


@pytest.mark.parametrize(
    ("how", "limit"),
    [(Inference("fp16"), 1e-2), (Inference("bf16"), 5e-2), (Inference(bits=8), 0.1)],
)
def test_tuned_model_predicts_in_another_precision(
    make_params, tiny, pairs, accelerator, tmp_path, how, limit
):
    backbone = make_params().backbone.model_dump() | {"name": str(tiny("llama-wide"))}
    params = make_params(backbone=backbone)
    classifier = build(params, 3, device=CPU, seed=0)
    save(classifier, tmp_path / "fold0", params)
    whole, other = (load(tmp_path / "fold0", device=CPU, how=each) for each in (TUNED, how))
    expected = predict(whole, pairs, ROWS, params, accelerator)
    found = predict(other, pairs, ROWS, params, accelerator)
    np.testing.assert_allclose(found, expected, atol=limit * np.abs(expected).max())
    assert np.abs(found - expected).max() > 0
    size = lambda network: sum(p.nbytes for p in network.backbone.layers.parameters())  # noqa: E731
    assert size(other) < 0.6 * size(whole)


def test_quantised_checkpoint_needs_lora(qlora, tmp_path):
    quantised = build(qlora(4), 3, device=CPU, seed=0).backbone.get_base_model()
    for name, module in list(quantised.named_modules()):
        if name.endswith("_proj"):  # without the adapters
            quantised.set_submodule(name, module.base_layer)
    quantised.save_pretrained(tmp_path / "four")
    with pytest.raises(InputError, match=r"lora: got null, but the weights of .*four are quantis"):
        build(qlora(None, tmp_path / "four", lora=None), 3, device=CPU, seed=0)
    classifier = build(qlora(None, tmp_path / "four"), 3, device=CPU, seed=0)
    assert "Linear4bit" in {type(module).__name__ for module in classifier.backbone.modules()}
