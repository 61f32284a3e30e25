"""Find, check and load pretrained networks and their tokenizers, without running their code.

Weights are safetensors from a Python package (`minilm` and `mpnet`, which need no hub), from a
pinned revision on the Hugging Face hub, or from a local folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import InputError
from stages.transformer.network.devices import abilities, allow_recompilations, choose_attention
from stages.transformer.network.packaged import PACKAGED, packaged_folder
from stages.transformer.network.params import BackboneParams, Bits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# names of the dropout rates in the configs; families without a hidden one (Llama, Gemma, Qwen) have
# no such dropout
HIDDEN_DROPOUTS = (
    "hidden_dropout_prob", "dropout", "dropout_rate", "resid_pdrop", "embd_pdrop",
    "embedding_dropout", "mlp_dropout",
)  # fmt: skip
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


@dataclass(frozen=True)
class Source:
    """A local folder (revision None), or an id on the hub and its revision."""

    path: str
    revision: str | None


def locate(params: BackboneParams) -> Source:
    """Where the files of the backbone are.

    Raises:
        InputError: A folder has no model, a hub id has no revision, or the files of a package are
            not the published ones.
    """
    if params.name in PACKAGED:
        network = PACKAGED[params.name]
        folder = packaged_folder(network)
        return Source(str(folder), None) if folder else Source(network.hub, network.revision)
    if params.name.startswith((".", "/")):
        if not (Path(params.name) / "config.json").is_file():
            raise InputError(
                f"backbone.name: no model there, got {params.name!r}; expected a folder with "
                "config.json, model.safetensors and tokenizer.json"
            )
        if not any(Path(params.name).glob("*.safetensors")):
            raise InputError(
                f"backbone.name: no safetensors in {params.name!r}; expected the folder that "
                f"`verdict fetch --model {params.name}` makes of it"
            )
        return Source(params.name, None)
    if params.revision is None:
        raise InputError(
            f"backbone.revision: got null for {params.name!r}; expected a commit or a tag of that "
            "model on the hub, so that its weights cannot change (or as name a local folder, "
            f"starting with . or /, or one of {sorted(PACKAGED)})"
        )
    return Source(params.name, params.revision)


def load_tokenizer(params: BackboneParams) -> PreTrainedTokenizerFast:
    """The fast tokenizer of the backbone; see `read_tokenizer`."""
    return read_tokenizer(locate(params))


def read_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a source, with a pad token and without warnings about long texts.

    If the family has no pad token, the end token or the unknown token is used: the mask hides
    padding anyway, and a new token would need one more row in the embeddings.

    Raises:
        InputError: It cannot be loaded, or has no fast version.
    """
    from transformers import AutoTokenizer

    if source.revision is None and not (Path(source.path) / "tokenizer.json").is_file():
        # transformers would make an empty tokenizer, which knows no token
        raise InputError(
            f"{source.path}: no tokenizer there; expected tokenizer.json, as `verdict fetch "
            f"--model {source.path}` makes it"
        )
    with _loading(source):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision or "main", trust_remote_code=False, use_fast=True
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"backbone.name: {source.path!r} has no fast tokenizer, got "
            f"{type(tokenizer).__name__}; expected a model with a tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(f"backbone.name: {source.path!r} has no token that can stand for padding")
    tokenizer.model_max_length = int(1e30)  # `encoding.max_tokens` bounds the sequences
    found: PreTrainedTokenizerFast = tokenizer
    return found


def load_backbone(
    params: BackboneParams,
    *,
    device: torch.device,
    dtype: torch.dtype,
    bits: Bits | None = None,
) -> PreTrainedModel:
    """The network without any head, in training mode, with weights in `dtype` on `device`.

    Of an encoder-decoder (T5) only the encoder is loaded; of a model that reads images too
    (Gemma-3) only the text model is kept. A pooler is dropped, since the classifier has its own
    pooling. Weights are read straight onto a GPU. `bits` quantises those of the linear layers.

    Raises:
        InputError: It cannot be loaded, lacks weights, or cannot run like this on this machine.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    source = locate(params)
    options = _quantisation(bits, dtype)
    if options or device.type == "cuda":
        options["device_map"] = {"": device}
    with _loading(source):
        config: Any = AutoConfig.from_pretrained(
            source.path, revision=source.revision or "main", trust_remote_code=False
        )
        text = config.get_text_config()
        _set_dropouts(text, params)
        text.use_cache = False
        if not params.softcap:
            text.attn_logit_softcapping = None
        attention = choose_attention(params, text, abilities(device), dtype)
        if attention == "flex_attention":
            allow_recompilations()
        half = (config.architectures or [""])[0].endswith("EncoderModel")  # T5's, saved by itself
        kind = AutoModelForTextEncoding if config.is_encoder_decoder or half else AutoModel
        model, report = kind.from_pretrained(
            source.path,
            revision=source.revision or "main",
            config=config,
            attn_implementation=attention,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"{source.path}: {len(missing)} weights are missing, the first is {missing[0]}; they "
            "would be random: expected the weights of a whole pretrained model"
        )
    if text is not config and not config.is_encoder_decoder:
        model = model.get_decoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    backbone: PreTrainedModel = model if options else model.to(device)
    backbone.train()
    return backbone


def check_positions(backbone: Any, max_tokens: int, param: str) -> None:
    """Check that a backbone with learned positions has enough for the longest sequence.

    Raises:
        InputError: It does not; the message names `param`.
    """
    from torch.nn import Embedding

    for name, module in backbone.named_modules():
        named = name.endswith(("position_embeddings", "wpe"))
        if named and isinstance(module, Embedding):
            padding = module.padding_idx  # RoBERTa's positions start after that of padding
            longest = module.num_embeddings - (0 if padding is None else padding + 1)
            if max_tokens > longest:
                raise InputError(
                    f"{param}: got {max_tokens}; expected at most {longest}, the positions that "
                    "the backbone has learned"
                )


def _set_dropouts(config: Any, params: BackboneParams) -> None:
    for names, rate in (
        (HIDDEN_DROPOUTS, params.dropout),
        (ATTENTION_DROPOUTS, params.attention_dropout),
    ):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, rate)


def _quantisation(bits: Bits | None, dtype: torch.dtype) -> dict[str, Any]:
    if bits is None:
        return {}
    require_bitsandbytes("lora.bits", bits, "null")
    import transformers

    four = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",  # with double quantisation: QLoRA, arXiv 2305.14314
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    kind: Any = transformers.BitsAndBytesConfig
    chosen = kind(**four) if bits == 4 else kind(load_in_8bit=True)
    return {"quantization_config": chosen}


def require_bitsandbytes(param: str, given: Any, other: str) -> None:
    """Refuse a param for which bitsandbytes is not installed, and keep it quiet where it is."""
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"{param}: needs the package bitsandbytes, got {given!r}; expected {other}, or "
            "`pip install 'verdict[gpu]'`"
        )
    hush_bitsandbytes()


def hush_bitsandbytes() -> None:
    """Let it log errors only: else it logs a line for each layer and forward pass."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers."""
    from transformers import utils

    own: Any = utils.logging
    verbosity, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity_error()
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(verbosity)
        if bars:
            own.enable_progress_bar()


@contextmanager
def _loading(source: Source) -> Iterator[None]:
    """Turn an error while loading into one that says what to do."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        hint = (
            "expected safetensors and a model that transformers knows, with an attention "
            "(backbone.attention) that it has on this machine"
            if source.revision is None
            else "expected to reach the hub (or its cache): download the model where there is a "
            "network and give the folder as backbone.name, or set HF_HOME to a cache that has it"
        )
        if "gated repo" in str(error):
            hint = (
                "expected HF_TOKEN with a token of an account that has accepted the licence at "
                f"https://huggingface.co/{source.path}"
            )
        if "safetensors" in str(error) and source.revision is not None:
            hint = (
                f"expected safetensors: run `verdict fetch --model {source.path}@{source.revision}`"
                " once, and give the folder that it writes as backbone.name"
            )
        for network in PACKAGED.values():
            if network.hub == source.path:
                hint += f", or pip install {network.install}"
        raise InputError(f"{source.path}: cannot be loaded: {error}; {hint}") from error
