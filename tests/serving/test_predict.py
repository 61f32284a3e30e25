"""The tool that predicts new rows, on tiny trained pipelines."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.data.readers.arena import ArenaReader
from stages.runtime.outputs import folder_faults
from stages.serving import _chunks as _predict_chunks
from stages.serving import pipeline as _pipeline
from stages.serving import predict

HEADER = ["id", "prompt", "response_a", "response_b"]
NEW = [
    ["1", '["hi"]', '["hello"]', '["no"]'],
    ["2", '["unequal", "turns"]', '["x"]', '["y"]'],
    ["3", '[null, "😀"]', '["", "x"]', '["y", null]'],
    ["1", "no JSON", "[]", '["z"]'],
    ["1", '["the same id again"]', '["x"]', '["\\ud800y"]'],
]


def write_csv(path, rows, header=HEADER):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def raw_test(folder, dataset):
    return folder / "data" / "raw" / dataset / "test.csv"


def stored(folder, dataset, model="ensemble"):
    table = pd.read_parquet(Layout(dataset, folder).predictions(model))
    table = table[table["part"] == "test"]
    return table[["id", *(name for name in table if name.startswith("p_"))]].reset_index(drop=True)


def read(path):
    kinds = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        return pd.DataFrame([json.loads(line) for line in lines])
    return kinds[path.suffix](path, **({"dtype": {"id": str}} if path.suffix == ".csv" else {}))


@pytest.mark.parametrize("suffix", predict.SUFFIXES)
@pytest.mark.parametrize("dataset", ["demo", "goemotions"])
def test_the_test_file_gets_the_predictions_of_the_pipeline(trained, dataset, suffix, tmp_path):
    folder, out = trained(dataset), tmp_path / f"out{suffix}"
    predict.main(raw_test(folder, dataset), out, dataset=dataset, root=folder)
    found, expected = read(out), stored(folder, dataset)
    assert found["id"].tolist() == expected["id"].tolist()
    values = list(expected)[1:]
    np.testing.assert_allclose(found[values], expected[values], rtol=0, atol=1e-5)
    assert list(found)[1:] == [*values, *(["label"] if dataset == "goemotions" else [])]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]  # no rejects, nothing left


@pytest.mark.parametrize("dataset", ["demo", "goemotions"])
def test_cascade_takes_the_cheap_model_where_it_is_sure(trained, dataset, tmp_path, monkeypatch):
    folder, out = trained(dataset), tmp_path / "out.csv"
    cheap = "mlp" if dataset == "demo" else "logreg"
    own, rest = (stored(folder, dataset, name) for name in (cheap, "ensemble"))
    values = list(rest)[1:]
    sure = own[values].to_numpy()
    sure = sure.max(axis=1) if dataset == "demo" else np.maximum(sure, 1 - sure).mean(axis=1)
    threshold = (np.sort(sure)[6] + np.sort(sure)[7]) / 2
    monkeypatch.setattr(_pipeline, "read_threshold", lambda _: threshold)
    predict.main(raw_test(folder, dataset), out, dataset=dataset, root=folder, cascade=True)
    expected = np.where((sure >= threshold)[:, None], own[values], rest[values])
    np.testing.assert_allclose(read(out)[values], expected, rtol=0, atol=1e-5)
    assert 0 < (sure >= threshold).sum() < len(sure)


def test_other_cheap_model_than_the_threshold_was_chosen_for_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained("demo"), tmp_path / "demo", symlinks=True)
    path = folder / "params/demo.yaml"
    params = json.loads(path.read_text())
    built = {"params": {"params/demo.yaml": {"cascade": params["cascade"]}}}
    (folder / "dvc.lock").write_text(json.dumps({"stages": {"cascade@demo": built}}))
    params["cascade"]["cheap"] = "svm"
    path.write_text(json.dumps(params))
    _pipeline.Pipeline.load("demo", folder)
    with pytest.raises(InputError, match=r"other params in \['cascade'\] than"):
        _pipeline.Pipeline.load("demo", folder, cascade=True)


def test_threshold_of_the_cascade_is_that_of_its_stage(trained, tmp_path):
    path = trained("demo") / "metrics/cascade/demo.json"
    assert _pipeline.read_threshold(path) == json.loads(path.read_text())["threshold"]
    (tmp_path / "none.json").write_text('{"rows": 0}')
    with pytest.raises(InputError, match=r"none\.json: no threshold, since .*expected another"):
        _pipeline.read_threshold(tmp_path / "none.json")


def test_labels_are_those_of_the_submission(trained, tmp_path, monkeypatch):
    folder, out = trained("goemotions"), tmp_path / "out.csv"
    monkeypatch.chdir(folder)
    predict.main(raw_test(folder, "goemotions"), out, dataset="goemotions")
    submitted = pd.read_csv(Layout("goemotions").submission)  # of the stage
    pd.testing.assert_series_equal(read(out)["label"], submitted["label"])


def test_rejects_are_listed_and_the_exit_status_says_so(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(_predict_chunks, "CHUNK", 2)
    out = tmp_path / "out.csv"
    new = write_csv(tmp_path / "new.csv", NEW)
    with pytest.raises(SystemExit) as ended:
        predict.main(new, out, dataset="demo", root=trained("demo"))
    assert ended.value.code == 2
    found = read(out)
    assert found["id"].tolist() == ["1", "3", "1"]
    np.testing.assert_allclose(found[["p_a", "p_b", "p_tie"]].sum(axis=1), 1)
    with (tmp_path / "out.rejects.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["line", "id", "reason"],
            ["3", "2", "unequal turn counts"],
            ["5", "1", "unparsable turns in prompt"],
        ]
    predict.main(write_csv(new, NEW[:1]), out, dataset="demo", root=trained("demo"))
    assert not (tmp_path / "out.rejects.csv").exists()


def test_a_file_of_rejects_only_leaves_a_table_without_rows(trained, tmp_path):
    new = write_csv(tmp_path / "new.csv", [NEW[1]])
    for suffix in predict.SUFFIXES:
        out = tmp_path / f"out{suffix}"
        with pytest.raises(SystemExit):
            predict.main(new, out, dataset="demo", root=trained("demo"))
        assert len(read(out)) == 0
        assert suffix == ".jsonl" or list(read(out)) == ["id", "p_a", "p_b", "p_tie"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_turns_are_what_their_json_is(trained, suffix, tmp_path):
    root = trained("demo")
    given = [[cell if cell.isdecimal() else json.loads(cell) for cell in row] for row in NEW[::2]]
    given = pd.DataFrame(given, columns=HEADER)
    new = tmp_path / f"new{suffix}"
    if suffix == ".jsonl":
        lines = [json.dumps(row) for row in given.to_dict("records")]
        new.write_text("\n".join(lines), "utf-8")
    else:
        given.loc[2, "response_b"] = [["\ufffdy"]]  # Parquet cannot hold half an emoji
        given.to_parquet(new)
    predict.main(new, tmp_path / "a.csv", dataset="demo", root=root)
    predict.main(
        write_csv(tmp_path / "n.csv", NEW[::2]), tmp_path / "b.csv", dataset="demo", root=root
    )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_input_without_all_columns_is_refused(trained, tmp_path):
    new = write_csv(tmp_path / "new.csv", [["1", "[]"]], ["id", "prompt"])
    with pytest.raises(InputError, match=r"missing columns \['response_a', 'response_b'\]"):
        predict.main(new, tmp_path / "out.csv", dataset="demo", root=trained("demo"))


@pytest.mark.parametrize("rows", ["", "id,prompt,response_a,response_b\n"])
def test_empty_input_is_refused(trained, rows, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text(rows, "utf-8")
    with pytest.raises(InputError, match="expected rows"):
        predict.main(new, tmp_path / "out.csv", dataset="demo", root=trained("demo"))


def test_unknown_suffixes_and_missing_files_are_refused_at_once(trained, tmp_path):
    with pytest.raises(InputError, match=r"(?s)out\.xlsx: unknown suffix.*new\.csv: missing file"):
        predict.main(
            tmp_path / "new.csv", tmp_path / "out.xlsx", dataset="demo", root=trained("demo")
        )
    with pytest.raises(InputError, match=r"new\.ods: unknown suffix"):
        predict.main(
            tmp_path / "new.ods", tmp_path / "out.csv", dataset="demo", root=trained("demo")
        )


def test_the_input_is_never_overwritten(trained, tmp_path):
    new = write_csv(tmp_path / "new.csv", NEW)
    (tmp_path / "link.csv").symlink_to(new)
    before = new.read_bytes()
    with pytest.raises(InputError, match=r"link\.csv: is the input"):
        predict.main(new, tmp_path / "link.csv", dataset="demo", root=trained("demo"))
    rejects = write_csv(tmp_path / "out.rejects.csv", NEW)
    with pytest.raises(InputError, match=r"out\.rejects\.csv: is the input"):
        predict.main(rejects, tmp_path / "out.csv", dataset="demo", root=trained("demo"))
    assert new.read_bytes() == before


def test_a_folder_is_never_overwritten(trained, tmp_path):
    folder = tmp_path / "out.csv"
    folder.mkdir()
    new = write_csv(folder / "new.csv", NEW[:1])
    with pytest.raises(InputError, match=r"out\.csv: is a folder; expected the name of a file"):
        predict.main(new, folder, dataset="demo", root=trained("demo"))
    assert [path.name for path in folder.iterdir()] == ["new.csv"]


def test_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path):
    new = write_csv(tmp_path / "new.csv", NEW[:1])
    (fault,) = predict.path_faults(new, new / "a" / "out.csv")
    assert f"out.csv: cannot be written, got {new}; expected a folder" in fault
    assert folder_faults(new / "a" / "out.csv") == [fault]


def test_a_file_that_breaks_off_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(_predict_chunks, "CHUNK", 1)
    new = write_csv(tmp_path / "new.csv", NEW[:1])
    with new.open("a", encoding="utf-8") as file:
        file.write('2,"[""never closed')
    (tmp_path / "out.csv").write_text("from before", "utf-8")
    with pytest.raises(InputError, match="never closed"):
        predict.main(new, tmp_path / "out.csv", dataset="demo", root=trained("demo"))
    assert (tmp_path / "out.csv").read_text("utf-8") == "from before"
    assert {path.name for path in tmp_path.iterdir()} == {"new.csv", "out.csv"}


def test_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"params/nothing\.yaml: no such file"):
        predict.main(tmp_path / "new.csv", tmp_path / "out.csv", dataset="nothing", root=tmp_path)


def test_rows_are_taken_as_they_come(trained):
    """A reader is not asked for more than a chunk before the chunk before is written."""
    asked, found = [], []
    pipeline = _predict_chunks.Pipeline.load("demo", trained("demo"))
    reader = ArenaReader(format="arena", train="train.csv", test="test.csv")

    def read(path):
        for number, record in enumerate(reader.read(path, labelled=False)):
            asked.append((number, len(found)))
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_predict_chunks, "CHUNK", 4)
        source = raw_test(trained("demo"), "demo")
        for part in _predict_chunks.predict([source], read, pipeline, sys.exit):
            found.append(len(part.rows))  # noqa: PERF401 - `read` looks at it meanwhile
    assert asked == [(number, number // 4) for number in range(14)]
    assert found == [4, 4, 4, 2]


def shards_of(folder):
    """The rows of NEW in files of all kinds, one with a reject."""
    folder.mkdir()
    write_csv(folder / "a.csv", NEW[:2])
    write_csv(folder / "b.csv", NEW[2:3])
    lines = [dict(zip(HEADER, row, strict=True)) for row in NEW[4:]]
    (folder / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (folder / "_SUCCESS").touch()
    return folder


@pytest.mark.parametrize("pattern", ["", "*.*"])
def test_each_file_of_a_folder_becomes_one_of_the_same_name(trained, tmp_path, pattern):
    shards, out = shards_of(tmp_path / "shards"), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        predict.main(shards / pattern, out, dataset="demo", root=trained("demo"))
    assert ended.value.code == 2
    names = {path.name for path in out.iterdir()}
    assert names == {"a.csv", "a.rejects.csv", "b.csv", "c.jsonl"}
    for name in ("a.csv", "b.csv", "c.jsonl"):
        try:
            predict.main(shards / name, tmp_path / name, dataset="demo", root=trained("demo"))
        except SystemExit:
            assert name == "a.csv"
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert (tmp_path / "a.rejects.csv").read_bytes() == (out / "a.rejects.csv").read_bytes()


def test_what_is_left_out_of_a_folder_is_told(tmp_path, caplog):
    shards = shards_of(tmp_path / "shards")
    for name in ("A.CSV", "a.csv.gz", "notes.md"):
        (shards / name).touch()
    (shards / "deeper.csv").mkdir()
    assert [path.name for path in predict.sources_of(shards)] == ["a.csv", "b.csv", "c.jsonl"]
    (message,) = caplog.messages
    assert message.endswith("shards: A.CSV, a.csv.gz, deeper.csv, notes.md")


def test_pattern_may_stand_in_a_folder_of_the_path(tmp_path, monkeypatch):
    shards_of(tmp_path / "shards")
    expected = [tmp_path / "shards/a.csv", tmp_path / "shards/b.csv"]
    assert predict.sources_of(tmp_path / "shar?s/*.csv") == expected
    monkeypatch.chdir(tmp_path)
    assert predict.sources_of(Path("s*/a.csv")) == [Path("shards/a.csv")]


def test_a_folder_that_holds_files_is_not_written_to(trained, tmp_path):
    shards = shards_of(tmp_path / "shards")
    with pytest.raises(InputError, match="shards: is there already; expected a new folder"):
        predict.main(shards, shards, dataset="demo", root=trained("demo"))
    (shards / "a.parquet").touch()
    with pytest.raises(InputError, match=r"(?s)a\.parquet: no Parquet file"):
        predict.main(shards, tmp_path / "out", dataset="demo", root=trained("demo"))


def test_files_that_differ_in_their_suffix_only_are_refused(trained, tmp_path):
    shards = shards_of(tmp_path / "shards")
    (shards / "b.jsonl").write_bytes((shards / "c.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"several files are called \['b'\]"):
        predict.main(shards, tmp_path / "out", dataset="demo", root=trained("demo"))


def test_rejects_of_a_file_never_take_the_place_of_another(trained, tmp_path):
    shards = shards_of(tmp_path / "shards")
    (shards / "b.rejects.csv").write_bytes((shards / "a.csv").read_bytes())
    with pytest.raises(InputError, match=r"several files are called \['b'\]"):
        predict.main(shards, tmp_path / "out", dataset="demo", root=trained("demo"))


def test_name_with_a_sign_of_patterns_is_that_file(tmp_path):
    path = tmp_path / "x[1].csv"
    path.touch()
    assert predict.sources_of(path) == [path]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "_x.csv").touch()
    with pytest.raises(InputError, match="names not starting with _"):
        predict.sources_of(tmp_path / "new")


def test_a_pattern_without_files_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match=r"\*\.csv: no such files; expected some"):
        predict.main(tmp_path / "*.csv", tmp_path / "out", dataset="demo", root=trained("demo"))
