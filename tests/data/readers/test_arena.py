import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.data.readers.arena import ArenaReader, turns_of, winner_of
from stages.data.readers.rows import Fault, Reject, Row

READER = ArenaReader(format="arena", train="train.csv", test="test.csv")
HEADER = "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie"
GOOD = '["p"],["a"],["b"],1,0,0'
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def read(path, *, labelled=True):
    return list(READER.read(path, labelled=labelled))


def write(tmp_path, *lines, header=HEADER, newline="\n"):
    path = tmp_path / "train.csv"
    raw = [line if isinstance(line, bytes) else line.encode() for line in (header, *lines)]
    path.write_bytes(b"".join(line + newline.encode() for line in raw))
    return path


def quoted(value):
    return '"' + json.dumps(value).replace('"', '""') + '"'


def test_row_holds_turns_nulls_and_target(tmp_path):
    texts = [["p", "q"], [None, ""], ["😀", "\n"]]
    path = write(tmp_path, f"7,{','.join(map(quoted, texts))},0,0,1")
    assert read(path) == [Row(2, "7", tuple(texts), (0.0, 0.0, 1.0))]
    assert READER.faults(path, labelled=True) == []


def test_test_part_needs_no_winner(tmp_path):
    path = write(tmp_path, '7,["p"],["a"],["b"]', header="id,prompt,response_a,response_b")
    assert READER.faults(path, labelled=False) == []
    assert read(path, labelled=False) == [Row(2, "7", (["p"], ["a"], ["b"]), None)]


def test_escaped_lone_surrogate_becomes_replacement_character_and_a_pair_an_emoji():
    assert turns_of(r'["x\ud83d", "\ud83d\ude00", "\ude00y"]', "prompt") == ["x�", "😀", "�y"]


def test_raw_newlines_and_tabs_inside_a_turn_are_text():
    assert turns_of('["x\n\ty"]', "prompt") == ["x\n\ty"]


@pytest.mark.parametrize(
    "cell",
    ["", "plain text", '"a string"', "null", "{}", "[]", "[1]", '["a"', "['a']", '[["a"]]',
     "[" * 100_000, "[" + "9" * 5000 + "]"],
)  # fmt: skip
def test_cell_that_is_no_list_of_strings_is_unparsable(cell):
    with pytest.raises(Fault, match="unparsable turns in response_b"):
        turns_of(cell, "response_b")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["0", "0", "0"], "no winner"),
        (["1", "1", "0"], "more than one winner"),
        (["1", "0", ""], "winner flags are not all 0 or 1"),
        (["0.5", "0.5", "0"], "winner flags are not all 0 or 1"),
        (["nan", "0", "1"], "winner flags are not all 0 or 1"),
    ],
)
def test_not_exactly_one_winner_is_a_fault(flags, reason):
    with pytest.raises(Fault, match=reason):
        winner_of(flags)


def test_crlf_bom_blank_lines_and_missing_last_newline_change_nothing(tmp_path):
    plain = read(write(tmp_path, f"1,{GOOD}", f"2,{GOOD}"))
    path = tmp_path / "train.csv"
    crlf = f"\ufeff{HEADER}\r\n1,{GOOD}\r\n\r\n2,{GOOD}"
    path.write_bytes(crlf.encode())
    assert [(row.id, row.texts, row.target) for row in read(path)] == [
        (row.id, row.texts, row.target) for row in plain
    ]
    assert [row.line for row in read(path)] == [2, 4]


def test_lone_carriage_returns_end_lines_where_they_end_records(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(f'{HEADER}\r1,"[""a\rb""]",["a"],["b"],1,0,0\r2,{GOOD}\r\n3,{GOOD}\r'.encode())
    assert [(row.line, row.id) for row in read(path)] == [(2, "1"), (3, "2"), (4, "3")]


def test_line_is_where_the_record_starts_in_the_file(tmp_path):
    long = '"[""p\n\nq\r""]",["a"],["b"],1,0,0'
    records = read(write(tmp_path, f"1,{long}", f"2,{GOOD}", "3,x", f"4,{long}", f",{GOOD}"))
    assert [(record.line, record.id) for record in records] == [
        (2, "1"), (5, "2"), (6, "3"), (7, "4"), (10, None),
    ]  # fmt: skip
    assert [record.reason for record in records if isinstance(record, Reject)] == [
        "wrong number of fields",
        "empty id",
    ]


def test_bad_utf8_rejects_its_own_row_only(tmp_path):
    bad = '2,["p\xff"],["a"],["b"],1,0,0'.encode("latin-1")
    surrogate = b'3,["p\xed\xa0\xbd"],["a"],["b"],1,0,0'
    path = write(tmp_path, f"1,{GOOD}", bad, surrogate, f"4,{GOOD}")
    first, *rejects, last = read(path)
    assert (first.id, last.id) == ("1", "4")
    assert rejects == [Reject(3, "2", "bad UTF-8"), Reject(4, "3", "bad UTF-8")]


def test_unequal_turn_counts_are_rejected(tmp_path):
    path = write(tmp_path, '1,["p"],"[""a"",""b""]",["b"],1,0,0')
    assert read(path) == [Reject(2, "1", "unequal turn counts")]


def test_field_of_ten_megabytes_is_read(tmp_path):
    path = write(tmp_path, f"1,{quoted(['é' * 2_000_000])},{quoted(['a'])},{quoted(['b'])},1,0,0")
    assert [len(row.texts[0][0]) for row in read(path)] == [2_000_000]


def test_quote_that_is_never_closed_stops_the_reading_with_its_line(tmp_path):
    path = write(tmp_path, f"1,{GOOD}", '2,"[""p"",""q""]', "3,x")
    with pytest.raises(InputError, match=r"train\.csv:3: a quote .* never closed"):
        read(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "empty file"),
        (b"\xef\xbb\xbf\n", "empty file"),
        (HEADER.encode() + b"\n\n", "header only"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "NUL bytes"),
        (b"PK\x03\x04\x14\0\0\0", "NUL bytes"),
        (HEADER.encode("utf-16"), "NUL bytes"),
        (b"\x1f\x8b\x08\xff\xfe,x\ny", "not UTF-8"),
        (b"<!DOCTYPE html>\n<p>Sign in</p>", "missing columns"),
        (HEADER.replace(",winner_tie", "").encode() + b"\n1", r"missing columns \['winner_tie'\]"),
        (HEADER.encode() + b",id\n1", r"\['id'\] stand twice"),
    ],
)
def test_file_that_is_no_arena_file_is_a_fault(tmp_path, content, fault):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    (found,) = READER.faults(path, labelled=True)
    assert found.startswith(f"{path}: ")
    with pytest.raises(InputError, match=fault):
        raise InputError(found)


def test_missing_file_is_a_fault(tmp_path):
    assert READER.faults(tmp_path / "no.csv", labelled=True)[0].endswith("a file of that name")
    (tmp_path / "folder.csv").mkdir()
    assert "missing file" in READER.faults(tmp_path / "folder.csv", labelled=True)[0]


@pytest.mark.parametrize(
    ("name", "rows"), [("arena/train", 1950), ("arena/test", 490), ("pairs/test", 1134)]
)
def test_real_rows_are_all_accounted_for(name, rows):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    labelled = path.stem == "train"
    found = read(path, labelled=labelled)
    assert READER.faults(path, labelled=labelled) == []
    assert len(found) == rows
    assert all(isinstance(record, Row) for record in found)
    with path.open(encoding="utf-8", newline="") as file:
        assert [record.id for record in found] == [line["id"] for line in csv.DictReader(file)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_other_tables_may_hold_lists_or_their_json(suffix, tmp_path):
    rows = [
        {"id": 1, "prompt": ["x", None], "response_a": ["y", ""], "response_b": ["a", "b"]},
        {"id": 2, "prompt": '["x"]', "response_a": '["y"]', "response_b": "plain text"},
    ]
    path = tmp_path / f"new{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:  # a column of Parquet holds lists or strings, not both
        rows[1] |= {"prompt": ["x"], "response_a": ["y"], "response_b": []}
        pd.DataFrame(rows).to_parquet(path)
    assert READER.faults(path, labelled=False) == []
    first, second = READER.read(path, labelled=False)
    assert first.texts == (["x", None], ["y", ""], ["a", "b"])
    assert second.reason == "unparsable turns in response_b"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_model_names_stand_apart_and_may_be_missing(tmp_path, suffix):
    names = [
        ("gpt", " koala "),
        (None, ""),
        (float("nan"), "\ud83d" if suffix == ".jsonl" else "x"),
    ]
    flags = dict(zip(HEADER.split(",")[4:], (1, 0, 0), strict=True))
    texts = dict.fromkeys(("prompt", "response_a", "response_b"), '["p"]')
    rows = [
        {"id": str(n), "model_a": a, "model_b": b, **texts, **flags}
        for n, (a, b) in enumerate(names)
    ]
    path = tmp_path / f"train{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    last = "\ufffd" if suffix == ".jsonl" else "x"
    assert [row.models for row in read(path)] == [("gpt", "koala"), (None, None), (None, last)]
    assert [row.models for row in read(path, labelled=False)] == [(None, None)] * 3
