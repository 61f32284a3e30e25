import numpy as np
import pandas as pd
import pytest

from stages.core.tables import write_json, write_table


@pytest.fixture
def tables(tmp_path):
    """Four rows, of which row c is a test row with a word of its own; the options of a stage."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.5, 30) if i < 50) for _ in range(12)]
    clean = pd.DataFrame({"id": list("abcd")})
    clean[["prompt", "response_a", "response_b"]] = np.reshape(texts, (4, 3))
    clean.loc[2, "prompt"] += " held"
    write_table(clean, tmp_path / "clean.parquet")
    parts = pd.DataFrame({"id": list("dcba"), "part": ["train", "test", "train", "train"]})
    write_table(parts, tmp_path / "folds.parquet")
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, tmp_path / "labels.json")
    return {name: tmp_path / f"{name}.parquet" for name in ("clean", "folds")} | {
        "labels": tmp_path / "labels.json"
    }
