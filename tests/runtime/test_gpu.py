import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages.core.errors import InputError
from stages.runtime import gpu

CUDA = torch.device("cuda")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_gpu")
def test_machine_without_a_gpu_is_quiet(caplog):
    assert not gpu.is_usable()
    assert not caplog.records


@pytest.mark.usefixtures("no_gpu")
def test_gpu_whose_driver_is_too_old_is_told(monkeypatch, caplog):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: "/usr/bin/" + name)
    assert not gpu.is_usable()
    (record,) = caplog.records
    assert "the GPU is not used" in record.getMessage()
    assert torch.__version__ in record.getMessage()


@pytest.mark.usefixtures("no_gpu")
def test_gpu_that_is_asked_for_and_cannot_be_used_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(InputError, match=r"CUDA_VISIBLE_DEVICES: got '1', but no GPU can be used"):
        gpu.is_usable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as Ray sets it for what needs none
    assert not gpu.is_usable()


TAKE = """
import sys, time
from types import SimpleNamespace
import torch
from stages.runtime import gpu
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="card")
with gpu.turn(torch.device("cuda")):
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_processes_take_turns_on_a_gpu(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    properties = lambda device: SimpleNamespace(uuid="card")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    with subprocess.Popen(
        [sys.executable, "-c", TAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "in\n"
        started = time.monotonic()
        threading.Timer(1, other.stdin.close).start()  # the other one ends then
        with gpu.turn(CUDA):
            assert time.monotonic() - started > 0.9
    assert "waiting for cuda" in caplog.text


def test_memory_is_none_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.peak_memory_mb() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**20)
    assert gpu.peak_memory_mb() == 3


def test_processes_of_one_fine_tune_take_no_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with gpu.turn(CUDA):
        assert not list(tmp_path.iterdir())


def test_cpu_is_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    with gpu.turn(torch.device("cpu")), gpu.turn(torch.device("cpu")):
        assert not list(tmp_path.iterdir())
