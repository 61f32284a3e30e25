from pathlib import Path

import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.runtime.batches import map_table


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    """Functions of a test cannot be sent to processes; tests of clean and style have several."""
    monkeypatch.setenv("VERDICT_WORKERS", "1")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.parquet"
    turns = [["a", None], [], ["😀"], ["b"], None]
    pd.DataFrame({"id": list("vwxyz"), "turns": turns, "other": range(5)}).to_parquet(path)
    return path


def lengths(frame):
    return pd.DataFrame({"n": [0 if turns is None else len(turns) for turns in frame["turns"]]})


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("alone", [0, 100])
def test_each_row_becomes_a_row_whatever_the_batches(source, size, alone, tmp_path):
    target = tmp_path / "new.parquet"
    assert map_table(lengths, source, ["turns"], target, size=size, alone=alone) == 5
    expected = pd.DataFrame({"id": list("vwxyz"), "n": [2, 0, 1, 1, 0]})
    pd.testing.assert_frame_equal(pd.read_parquet(target), expected)


def test_function_sees_the_named_columns_of_a_batch(source, tmp_path):
    seen = []
    map_table(
        lambda frame: seen.append(frame) or lengths(frame),
        source, ["other", "turns"], tmp_path / "new.parquet", size=2, alone=9,
    )  # fmt: skip
    assert [len(frame) for frame in seen] == [2, 2, 1]
    assert {tuple(frame) for frame in seen} == {("other", "turns")}


def test_no_rows_give_a_table_without_rows(source, tmp_path):
    pd.read_parquet(source).iloc[:0].to_parquet(source)
    target = tmp_path / "new.parquet"
    assert map_table(lengths, source, ["other", "turns"], target, size=2) == 0
    assert list(pd.read_parquet(target)) == ["id", "n"]


def test_error_in_the_middle_leaves_what_was_there(source, tmp_path):
    target = tmp_path / "new.parquet"
    target.write_text("old")

    def fail(frame):
        return lengths(frame) if len(frame) > 1 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        map_table(fail, source, ["turns"], target, size=2)
    assert target.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "new.parquet"}


def test_damaged_and_incomplete_tables_are_refused(source, tmp_path):
    with pytest.raises(InputError, match=r"missing columns \['text'\], got \['id', 'turns'"):
        map_table(lengths, source, ["text"], tmp_path / "new.parquet", size=2)
    Path(source).write_bytes(source.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"rows\.parquet: cannot be read as Parquet"):
        map_table(lengths, source, ["turns"], tmp_path / "new.parquet", size=2)
