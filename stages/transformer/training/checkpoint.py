"""What a killed run leaves for the next one to resume: finished models, and the unfinished one.

All of it lies in a scratch folder whose name is a hash of everything the result depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.core.tables import atomic, read_json, write_json
from stages.transformer.network.params import FinetuneParams
from stages.transformer.training.classifier import save
from stages.transformer.training.progress import Curve, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from stages.transformer.network.network import Classifier


STAGES = Path(__file__).resolve().parents[2]
# Params that change which models are trained, or how much memory that takes, but no model.
SAME = {"folds", "seeds", "tokens_per_batch", "checkpointing", "checkpoint_steps"}
CODE = (STAGES / "transformer", STAGES / "core")


@dataclass(frozen=True)
class Checkpoint:
    """The state of an unfinished training, in one file."""

    path: Path

    def write(
        self,
        progress: Progress,
        weights: Mapping[str, Tensor],
        best: Mapping[str, Tensor] | None,
        optimizer: Mapping[str, Any],
        scaler: Mapping[str, Any],
    ) -> None:
        """Save this state in place of an older one."""
        import torch

        content = {
            "progress": asdict(progress),
            "weights": weights,
            "best": best,
            "optimizer": optimizer,
            "scaler": scaler,
        }
        with atomic(self.path) as temporary:
            torch.save(content, temporary)

    def read(self) -> dict[str, Any] | None:
        """Load what was written last, on the CPU; None if nothing was."""
        import torch

        if not self.path.exists():
            return None
        content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return content


@dataclass(frozen=True)
class Finished:
    """A trained model in the scratch folder.

    `scores` are those of the rows of its unit, `(n_rows, n_orders, n_classes)`.
    """

    model: Path
    scores: npt.NDArray[np.float32]
    curve: Curve
    seconds: float  # that prediction took

    @classmethod
    def read(cls, folder: Path) -> Finished | None:
        """Read what `finish` wrote; None if it did not get that far."""
        if not folder.exists():
            return None
        about = read_json(folder / "about.json")
        scores = np.load(folder / "scores.npy", allow_pickle=False)
        return cls(folder / "model", scores, about["curve"], about["seconds"])


def finish(
    folder: Path,
    classifier: Classifier,
    params: FinetuneParams,
    scores: npt.NDArray[np.float32],
    curve: Curve,
    seconds: float,
) -> None:
    """Write a trained model as `folder`, for `Finished.read`."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        save(classifier, temporary / "model", params)
        np.save(temporary / "scores.npy", scores, allow_pickle=False)
        write_json({"seconds": seconds, "curve": curve}, temporary / "about.json")


def scratch_key(params: FinetuneParams, inputs: Iterable[Path], place: str) -> str:
    """Hash of everything that the result of a unit depends on, but its name.

    That is the params without those of `SAME`, the bytes of the files and folders in `inputs`, the
    code of `stages/transformer` and `stages/core`, the versions of the libraries, the number of
    processes and kind of device in `place`, and the names, sizes and times of the files of a local
    backbone.
    """
    digest = hashlib.sha256(params.model_dump_json(exclude=SAME).encode())
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    digest.update(repr([place, *libraries]).encode())
    code = [file for part in CODE for file in sorted(part.rglob("*.py"))]
    for file in _files([*inputs, *code]):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    if params.backbone.name.startswith((".", "/")):
        for file in _files([Path(params.backbone.name)]):
            about = file.stat()
            digest.update(repr((file.name, about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _files(paths: Iterable[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
