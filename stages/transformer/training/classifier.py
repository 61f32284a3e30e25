"""A pretrained backbone with a new linear head: build, freeze, save, load.

All families, encoders and decoders alike, get the same head: pooled last layer, dropout, linear
layer. torch, transformers and peft are imported inside the functions, so that importing this module
loads none of them.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core.errors import InputError
from stages.core.params import check_params
from stages.core.tables import atomic, read_json, write_json
from stages.transformer.network.backbones import (
    check_positions,
    hush_bitsandbytes,
    load_backbone,
    quiet,
)
from stages.transformer.network.devices import allow_recompilations, autocast_dtype
from stages.transformer.network.network import Classifier, full_precision_sdpa, network_class
from stages.transformer.network.params import (
    BackboneParams,
    Bits,
    FinetuneParams,
    Inference,
    LoraParams,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger("verdict")

BACKBONE, ADAPTER = "backbone", "adapter"  # folders inside that of a saved classifier
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's own names, so that it can load these two
ADAPTER_CONFIG = "adapter_config.json"
HEAD, ABOUT = "head.safetensors", "finetune.json"
TUNED = Inference()  # as it was tuned
HEAD_STD = 0.02  # of the new head's weights, as in BERT and most families since
OVERFLOWS = ("deberta", "gemma", "t5")  # families whose activations do not fit into float16


def build(params: FinetuneParams, n_classes: int, *, device: torch.device, seed: int) -> Classifier:
    """A pretrained backbone with a fresh head, on `device`, in training mode.

    All weights are trainable, or with LoRA the adapters and the head. The global random generators
    keep their state.

    Args:
        params: Backbone, LoRA, checkpointing, compile and precision are read.
        n_classes: Number of scores per sequence.
        device: Where the weights go.
        seed: Of the initial weights of the head and the adapters.

    Raises:
        InputError: The backbone cannot be loaded, or cannot run like this on this machine.
    """
    backbone = _load(params, params.backbone, device, params.lora.bits if params.lora else None)
    if getattr(backbone, "is_quantized", False) and not params.lora:
        raise InputError(
            f"lora: got null, but the weights of {params.backbone.name} are quantised, and cannot "
            "be tuned themselves; expected lora, or a model whose weights are not"
        )
    return assemble(backbone, params, n_classes, device=device, seed=seed)


def assemble(
    backbone: Any, params: FinetuneParams, n_classes: int, *, device: torch.device, seed: int
) -> Classifier:
    """Do what `build` does with a transformers model that is already loaded."""
    import torch

    check_positions(backbone, params.encoding.max_tokens, "encoding.max_tokens")
    precision = autocast_dtype(params.precision, device)
    if precision is torch.float16 and any(f in backbone.config.model_type for f in OVERFLOWS):
        log.warning(
            "finetune: activations of %s may be too large for fp16: if the loss becomes NaN, set "
            "precision to fp32", backbone.config.model_type,
        )  # fmt: skip
    fused = backbone.config._attn_implementation == "sdpa"
    if fused and precision is not None and device.type == "cpu":
        backbone.set_attn_implementation(full_precision_sdpa())
    plain = backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(backbone.config.hidden_size, n_classes)
        torch.nn.init.normal_(head.weight, std=HEAD_STD)
        torch.nn.init.zeros_(head.bias)
        if params.lora:
            backbone = _adapt(backbone, params.lora, autocast=precision is not None)
    if params.checkpointing:  # one of the releases of transformers 5 renamed the method
        enable = getattr(plain, "activation_checkpointing_enable", None)
        (enable or plain.gradient_checkpointing_enable)({"use_reentrant": False})
    classifier = network_class()(
        backbone,
        head.to(device),
        params.backbone.pooling,
        params.backbone.dropout,
        precision,
    )
    unfreeze(classifier, "all")
    if params.compile:
        allow_recompilations()
        for layer in _stack(classifier):
            layer.compile(dynamic=True)  # in place, so that the weights keep their names
    return classifier.train()


def layers(classifier: Classifier) -> list[list[nn.Parameter]]:
    """Parameters of the backbone from bottom to top: embeddings, layer 0, ..., layer n - 1.

    What comes after the layers (a final norm) belongs to the last one. With LoRA, frozen weights
    are included; `requires_grad` tells them apart.
    """
    stack = _stack(classifier)
    place = {id(p): i for i, layer in enumerate(stack, start=1) for p in layer.parameters()}
    found: list[list[nn.Parameter]] = [[] for _ in range(len(stack) + 1)]
    last = 0
    for name, parameter in classifier.backbone.named_parameters():
        own = place.get(id(parameter))
        last = own or last
        behind = 0 if last == 0 or "embed" in name else len(stack)
        found[behind if own is None else own].append(parameter)
    return found


def head_parameters(classifier: Classifier) -> list[nn.Parameter]:
    """Weight `(n_classes, n_hidden)` and bias `(n_classes,)` of the head."""
    return list(classifier.head.parameters())


def unfreeze(classifier: Classifier, what: Literal["head", "all"] | int) -> None:
    """Make the head trainable, and nothing, all or the last n layers of the backbone.

    With LoRA, only the adapters of those layers become trainable. All other weights are frozen.

    Raises:
        InputError: The backbone has fewer layers.
    """
    groups = layers(classifier)
    if isinstance(what, int) and what >= len(groups):
        raise InputError(
            f"steps.unfreeze: got {what}; expected at most {len(groups) - 1}, the layers that the "
            "backbone has (or all)"
        )
    n_open = what if isinstance(what, int) else {"head": 0, "all": len(groups)}[what]
    adapters = {id(p) for name, p in classifier.backbone.named_parameters() if "lora_" in name}
    for number, group in enumerate(groups, start=1):
        for parameter in group:
            # quantised weights of a model that only predicts are whole numbers
            may = id(parameter) in adapters if adapters else parameter.is_floating_point()
            parameter.requires_grad_(may and number > len(groups) - n_open)
    for parameter in head_parameters(classifier):
        parameter.requires_grad_(True)


def save(classifier: Classifier, folder: Path, params: FinetuneParams) -> None:
    """Write the classifier as `folder`; the same weights give the same bytes on any machine.

    The folder holds backbone/ (in the format of transformers), or with LoRA only adapter/ (in the
    format of PEFT), or neither if only the head was tuned. Besides, it holds head.safetensors, and
    finetune.json with the params and the number of classes.
    """
    from safetensors.torch import save_file

    with atomic(folder) as temporary:
        temporary.mkdir()
        if params.lora:
            _save_adapter(classifier.backbone, temporary / ADAPTER, params)
        elif _tunes_backbone(params):
            with quiet():
                classifier.backbone.save_pretrained(temporary / BACKBONE)
        head = {name: tensor.contiguous() for name, tensor in classifier.head.state_dict().items()}
        save_file(head, temporary / HEAD)
        write_about(temporary, classifier.head.out_features, params)


def write_about(folder: Path, n_classes: int, params: FinetuneParams) -> None:
    """Write into the folder of a classifier what `load` needs to know of it."""
    about = {"n_classes": n_classes, "params": params.model_dump(mode="json")}
    write_json(about, folder / ABOUT)


def load(
    folder: Path, *, device: torch.device, merge: bool = False, how: Inference = TUNED
) -> Classifier:
    """Load the classifier that `save` wrote, in evaluation mode; it gives the same scores.

    Args:
        folder: What `save` wrote.
        device: Where the weights go.
        merge: Add the adapters to the weights of the backbone. Weights that were quantised during
            training are then loaded unquantised, as they are without the package bitsandbytes, so
            that scores differ by the quantisation error.
        how: In another precision the weights are stored in it, in other bits quantised: less
            memory, and scores that differ by the rounding.

    Raises:
        InputError: The folder is incomplete, or the backbone that the adapters or the head belong
            to cannot be found.
    """
    about, stored = read_json(folder / ABOUT), stored_params(folder)
    params = stored.model_copy(
        update={
            "compile": False,
            "checkpointing": False,
            "precision": how.precision or stored.precision,
        }
    )
    lora, source = params.lora, params.backbone
    if not share_backbone(params):
        own = {"name": str((folder / BACKBONE).resolve()), "revision": None}
        source = source.model_copy(update=own)
    bits = how.bits or (lora.bits if lora and find_spec("bitsandbytes") else None)
    half = autocast_dtype(how.precision, device) if how.precision else None
    backbone = _load(params, source, device, None if merge else bits, half)
    classifier = assemble(backbone, params, about["n_classes"], device=device, seed=0)
    load_tuned(classifier, folder, params)
    if lora and merge:
        classifier.backbone = classifier.backbone.merge_and_unload()
    return classifier.eval()


def load_tuned(classifier: Classifier, folder: Path, params: FinetuneParams) -> None:
    """Load the head, and with LoRA the adapters, that `save` wrote into a classifier."""
    classifier.head.load_state_dict(_weights(folder / HEAD))
    if params.lora:
        _load_adapter(classifier.backbone, folder / ADAPTER)


def share_backbone(params: FinetuneParams) -> bool:
    """Whether models of these params differ only in what `load_tuned` reads."""
    return params.lora is not None or not _tunes_backbone(params)


def stored_params(folder: Path) -> FinetuneParams:
    """The params that `save` wrote.

    Raises:
        InputError: They are missing or damaged, or were written by another version of the code.
    """
    path = folder / ABOUT
    return check_params(FinetuneParams, read_json(path).get("params"), path, "params")


def _tunes_backbone(params: FinetuneParams) -> bool:
    return any(step.unfreeze != "head" for step in params.steps)


def _load(
    params: FinetuneParams,
    source: BackboneParams,
    device: torch.device,
    bits: Bits | None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Load the backbone in `dtype`; by default frozen weights are half precision on a GPU."""
    import torch

    half = dtype or (
        params.lora and device.type == "cuda" and autocast_dtype(params.precision, device)
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws weights that it discards
        return load_backbone(source, device=device, dtype=half or torch.float32, bits=bits)


def _adapt(backbone: Any, lora: LoraParams, *, autocast: bool) -> Any:
    """Add adapters, in full precision, to the linear layers of the backbone."""
    hush_bitsandbytes()  # which PEFT imports where it is installed
    from peft import LoraConfig, get_peft_model
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    options: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        "use_rslora": lora.rank_stabilised,
        "fan_in_fan_out": any(isinstance(m, Conv1D) for m in backbone.modules()),  # GPT-2
    }
    try:
        with warnings.catch_warnings():  # PEFT reads a property that transformers renamed
            warnings.simplefilter("ignore", FutureWarning)
            adapted: Any = get_peft_model(backbone, LoraConfig(**options))
    except ValueError as error:
        known = {
            name.rpartition(".")[2]
            for name, module in backbone.named_modules()
            if isinstance(module, Linear | Conv1D)
        }
        raise InputError(
            f"lora.targets: {error}, got {lora.targets!r}; expected 'all-linear' or some of "
            f"{sorted(known)}"
        ) from error
    for module in adapted.modules() if autocast else ():
        if hasattr(module, "cast_input_dtype_enabled"):
            # autocast already casts the inputs of the adapters; PEFT's own cast to full precision
            # would keep a copy of every input for the backward pass
            module.cast_input_dtype_enabled = False
    return adapted


def _save_adapter(backbone: Any, folder: Path, params: FinetuneParams) -> None:
    """Write what `PeftModel.from_pretrained` reads.

    PEFT's own `save_pretrained` queries the hub, writes the targets in the order of a set, and
    stores the path of the backbone on this machine.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir()
    weights = get_peft_model_state_dict(backbone, save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / ADAPTER_WEIGHTS
    )
    config = backbone.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": params.backbone.name,
        "revision": params.backbone.revision,
        "inference_mode": True,
    }
    plain = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in sorted(config.items())
    }
    write_json(plain, folder / ADAPTER_CONFIG)


def _load_adapter(backbone: Any, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    path = folder / ADAPTER_WEIGHTS
    report: Any = set_peft_model_state_dict(backbone, _weights(path))
    wrong = [*report.unexpected_keys, *(key for key in report.missing_keys if "lora_" in key)]
    if wrong:
        raise InputError(f"{path}: not the adapters of this backbone, the first is {wrong[0]}")


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error


def _stack(classifier: Classifier) -> nn.ModuleList:
    """The layers of the backbone: of the module lists of that length, the one with most weights."""
    from torch.nn import ModuleList

    n_layers = classifier.backbone.config.num_hidden_layers
    lists = [m for m in classifier.backbone.modules() if isinstance(m, ModuleList)]
    stacks = [stack for stack in lists if len(stack) == n_layers]
    if not stacks:
        family = classifier.backbone.config.model_type
        raise InputError(
            f"backbone.name: no list of {n_layers} layers in it, got the family {family!r}; "
            "expected one whose layers have weights of their own"
        )
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))
