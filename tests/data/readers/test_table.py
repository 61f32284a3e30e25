import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.data.readers.rows import Reject, Row
from stages.data.readers.table import TableReader

COLUMNS = {"id": "key", "prompt": "question", "response_a": "left", "response_b": "right"}
VALUES = {
    "kind": "values",
    "column": "winner",
    "classes": {"left": "a", "right": "b", "both": "tie", "neither": "tie", "1": "a", "true": "b"},
}
SOFT = {"kind": "probabilities", "a": "p_left", "b": "p_right", "tie": "p_tie"}
NAMES = [*COLUMNS.values(), "winner"]


def reader(label=VALUES):
    return TableReader.model_validate_json(
        json.dumps(
            {"format": "table", "train": "t", "test": "t", "columns": COLUMNS, "label": label}
        )
    )


def write(path, rows, names=NAMES):
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
        )
    elif path.suffix == ".parquet":
        columns = list(zip(*rows, strict=True)) or [[] for _ in names]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
                [names, *rows]
            )
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_give_the_same_rows(tmp_path, suffix):
    rows = [["x1", 'p,\t"q"', "a\n1", "", "left"], ["x2", "p", "a", "b😀", "neither"]]
    path = write(tmp_path / f"t.{suffix}", rows)
    assert reader().faults(path, labelled=True) == []
    found = list(reader().read(path, labelled=True))
    assert [row.id for row in found] == ["x1", "x2"]
    assert [row.texts for row in found] == [
        (['p,\t"q"'], ["a\n1"], [""]),
        (["p"], ["a"], ["b😀"]),
    ]
    assert [row.target for row in found] == [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_are_turns_and_null_is_one_null_turn(tmp_path, suffix):
    rows = [[1, ["p", "q"], ["a", None], ["b", ""], "left"], [2, ["p"], None, ["b"], "right"]]
    found = list(reader().read(write(tmp_path / f"t.{suffix}", rows), labelled=True))
    assert [(row.id, row.texts) for row in found] == [
        ("1", (["p", "q"], ["a", None], ["b", ""])),
        ("2", (["p"], [None], ["b"])),
    ]


def test_test_part_needs_no_label(tmp_path):
    path = write(tmp_path / "t.jsonl", [["x", "p", "a", "b"]], NAMES[:4])
    assert reader().faults(path, labelled=False) == []
    assert list(reader().read(path, labelled=False)) == [Row(1, "x", (["p"], ["a"], ["b"]), None)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_soft_labels_must_be_probabilities_that_sum_to_one(tmp_path, suffix):
    names = [*COLUMNS.values(), "p_left", "p_right", "p_tie"]
    soft = [
        (0.5, 0.25, 0.25),
        (1.0, 0.0, 0.0),
        (0.5, 0.5, 0.1),
        (1.5, -0.5, 0.0),
        (float("nan"), 1.0, 0.0),
    ]
    rows = [[f"x{at}", "p", "a", "b", *target] for at, target in enumerate(soft)]
    found = list(reader(SOFT).read(write(tmp_path / f"t.{suffix}", rows, names), labelled=True))
    assert [record.target for record in found if isinstance(record, Row)] == soft[:2]
    assert {record.reason for record in found[2:]} == {
        "label is not three probabilities that sum to 1"
    }


def test_label_that_no_class_is_mapped_to_is_rejected_with_its_value(tmp_path):
    labels = ["left ", "Left", None, 1, True, 2]
    rows = [[f"x{at}", "p", "a", "b", label] for at, label in enumerate(labels)]
    found = list(reader().read(write(tmp_path / "t.jsonl", rows), labelled=True))
    assert [getattr(record, "reason", None) for record in found] == [
        None, "unknown label 'Left'", "unknown label 'null'", None, None, "unknown label '2'",
    ]  # fmt: skip


def test_broken_jsonl_lines_are_rejects_with_their_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    good = json.dumps(dict(zip(NAMES, ["x", "p\ud83d", "a", "b", "left"], strict=True))).encode()
    lines = [
        b"\xef\xbb\xbf" + good, b"{", b"", b"[1]", b'{"key": "\xff"}', good[:-1] + b', "key": 1.5}',
        good[:-1] + b', "key": null}', good[:-1] + b', "left": ["a", 1]}', b'{"key": "y"}',
    ]  # fmt: skip
    path.write_bytes(b"\r\n".join(lines))
    assert reader().faults(path, labelled=True) == []
    assert list(reader().read(path, labelled=True)) == [
        Row(1, "x", (["p�"], ["a"], ["b"]), (1.0, 0.0, 0.0)),
        Reject(2, None, "unparsable JSON"),
        Reject(4, None, "no JSON object"),
        Reject(5, None, "bad UTF-8"),
        Reject(6, None, "id is neither text nor a whole number"),
        Reject(7, None, "empty id"),
        Reject(8, "x", "unparsable turns in left"),
        Reject(9, "y", "missing question, left, right, winner"),
    ]


def test_bad_utf8_in_parquet_rejects_its_own_row_only(tmp_path):
    binary = pa.array([b"p", b"\xff", b"p"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    columns = {name: ["1", "2", "3"] for name in NAMES} | {"question": text, "winner": ["left"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = list(reader().read(tmp_path / "t.parquet", labelled=True))
    assert [type(record) for record in found] == [Row, Reject, Row]
    assert found[1] == Reject(2, None, "bad UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("t.xlsx", b"PK", "unknown suffix, got '.xlsx'; expected one of"),
        ("t.jsonl", b"", "empty file"),
        ("t.jsonl", b"{\n]\n", "no JSONL"),
        ("t.jsonl", b'{"key": 1}', "missing columns ['question', 'left', 'right', 'winner']"),
        ("t.jsonl", b"PAR1\0\0", "NUL bytes"),
        ("t.parquet", b"id,prompt", "no Parquet file"),
        ("t.tsv", b"key,question,left,right,winner\n", "missing columns"),
        ("t.csv", b"key,question,left,right,winner\n", "header only"),
    ],
)
def test_file_that_is_no_such_table_is_a_fault(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    (found,) = reader().faults(tmp_path / name, labelled=True)
    assert found.startswith(f"{tmp_path / name}: ")
    assert fault in found


def test_parquet_faults_are_told_before_reading(tmp_path):
    assert "missing file" in reader().faults(tmp_path / "no.parquet", labelled=True)[0]
    path = write(tmp_path / "t.parquet", [])
    assert "no rows" in reader().faults(path, labelled=True)[0]
    path = write(tmp_path / "u.parquet", [["x"]], ["key"])
    assert "missing columns ['question'" in reader().faults(path, labelled=True)[0]


def test_sample_has_the_id_and_one_column_a_class():
    assert reader().sample_columns == ("key", "a", "b", "tie")
    assert reader(SOFT).sample_columns == ("key", "p_left", "p_right", "p_tie")


@pytest.mark.parametrize(
    "label", [VALUES | {"classes": {"left": "A"}}, VALUES | {"classes": {}}, {"kind": "stars"}]
)
def test_label_params_are_checked(label):
    with pytest.raises(ValidationError, match=r"label"):
        reader(label)
