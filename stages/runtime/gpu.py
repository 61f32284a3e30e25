"""The GPU: whether there is one to use, and one process at a time on it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("verdict")

ASKED = "CUDA_VISIBLE_DEVICES"
ALLOCATOR = "PYTORCH_ALLOC_CONF"  # segments that grow are not torn by batches of many sizes
TIDY = "expandable_segments:True"


def is_usable() -> bool:
    """Whether torch can use a GPU; a GPU that it cannot use is told in a warning.

    Raises:
        InputError: CUDA_VISIBLE_DEVICES names a GPU, and torch can use none.
    """
    import torch

    os.environ.setdefault(ALLOCATOR, TIDY)  # read when CUDA starts
    if torch.cuda.is_available():
        return True
    built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda or '(none)'}"
    remedy = "expected a driver that is as new, or a torch that is built for this driver"
    if os.environ.get(ASKED, "-1") not in {"", "-1"}:
        raise InputError(
            f"{ASKED}: got {os.environ[ASKED]!r}, but no GPU can be used; {built}; {remedy}, or "
            "an empty variable to use the CPU"
        )
    if shutil.which("nvidia-smi"):
        log.warning("the GPU is not used, the CPU is; %s; %s", built, remedy)
    return False


def peak_memory_mb() -> float | None:
    """The most memory that this process held on its GPU, in MB; None where it used none."""
    import torch

    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda.max_memory_reserved() / 2**20 if used else None


@contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """Wait until no other process of this project uses the GPU, and keep them out meanwhile.

    Two fine-tunes side by side would run out of memory. The CPU is shared. A fine-tune of several
    processes takes no turn: two of them, each with one GPU of the other's, would wait for ever.
    """
    if device.type != "cuda" or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    import torch
    from filelock import FileLock, Timeout

    name = f"verdict-gpu-{torch.cuda.get_device_properties(device).uuid}.lock"
    lock = FileLock(Path(tempfile.gettempdir()) / name, mode=0o666)  # for all users
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for %s, which another process of verdict uses", device)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
