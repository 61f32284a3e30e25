import pandas as pd
import pytest

from stages.core.layout import Layout
from stages.core.tables import write_json, write_table
from stages.data import augment
from tests.given import write_params

LAYOUT = Layout("tiny")


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"id": ["r0", "r1"], "text": ["5 % against 4 %", "no amounts"]})
    write_table(table.assign(part=["train", "test"]), LAYOUT.rows)
    write_json({"kind": "multi_label", "classes": ["x", "y"]}, LAYOUT.labels)
    return tmp_path


def test_texts_say_what_they_compare(rows):
    write_params(rows, "tiny", augment={"comparisons": True})
    augment.main(dataset="tiny")
    table = pd.read_parquet(LAYOUT.augmented)
    assert table["text"].tolist() == ["5 % against 4 % (rose)", "no amounts"]
    assert table["id"].tolist() == ["r0", "r1"]


def test_rows_stay_as_they_are_by_default(rows):
    write_params(rows, "tiny", augment={})
    augment.main(dataset="tiny")
    assert LAYOUT.augmented.read_bytes() == LAYOUT.rows.read_bytes()
