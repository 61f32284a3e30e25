import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tasks import Preference, read_task
from stages.data import ingest
from tests.given import write_params

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
READER = {"format": "arena", "train": "train.csv", "test": "test.csv"}
SECTION = {
    "task": "preference",
    "reader": READER,
    "sample": "sample_submission.csv",
    "truth": None,
    "max_reject_share": 0.5,
}
TRAIN = "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
TEST = "id,prompt,response_a,response_b\n"
SAMPLE = "id,winner_model_a,winner_model_b,winner_tie\n"
PREFERENCES = ["1,0,0", "0,1,0", "0,0,1", "1,0,0"]
LAYOUT = Layout("mine")


def train(*ids):
    flags = zip(ids, PREFERENCES * len(ids), strict=False)
    return TRAIN + "".join(f'{i},gpt,koala,["p {i}"],["a"],[null],{flag}\n' for i, flag in flags)


def unlabelled(*ids):
    return TEST + "".join(f'{i},["q"],["😀"],["\\ud83d"]\n' for i in ids)


def sample(*ids):
    return SAMPLE + "".join(f"{i},0.3,0.3,0.4\n" for i in ids)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def raw_files(dataset="mine", **files):
    raw = Layout(dataset).raw
    raw.mkdir(parents=True, exist_ok=True)
    names = {"sample": "sample_submission"}
    whole = {"train": train(1, 2, 3, 4), "test": unlabelled(8, 9), "sample": sample(8, 9)} | files
    for name, content in whole.items():
        path = raw / f"{names.get(name, name)}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def outs(dataset):
    """All files that the stage writes, by name."""
    layout = Layout(dataset)
    paths = {
        "rows": layout.rows,
        "rejects": layout.rejects,
        "labels": layout.labels,
        "strata": layout.strata,
        "metrics": layout.ingest,
    }
    data = {path for path in layout.rows.parent.iterdir() if path.is_file()}
    assert data == {path for name, path in paths.items() if name != "metrics"}
    return paths


def is_written(dataset="mine"):
    layout = Layout(dataset)
    return layout.rows.parent.exists() or layout.ingest.parent.exists()


def run(dataset="mine", **section):
    write_params(Path(), dataset, ingest=SECTION | section)
    ingest.main(dataset=dataset)
    layout = Layout(dataset)
    rows, rejects = pd.read_parquet(layout.rows), pd.read_parquet(layout.rejects)
    return rows, rejects, json.loads(layout.ingest.read_text())


def test_rows_have_parts_turns_and_targets_and_no_model_names(workspace):
    raw_files()
    rows, rejects, metrics = run()
    assert list(rows) == [
        "id", "part", "prompt", "response_a", "response_b", "y_a", "y_b", "y_tie",
    ]  # fmt: skip
    assert list(rows["id"]) == ["1", "2", "3", "4", "8", "9"]
    assert list(rows["part"]) == ["train"] * 4 + ["test"] * 2
    assert list(rows["response_b"][0]) == [None]
    assert list(rows["response_b"][4]) == ["\ufffd"]
    targets = rows[["y_a", "y_b", "y_tie"]].to_numpy()
    np.testing.assert_array_equal(targets[:4], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert np.isnan(targets[4:]).all()
    assert read_task(LAYOUT.labels).classes == ("a", "b", "tie")
    assert len(rejects) == 0
    assert metrics == {
        "raw_rows": 6, "train_rows": 4, "test_rows": 2, "rejects": 0, "null_turns": 4,
        "share": {"a": 0.5, "b": 0.25, "tie": 0.25},
    }  # fmt: skip


def test_model_names_change_no_byte_but_those_of_their_own_file(workspace):
    """So no feature can know them: all features are made of rows.parquet."""
    raw_files("named")
    run("named")
    others = train(1, 2, 3, 4).replace("gpt,koala", "koala,gpt", 2).replace("gpt,koala", ",", 1)
    raw_files("others", train=others)
    run("others")
    nameless = train(1, 2, 3, 4).replace("model_a,model_b,", "").replace("gpt,koala,", "")
    raw_files("nameless", train=nameless)
    run("nameless")
    for name, file in outs("named").items():
        first, *more = (outs(own)[name].read_bytes() for own in ("named", "others", "nameless"))
        assert [first == other for other in more] == [name != "strata"] * 2, file
    strata = pd.read_parquet(Layout("others").strata)
    assert list(strata) == ["id", "model_a", "model_b"]
    assert strata.to_numpy().tolist() == [
        ["1", "koala", "gpt"], ["2", "koala", "gpt"], ["4", "gpt", "koala"],
    ]  # fmt: skip
    assert len(pd.read_parquet(Layout("nameless").strata)) == 0


def test_every_later_row_with_an_id_is_rejected_also_across_parts(workspace):
    raw_files(train=train(1, 2, 1, 1), test=unlabelled(8, 2), sample=sample(8, 2))
    rows, rejects, _ = run()
    assert list(rows["id"]) == ["1", "2", "8"]
    assert rejects.to_dict("list") == {
        "part": ["train", "train", "test"],
        "file": ["train.csv", "train.csv", "test.csv"],
        "line": [4, 5, 3],
        "id": ["1", "1", "2"],
        "reason": ["duplicate id, as in train.csv"] * 3,
    }


def test_rows_and_rejects_are_all_raw_rows(workspace):
    bad = [
        'x,m,m,plain,["a"],["b"],1,0,0', 'y,m,m,["p"],["a"],["b"],1,1,0', "z,short",
        ',m,m,["p"],["a"],["b"],1,0,0', 'w,m,m,["p"],"[""a"",""c""]",["b"],1,0,0',
        'v,m,m,["p\xff"],["a"],["b"],1,0,0',
    ]  # fmt: skip
    content = train(*range(20)).encode() + "\n".join(bad).encode("latin-1")
    raw_files(train=content, test=unlabelled(80, 90), sample=sample(80, 90))
    rows, rejects, metrics = run()
    assert len(rows) + len(rejects) == metrics["raw_rows"] == 28
    assert list(rejects["line"]) == [22, 23, 24, 25, 26, 27]
    assert list(rejects["reason"]) == [
        "unparsable turns in prompt", "more than one winner", "wrong number of fields",
        "empty id", "unequal turn counts", "bad UTF-8",
    ]  # fmt: skip


def test_rejects_have_the_same_schema_with_and_without_rows(workspace):
    raw_files("empty")
    run("empty")
    raw_files("full", train=train(1, 2, 2))
    run("full")
    schemas = [pq.read_schema(Layout(name).rejects) for name in ("empty", "full")]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert list(map(str, schemas[0].types)) == ["string", "string", "int64", "string", "string"]


def test_too_many_rejects_stop_the_stage_with_the_most_frequent_reasons(workspace):
    raw_files(train=train(1, 2, 1, 1) + "x,y\n")
    message = r"got 3 of 7 rows \(42.86%\); expected at most max_reject_share = 40.00%"
    with pytest.raises(InputError, match=message) as caught:
        run(max_reject_share=0.4)
    found = str(caught.value)
    assert "2 x duplicate id, as in train.csv, first at data/raw/mine/train.csv:4" in found
    assert "1 x wrong number of fields, first at data/raw/mine/train.csv:6" in found
    assert not is_written()


def test_only_the_ten_most_frequent_reasons_are_told():
    rejects = [("train", "t.csv", ingest.Reject(n, None, f"r{n}")) for n in range(12)]
    assert ingest.reasons(ingest.build(rejects, Preference())[1], Path("raw")).count("\n") == 10


def test_part_without_a_row_left_stops_the_stage(workspace):
    raw_files(test=TEST + "8,x\n", sample=sample(8))
    with pytest.raises(InputError, match="no test row is left"):
        run(max_reject_share=1.0)


def test_all_file_faults_are_told_at_once_and_nothing_is_written(workspace):
    raw_files(train=b"\x89PNG\0", test=TEST, sample="id,a,b,tie\n8,1,0,0\n")
    with pytest.raises(InputError, match=r"data/raw/mine: 4 fault\(s\)") as caught:
        run(truth="truth.csv")
    faults = str(caught.value)
    for name, fault in [("train", "NUL"), ("test", "header only"), ("truth", "missing file")]:
        assert any(f"{name}.csv" in line and fault in line for line in faults.splitlines())
    assert "sample_submission.csv: missing columns ['winner_model_a'" in faults
    assert not is_written()


def test_missing_raw_folder_is_told(workspace):
    message = r"data/raw/mine: missing folder; expected one with train\.csv"
    with pytest.raises(InputError, match=message):
        run()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (sample(8), "1 test ids missing, the first is '9'"),
        (sample(8, 9, 10), "1 ids that the test file lacks, the first is '10'"),
        (sample(8, 9, 8), "1 ids more than once, the first is '8'"),
        (sample(8, 9) + "7\n", "1 broken lines, the first is 4"),
        (sample(8, 9).replace("winner_model_a", "more,winner_model_a", 1), "columns do not fit"),
    ],
)
def test_sample_that_does_not_fit_is_told(workspace, content, fault):
    raw_files(sample=content)
    with pytest.raises(InputError, match=fault):
        run()
    assert not is_written()


def test_sample_must_hold_rejected_test_rows_too(workspace, caplog):
    raw_files(test=unlabelled(8, 9) + "10,broken\n", sample=sample(8, 9, 10))
    _rows, rejects, _ = run()
    assert list(rejects["id"]) == ["10"]
    assert "1 test rows are rejects, 0 of them without an id" in caplog.text


def test_without_a_test_file_all_rows_are_train_rows(workspace):
    raw_files(train=train(1, 2, 3) + "4,broken\n")
    (LAYOUT.raw / "test.csv").unlink()
    rows, rejects, metrics = run(reader=READER | {"test": None}, sample=None)
    assert list(rows["part"]) == ["train"] * 3
    assert list(rejects["id"]) == ["4"]
    assert metrics["test_rows"] == 0
    with pytest.raises(InputError, match="a sample submission wants a test file"):
        run(reader=READER | {"test": None})


def test_truth_is_joined_by_id(workspace):
    ids = [9, 8, 4, 3, 2, 1, 77]
    raw_files(truth="id,a,b,tie\n" + "".join(f"{i},{i / 100},{1 - i / 100},0\n" for i in ids))
    rows, _, _ = run(truth="truth.csv", sample=None)
    assert list(rows)[-3:] == ["truth_a", "truth_b", "truth_tie"]
    np.testing.assert_allclose(rows["truth_a"], rows["id"].astype(int) / 100)


def test_truth_faults_are_told_at_once(workspace):
    raw_files(truth="id,a,b,tie\n1,0.5,0.5,0\n1,0.5,0.5,0.5\n2,x,0,1\n")
    with pytest.raises(InputError, match=r"3 fault\(s\)") as caught:
        run(truth="truth.csv")
    assert "1 rows with an id that came before, the first in line 3" in str(caught.value)
    assert "2 rows with no probabilities that sum to 1, the first in line 3" in str(caught.value)
    assert "no truth for 4 rows, the first is '3'" in str(caught.value)


def test_params_faults_are_told_at_once(workspace):
    with pytest.raises(InputError, match=r"3 fault\(s\) in ingest") as caught:
        run(reader=READER | {"extra": 1}, max_reject_share=2, task="classification")
    assert "ingest.max_reject_share" in str(caught.value)


def test_table_reader_goes_the_same_way(workspace):
    LAYOUT.raw.mkdir(parents=True)
    row = {"key": 1, "q": ["x", "y"], "l": ["a", None], "r": ["b", "c"], "winner": "both"}
    (LAYOUT.raw / "train.jsonl").write_text(json.dumps(row) + "\n")
    row.pop("winner")
    (LAYOUT.raw / "test.jsonl").write_text(json.dumps(row | {"key": "2"}) + "\n")
    rows, _, _ = run(
        reader={
            "format": "table", "train": "train.jsonl", "test": "test.jsonl",
            "columns": {"id": "key", "prompt": "q", "response_a": "l", "response_b": "r"},
            "label": {"kind": "values", "column": "winner", "classes": {"both": "tie"}},
        },
        sample=None,
    )  # fmt: skip
    assert list(rows["id"]) == ["1", "2"]
    assert list(rows["response_a"][0]) == ["a", None]
    assert rows["y_tie"][0] == 1


TEXT = {
    "format": "text", "train": "train.csv", "dev": "dev.csv", "test": "test.csv", "quoted": True,
    "header": None, "columns": {"id": "id", "text": "text"}, "longest": 100,
    "label": {
        "kind": "classes", "column": "label", "classes": ["no", "yes"], "numbers_from": None,
        "separator": "|", "several": "leave_out",
    },
}  # fmt: skip


def text_files(train="1,a,no\n2,b,yes\n3,c,yes\n", dev="4,d,no\n", test="5,e\n6,\n"):
    raw_files(train=f"id,text,label\n{train}", dev=f"id,text,label\n{dev}", test=f"id,text\n{test}")


def test_texts_with_labels_have_a_string_column_and_a_dev_part(workspace):
    text_files()
    rows, rejects, metrics = run(task="single_label", reader=TEXT, sample=None)
    assert list(rows) == ["id", "part", "text", "y_no", "y_yes"]
    assert rows["text"].tolist() == ["a", "b", "c", "d", "e", ""]
    assert rows["part"].tolist() == ["train"] * 3 + ["dev"] + ["test"] * 2
    np.testing.assert_array_equal(rows["y_yes"], [0, 1, 1, 0, np.nan, np.nan])
    assert len(rejects) == 0
    task = read_task(LAYOUT.labels)
    assert (task.kind, task.classes) == ("single_label", ("no", "yes"))
    assert metrics == {
        "raw_rows": 6, "train_rows": 3, "test_rows": 2, "rejects": 0, "dev_rows": 1,
        "left_out": 0, "empty_texts": 1,
        "share": {"no": pytest.approx(1 / 3), "yes": pytest.approx(2 / 3)},
    }  # fmt: skip


def test_rows_that_the_params_leave_out_are_counted_apart_from_faults(workspace, caplog):
    text_files(train="1,a,no\n2,b,yes|no\n3,c,no|yes\n7,d,maybe\n8,,no\n")
    rows, rejects, metrics = run(
        task="single_label", reader=TEXT, sample=None, max_reject_share=0.25
    )
    assert len(rows) + len(rejects) == metrics["raw_rows"] == 8
    assert (metrics["rejects"], metrics["left_out"]) == (4, 2)
    assert rejects["reason"].tolist() == [
        "left out: more than one label", "left out: more than one label",
        "unknown label 'maybe'", "empty text",
    ]  # fmt: skip
    assert "2 x left out: more than one label, first at data/raw/mine/train.csv:3" in caplog.text
    message = r"got 2 of 8 rows \(25.00%\); expected at most max_reject_share = 24.00%"
    with pytest.raises(InputError, match=message) as caught:
        run(task="single_label", reader=TEXT, sample=None, max_reject_share=0.24)
    assert "left out" not in str(caught.value)


def test_several_labels_make_a_task_of_several_labels(workspace):
    text_files(train="1,a,no|yes\n2,b,yes\n")
    reader = TEXT | {"label": TEXT["label"] | {"several": "all"}}
    rows, _, _ = run(task="multi_label", reader=reader, sample=None)
    assert rows[["y_no", "y_yes"]].to_numpy()[:2].tolist() == [[1, 1], [0, 1]]
    assert json.loads(LAYOUT.labels.read_text())["kind"] == "multi_label"


def test_unknown_labels_in_the_dev_part_leave_no_row_there(workspace):
    text_files(dev="4,d,maybe\n")
    with pytest.raises(InputError, match="no dev row is left"):
        run(task="single_label", reader=TEXT, sample=None)


def test_task_that_the_labels_do_not_make_is_refused(workspace):
    for task in ("multi_label", "preference"):
        with pytest.raises(InputError, match=f"make a task 'single_label', got '{task}'"):
            run(task=task, reader=TEXT, sample=None)


def test_missing_file_of_names_is_told_with_the_other_faults(workspace):
    text_files(test="")
    reader = TEXT | {"label": TEXT["label"] | {"classes": "names.txt"}}
    with pytest.raises(InputError, match=r"data/raw/mine: 2 fault\(s\)") as caught:
        run(task="single_label", reader=reader, sample=None)
    assert "data/raw/mine/names.txt: missing file" in str(caught.value)
    assert "data/raw/mine/test.csv: no rows" in str(caught.value)


def test_sample_of_texts_must_start_with_the_ids(workspace):
    text_files()
    (LAYOUT.raw / "sample.csv").write_text("id,label\n5,no\n")
    with pytest.raises(InputError, match="1 test ids missing, the first is '6'"):
        run(task="single_label", reader=TEXT, sample="sample.csv")
    (LAYOUT.raw / "sample.csv").write_text("label,id\nno,5\nno,6\n")
    with pytest.raises(InputError, match="columns do not fit"):
        run(task="single_label", reader=TEXT, sample="sample.csv")
    reader = TEXT | {"columns": {"id": None, "text": "text"}}
    with pytest.raises(InputError, match="a sample submission wants a column of ids"):
        run(task="single_label", reader=reader, sample="sample.csv")


def test_truth_of_several_labels_need_not_sum_to_one(workspace):
    text_files()
    reader = TEXT | {"label": TEXT["label"] | {"several": "all"}}
    truth = "id,no,yes\n" + "".join(f"{i},0.5,0.9\n" for i in range(1, 7))
    (LAYOUT.raw / "truth.csv").write_text(truth)
    rows, _, _ = run(task="multi_label", reader=reader, sample=None, truth="truth.csv")
    assert rows["truth_yes"].tolist() == [0.9] * 6
    with pytest.raises(InputError, match="6 rows with no probabilities that sum to 1"):
        run(task="single_label", reader=TEXT, sample=None, truth="truth.csv")


def test_another_process_writes_the_same_bytes(workspace):
    for dataset in ("one", "two"):
        raw_files(dataset, train=train(1, 2, 3, 3))
        write_params(Path(), dataset, ingest=SECTION)
    ingest.main(dataset="one")
    subprocess.run(
        [sys.executable, "-m", "stages.data.ingest", "--dataset", "two"],
        check=True, env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    for name, file in outs("one").items():
        assert file.read_bytes() == outs("two")[name].read_bytes(), file


def link(raw):
    """Make a folder of real data the raw folder of the data set, or skip the test."""
    if not raw.exists():
        pytest.skip(f"no real data at {raw}")
    LAYOUT.raw.parent.mkdir(parents=True)
    LAYOUT.raw.symlink_to(raw)


@pytest.mark.parametrize(
    ("name", "n_train", "n_test"), [("arena", 1950, 490), ("pairs", 3627, 1134)]
)
def test_real_rows_are_all_accounted_for(workspace, name, n_train, n_test):
    link(SHARED / name)
    rows, rejects, metrics = run(max_reject_share=0.0)
    assert (metrics["train_rows"], metrics["test_rows"]) == (n_train, n_test)
    assert len(rows) + len(rejects) == n_train + n_test


@pytest.mark.parametrize(
    ("name", "rows_of", "n_left_out"),
    [
        ("goemotions", (43410, 5426, 5427), 0),
        ("goemotions_single", (36308, 4548, 5427), 7980),
        ("dbpedia14", (23655, 0, 7600), 0),
        ("airline", (11406, 0, 3021), 0),
        ("phrasebank", (3792, 0, 1046), 0),
    ],
)
def test_real_texts_are_all_accounted_for(workspace, name, rows_of, n_left_out):
    raw = SHARED / name.removesuffix("_single")
    link(raw)
    params = YAML(typ="safe").load(ROOT / "params" / f"{name}.yaml")["ingest"]
    rows, rejects, metrics = run(**{"sample": None} | params)
    assert tuple(metrics[f"{part}_rows"] for part in ("train", "dev", "test")) == rows_of
    assert (len(rejects), metrics["left_out"]) == (n_left_out, n_left_out)
    assert len(rows) + len(rejects) == metrics["raw_rows"]
    names = {"goemotions": "emotions.txt", "dbpedia14": "classes.txt"}
    if file := names.get(raw.name):
        assert read_task(LAYOUT.labels).classes == tuple((raw / file).read_text().split())
