import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.tables import (
    atomic,
    by_id,
    columns_with,
    flatten,
    read_json,
    read_table,
    write_json,
    write_table,
)

EMOJI = "naïve 🦦 \x00"


@pytest.fixture
def frame():
    return pd.DataFrame(
        {"id": ["r1", "r2", "r3"], "text": ["", EMOJI, "a\r\nb"], "p_a": [0.1, 0.2, 0.3]}
    )


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_same_table_gives_the_same_bytes(tmp_path, frame, name):
    write_table(frame, tmp_path / "one" / name)
    write_table(frame.copy(), tmp_path / "two" / name)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_table_survives_the_round_trip(tmp_path, frame):
    path = tmp_path / "t.parquet"
    write_table(frame, path)
    pd.testing.assert_frame_equal(read_table(path), frame)
    assert list(read_table(path, ["p_a", "id"])) == ["p_a", "id"]
    assert columns_with(path, "p_") == ["p_a"]


def test_duplicate_id_is_refused_and_nothing_written(tmp_path, frame):
    frame.loc[2, "id"] = "r1"
    with pytest.raises(ValueError, match="id must be unique, got 'r1' twice"):
        write_table(frame, tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def write_half(path):
    with atomic(path) as temporary:
        if path.is_dir():
            temporary.mkdir()
            temporary /= "new"
        temporary.write_text("half")
        raise KeyError("midway")


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(KeyError, match="midway"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_the_old_folder_and_no_temporary(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyError, match="midway"):
        write_half(path)
    assert sorted(tmp_path.rglob("*")) == [path, path / "old"]


def test_new_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [file.name for file in path.iterdir()] == ["second"]


def test_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/kept").touch()
    with pytest.raises(IsADirectoryError):
        write_json({}, tmp_path / "docs")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "docs", tmp_path / "docs/kept"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metric_that_is_not_finite_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"must be finite: \['loss'\]"):
        write_json({"rows": 1.0, "loss": value}, tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_number_that_is_not_finite_is_found_at_any_depth_and_all_are_named(tmp_path, value):
    content = {"loss": value, "share": {"a": 1.0, "b": value}}
    expected = r"m\.json: must be finite: \['loss', 'share\.b'\]$"
    with pytest.raises(ValueError, match=expected):
        write_json(content, tmp_path / "m.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"folds": [{"x": 0.5}, {"x": value}]}, tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []


def test_nested_json_is_written_as_it_is(tmp_path):
    content = {"share": {"b": 0.5, "a": 0.5, "nan": "inf"}, "empty": {}, "list": [1, None, True]}
    write_json(content, tmp_path / "m.json")
    assert read_json(tmp_path / "m.json") == content
    assert list(read_json(tmp_path / "m.json")["share"]) == ["b", "a", "nan"]


def test_json_keeps_its_order_and_its_characters(tmp_path):
    path = tmp_path / "m.json"
    write_json({"b": EMOJI, "a": [1, 2.5]}, path)
    assert list(read_json(path).items()) == [("b", EMOJI), ("a", [1, 2.5])]
    assert "🦦" in path.read_text(encoding="utf-8")


def test_by_id_joins_by_id_and_refuses_lost_ones(tmp_path, frame):
    path = tmp_path / "t.parquet"
    assert by_id(frame, pd.Series(["r3", "r1"]), path)["p_a"].tolist() == [0.3, 0.1]
    with pytest.raises(InputError, match=r"t\.parquet: no row for 2 of 3 ids, the first is 'r7'"):
        by_id(frame, pd.Series(["r1", "r7", "r8"]), path)


def test_bad_files_are_input_errors_that_name_them(tmp_path, frame):
    path = tmp_path / "t.parquet"
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as Parquet"):
        read_table(path)
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as Parquet"):
        read_table(path)
    write_table(frame, path)
    with pytest.raises(InputError, match=r"missing columns \['fold'\], got \['id', 'text', 'p_a'"):
        read_table(path, ["id", "fold"])
    for content, message in (("{", "cannot be read as JSON"), ("[1]", "got a list")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_json(path)


def test_nested_map_becomes_one_level_with_dots():
    flat = flatten({"C": 0.5, "style": {"parts": ["sum"], "deep": {"x": None}}})
    assert flat == {"C": 0.5, "style.parts": ["sum"], "style.deep.x": None}
