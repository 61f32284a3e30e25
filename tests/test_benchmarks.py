import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def bench(name, *options, folder=ROOT):
    """What the script prints, as a process of its own: the Trainer changes global states."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *options], cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=600, check=True,
    ).stdout  # fmt: skip


def cells(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]


@pytest.fixture
def dataset(tmp_path):
    """A set of 60 texts with one class each, as the pipeline writes it, and a tiny backbone."""
    path = ROOT / "tests/transformer/tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_tiny(tmp_path / "tiny", "bert")
    folder = tmp_path / "data/colours"
    folder.mkdir(parents=True)
    (folder / "labels.json").write_text('{"kind": "single_label", "classes": ["red", "blue"]}')
    number = np.arange(60)
    ids = pd.DataFrame({"id": [f"r{i}" for i in number]})
    ids.assign(text=[("ab" if i % 2 else "yz") * (i % 7 + 1) for i in number]).to_parquet(
        folder / "rows.parquet"
    )
    ids.assign(part="train", fold=number % 3, group=number, y_red=number % 2 * 1.0,
               y_blue=1.0 - number % 2).to_parquet(folder / "folds.parquet")  # fmt: skip
    return tmp_path


@pytest.mark.slow
def test_gpu_bench_times_training_and_inference_of_both_for_each_case():
    found = bench("gpu.py", "--tiny", "--steps", "1", "--cases", "bert-varied", "--cases", "gemma")
    head, _, *rows = cells(found)
    assert len(rows) == 8
    assert [row[2] for row in rows] == ["training", "inference"] * 4
    assert [row[1].partition(",")[0] for row in rows] == (["verdict"] * 2 + ["Trainer"] * 2) * 2
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)
    assert all(row[-1].endswith(" x") == row[1].startswith("Trainer") for row in rows)
    assert {len(row) for row in rows} == {len(head)}


@pytest.mark.slow
def test_finetune_bench_compares_speed_and_accuracy(dataset):
    found = bench(
        "finetune.py", "--dataset", "colours", "--data", str(dataset / "data"), "--backbone",
        str(dataset / "tiny"), "--max-tokens", "32", "--batch-size", "8",
    )  # fmt: skip
    _, _, *rows = cells(found)
    assert [row[0] for row in rows] == ["verdict", "Trainer", "Trainer, own network"]
    assert all(0 <= float(row[3]) <= 1 and float(row[1]) > 0 for row in rows)
    assert found.count("times as fast as Trainer") == 2


@pytest.mark.slow
def test_ensemble_bench_compares_penalties_on_the_rows_that_were_not_drawn(trained):
    found = bench(
        "ensemble.py", "--dataset", "goemotions", "--rows", "20", "--draws", "2",
        folder=trained("goemotions"),
    )  # fmt: skip
    head, _, row = cells(found)
    assert head == ["rows", "no penalty", "1", "3", "10", "30"]
    assert [row[0], len(row)] == ["20", 6]
    assert float(row[1]) > 0
    assert all(" ± " in cell for cell in row[2:])
