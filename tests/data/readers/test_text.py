import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.core.errors import InputError
from stages.data.readers.rows import Reject, Row
from stages.data.readers.text import TextReader, read_names

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
NAMES = ["key", "body", "mood"]
LABEL = {
    "kind": "classes", "column": "mood", "classes": ["sad", "glad"], "numbers_from": None,
    "separator": None, "several": "refuse",
}  # fmt: skip
SECTION = {
    "format": "text", "train": "t.csv", "dev": None, "test": "t.csv", "quoted": True,
    "header": None, "columns": {"id": "key", "text": "body"}, "longest": 1000, "label": LABEL,
}  # fmt: skip


def reader(label=None, **changes):
    section = SECTION | changes | {"label": LABEL | (label or {})}
    if "kind" in (label or {}):
        section["label"] = label
    return TextReader.model_validate_json(json.dumps(section))


def write(path, rows, names=NAMES):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows))  # noqa: B905 - short rows lack keys
    elif path.suffix == ".parquet":
        columns = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def targets(found):
    return [getattr(record, "target", None) or record.reason for record in found]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_give_the_same_rows(tmp_path, suffix):
    rows = [["x1", 'a,\t"q"\nb', "glad"], ["x2", "😀", "sad"]]
    path = write(tmp_path / f"t.{suffix}", rows)
    assert reader().faults(path, labelled=True) == []
    found = list(reader().read(path, labelled=True))
    assert [(row.id, row.texts, row.target) for row in found] == [
        ("x1", ('a,\t"q"\nb',), (0.0, 1.0)),
        ("x2", ("😀",), (1.0, 0.0)),
    ]


def test_test_part_needs_no_label(tmp_path):
    path = write(tmp_path / "t.csv", [["x", "text"]], NAMES[:2])
    assert reader().faults(path, labelled=False) == []
    assert list(reader().read(path, labelled=False)) == [Row(2, "x", ("text",), None)]


def test_file_without_a_header_takes_its_names_from_the_params(tmp_path):
    header = {"labelled": ["body", "mood", "key"], "unlabelled": ["body", "key"]}
    train, test = tmp_path / "t.tsv", tmp_path / "u.tsv"
    train.write_text('"say ""hi"""\tglad\tx\n')
    test.write_text("t\ty\n")
    tsv = reader(header=header)
    assert tsv.faults(train, labelled=True) == tsv.faults(test, labelled=False) == []
    assert list(tsv.read(train, labelled=True)) == [Row(1, "x", ('say "hi"',), (0.0, 1.0))]
    assert list(tsv.read(test, labelled=False)) == [Row(1, "y", ("t",), None)]
    (fault,) = tsv.faults(test, labelled=True)
    assert "u.tsv:1: got another number of fields than names in `header`" in fault


def test_without_quoting_a_quote_is_a_sign_and_a_record_is_a_line(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes('key\tbody\tmood\nx\t"open\tglad\r\ny\ta\rb “c"\tsad\n\nz\tq\n'.encode())
    assert list(reader(quoted=False).read(path, labelled=True)) == [
        Row(2, "x", ('"open',), (0.0, 1.0)),
        Row(3, "y", ('a\rb “c"',), (1.0, 0.0)),
        Reject(5, "z", "wrong number of fields"),
    ]


@pytest.mark.parametrize("later", ['"half" said', 'he "said" it', '"ends'])
def test_quote_that_only_a_later_row_closes_stops_the_reading(tmp_path, later):
    path = tmp_path / "t.csv"
    rows = [f"{i},text,sad" for i in range(6)]
    rows[1], rows[4] = '1,"open,glad', f"4,{later},glad"  # the rows between would be lost
    path.write_text("\n".join(["key,body,mood", *rows]) + "\n")
    with pytest.raises(InputError, match=r"t\.csv:3: a quoted field .*, got that on line 6; exp"):
        list(reader().read(path, labelled=True))
    assert len(list(reader(quoted=False).read(path, labelled=True))) == 6


def test_rows_without_ids_are_named_by_file_and_line(tmp_path):
    path = write(tmp_path / "t.csv", [["a", "glad"], ["b", "x"], ["c", "sad"]], NAMES[1:])
    plain = reader(columns={"id": None, "text": "body"}, test="u.csv")
    assert plain.faults(path, labelled=True) == []
    assert [record.id for record in plain.read(path, labelled=True)] == ["t:2", "t:3", "t:4"]


def test_class_numbers_count_the_lines_of_a_file_of_names(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffsad\r\nglad\r\nwild\r\n\r\n")
    numbered = reader({"classes": "names.txt", "numbers_from": 1})
    assert numbered.classes(tmp_path) == ("sad", "glad", "wild")
    rows = [[str(at), "text", label] for at, label in enumerate([1, " 3", 0, 4, "sad", "01"])]
    path = write(tmp_path / "t.csv", rows)
    assert targets(numbered.read(path, labelled=True)) == [
        (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), "unknown label '0'", "unknown label '4'",
        "unknown label 'sad'", "unknown label '01'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"sad\n\nglad\n", r"got \[''\] blank or twice"),
        (b"sad\nsad\n", r"got \['sad'\] blank or twice"),
        (b"sad\xff\n", "cannot be read as UTF-8"),
        (b"\n", "empty file"),
        (None, "missing file"),
    ],
)
def test_file_of_names_is_checked(tmp_path, content, fault):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=fault):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("several", "kind", "expected"),
    [
        ("refuse", "single_label", ["more than one label", (1.0, 0.0), "no label"]),
        ("leave_out", "single_label", ["left out: more than one label", (1.0, 0.0), "no label"]),
        ("share", "single_label", [(1 / 3, 2 / 3), (1.0, 0.0), "no label"]),
        ("all", "multi_label", [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)]),
    ],
)
def test_several_labels_are_what_the_params_say(tmp_path, several, kind, expected):
    rows = [["1", "t", ["glad", "sad", "glad"]], ["2", "t", ["sad", "sad"]], ["3", "t", []]]
    lists = reader({"several": several})
    assert lists.kind == kind
    found = list(lists.read(write(tmp_path / "t.jsonl", rows), labelled=True))
    assert targets(found) == [t if isinstance(t, str) else pytest.approx(t) for t in expected]


def test_separator_splits_a_cell_and_an_empty_cell_has_no_label(tmp_path):
    rows = [["1", "t", "glad; sad"], ["2", "t", " "], ["3", "t", "glad;;"]]
    split = reader({"several": "all", "separator": ";"})
    assert targets(split.read(write(tmp_path / "t.csv", rows), labelled=True)) == [
        (1.0, 1.0), "no label", "unknown label ''",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("probabilities", [(0.25, 0.75), "label is not probabilities that sum to 1"] * 2),
        ("flags", [(0.25, 0.75), (1.0, 1.0), (0.25, 0.75), "label is not a probability"]),
    ],
)
def test_one_column_a_class_holds_soft_labels(tmp_path, kind, expected):
    label = {"kind": kind, "columns": {"sad": "p_sad", "glad": "p_glad"}}
    values = [[0.25, 0.75], [1, 1], ["0.25", ".75"], [float("nan"), 2]]
    rows = [[str(at), "t", *value] for at, value in enumerate(values)]
    path = write(tmp_path / "t.csv", rows, ["key", "body", "p_sad", "p_glad"])
    soft = reader(label)
    assert soft.kind == {"probabilities": "single_label", "flags": "multi_label"}[kind]
    assert soft.classes(tmp_path) == ("sad", "glad")
    found = targets(soft.read(path, labelled=True))
    assert [f if isinstance(f, tuple) else f[:26] for f in found] == [
        e if isinstance(e, tuple) else e[:26] for e in expected
    ]


def test_unknown_and_odd_labels_are_rejects(tmp_path):
    labels = ["Glad", None, 1, True, "x" * 50 + "\ud83d"]
    rows = [[str(at), "t", label] for at, label in enumerate(labels)]
    assert targets(reader().read(write(tmp_path / "t.jsonl", rows), labelled=True)) == [
        "unknown label 'Glad'", "no label", "unknown label '1'", "unknown label 'true'",
        f"unknown label {'x' * 40!r}",
    ]  # fmt: skip


def test_odd_texts_are_rejects_with_their_reason(tmp_path):
    texts = ["", " \n", None, 7, ["a"], "x" * 1001, "x" * 1000, "\ud83d"]
    rows = [[str(at), text, "glad"] for at, text in enumerate(texts)]
    path = write(tmp_path / "t.jsonl", [*rows, ["last"]])
    found = list(reader().read(path, labelled=True))
    assert [getattr(record, "reason", None) for record in found] == [
        "empty text", "empty text", "empty text", "body is no text", "body is no text",
        "text of more than 1000 characters", None, None, "missing body, mood",
    ]  # fmt: skip
    assert found[7].texts == ("\ufffd",)


def test_test_row_without_text_stays_a_row_for_it_wants_an_answer(tmp_path):
    path = write(tmp_path / "t.jsonl", [["1", "", None], ["2", None, None], ["3", 7, None]])
    found = list(reader().read(path, labelled=False))
    assert [getattr(record, "texts", None) for record in found] == [("",), ("",), None]


def test_text_of_80_megabytes_is_a_reject(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"key,body,mood\nx,{'word ' * 16_000_000},glad\ny,t,sad\n")
    found = list(reader().read(path, labelled=True))
    assert found == [
        Reject(2, "x", "text of more than 1000 characters"), Row(3, "y", ("t",), (1.0, 0.0)),
    ]  # fmt: skip


def test_few_texts_to_predict_may_be_numbers(tmp_path):
    few = write(tmp_path / "few.csv", [["x", "7"], ["y", "8"]], NAMES[:2])
    assert reader().faults(few, labelled=False) == []
    many = write(tmp_path / "many.csv", [[f"x{i}", "7"] for i in range(100)], NAMES[:2])
    assert "holds numbers" in reader().faults(many, labelled=False)[0]


def test_files_of_one_name_cannot_give_ids():
    with pytest.raises(ValidationError, match="expected files of different names"):
        reader(columns={"id": None, "text": "body"}, train="a/t.csv", test="b/t.csv")


@pytest.mark.parametrize("names", [("glad", ""), ("glad ", "sad"), ("glad", "glad")])
def test_names_that_no_cell_can_hold_are_refused(names):
    with pytest.raises(ValidationError, match="expected each name once"):
        reader({"classes": names})


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_text_column_of_numbers_is_a_fault_of_the_file(tmp_path, suffix):
    path = write(tmp_path / f"t.{suffix}", [["x", 1.5, "glad"], ["y", 2.0, "sad"]])
    (fault,) = reader().faults(path, labelled=True)
    assert "column 'body' holds numbers, got" in fault
    assert fault.endswith("expected texts")


def test_missing_label_column_is_a_fault_of_the_file(tmp_path):
    path = write(tmp_path / "t.csv", [["x", "t"]], NAMES[:2])
    (fault,) = reader().faults(path, labelled=True)
    assert "missing columns ['mood'], got ['key', 'body']" in fault


@pytest.mark.parametrize(
    "label",
    [{"classes": ["one"]}, {"several": "some"}, {"separator": ""}, {"numbers_from": -1},
     {"kind": "flags", "columns": {}}, {"kind": "stars"}],
)  # fmt: skip
def test_label_params_are_checked(label):
    with pytest.raises(ValidationError, match=r"label"):
        reader(label)


def test_titles_that_only_one_part_has_are_not_read(tmp_path):
    rows = [["x", "some title", "text"]]
    path = write(tmp_path / "t.csv", rows, ["key", "title", "body"])
    assert list(reader().read(path, labelled=False)) == [Row(2, "x", ("text",), None)]
