import numpy as np
import pandas as pd
import pytest

from stages.core.layout import Layout
from stages.core.tables import write_json, write_table


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """The data set `tiny` in the working directory: four rows, of which c is a test row.

    Row c has a word of its own.
    """
    monkeypatch.chdir(tmp_path)
    layout = Layout("tiny")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.5, 30) if i < 50) for _ in range(12)]
    clean = pd.DataFrame({"id": list("abcd")})
    clean[["prompt", "response_a", "response_b"]] = np.reshape(texts, (4, 3))
    clean.loc[2, "prompt"] += " held"
    write_table(clean, layout.clean)
    parts = pd.DataFrame({"id": list("dcba"), "part": ["train", "test", "train", "train"]})
    write_table(parts, layout.folds)
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
    return layout
