"""Make a pretrained model that has pickled weights or a slow tokenizer one that the stages read.

Some models on the hub, microsoft/deberta-v3-base among them, have neither safetensors nor a
tokenizer.json. Pickled weights are read as tensors only, so that no code in them can run.
"""

import json
import logging
import shutil
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

from stages.core.errors import InputError
from stages.core.tables import atomic

log = logging.getLogger("verdict")

WANTED = ["*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"]
WEIGHTS, INDEX, PICKLED = "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"


def convert(model: str, to: Path) -> Path:
    """Write the model as a folder below `to`: config.json, model.safetensors, tokenizer.json.

    `model` is a folder (starts with `.` or `/`) or `<id>@<commit>` on the Hugging Face hub.

    Raises:
        InputError: It cannot be reached, has no weights, or its weights are more than tensors.
    """
    name, _, revision = model.partition("@")
    if name.startswith((".", "/")):
        return _write(Path(name), to / Path(name).resolve().name)
    if not revision:
        raise InputError(f"--model: got {model!r}; expected <id>@<commit>, or a folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with TemporaryDirectory() as temporary:
        try:
            snapshot_download(name, revision=revision, allow_patterns=WANTED, local_dir=temporary)
        except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise InputError(
                f"--model: {model} cannot be fetched, got {error}; expected a network, or a folder "
                f"with the files of https://huggingface.co/{name}/tree/{revision}"
            ) from error
        return _write(Path(temporary), to / name.replace("/", "--"))


def _write(source: Path, target: Path) -> Path:
    from transformers import AutoTokenizer

    if not (source / "config.json").is_file():
        raise InputError(f"--model: no model in {source}; expected config.json and weights")
    with atomic(target) as folder:
        folder.mkdir()
        shutil.copy(source / "config.json", folder)
        if ready := [*source.glob("*.safetensors"), *source.glob("*.safetensors.index.json")]:
            for file in ready:
                shutil.copy(file, folder)
        else:
            _write_weights(source, folder / WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
        tokenizer.save_pretrained(folder)
        if not (folder / "tokenizer.json").is_file():
            raise InputError(
                f"{source}: no fast tokenizer can be made of {type(tokenizer).__name__}; expected "
                "a model with tokenizer.json or a sentencepiece file"
            )
    log.info("fetch: %s; as backbone: {name: ./%s}", target, target)
    return target


def _write_weights(source: Path, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    names = [PICKLED]
    if (index := source / INDEX).is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    tensors = {}
    for name in names:
        file = source / name
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise InputError(f"{file}: missing; expected it, or {WEIGHTS}") from error
        except UnpicklingError as error:
            raise InputError(
                f"{file}: refused, got more than tensors; expected weights alone: "
                f"{str(error).splitlines()[0]}"
            ) from error
        # clones: two names of the same weights must not share memory in safetensors
        tensors.update({key: tensor.contiguous().clone() for key, tensor in found.items()})
    save_file(tensors, path, {"format": "pt"})
