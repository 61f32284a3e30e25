import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import ENSEMBLE, Layout
from stages.core.tables import write_json, write_table
from stages.evaluation import submit
from tests.given import write_params

COLUMNS = {"id": "id", "a": "winner_model_a", "b": "winner_model_b", "tie": "winner_tie"}
NAMES = tuple(COLUMNS.values())
SECTION = {"columns": COLUMNS, "labels": None, "sample": "sample.csv", "smallest": 0.001}
TEST_IDS = ["007", "8", "t🦦", "9"]  # text: 007 is not 7


@pytest.fixture
def inputs(tmp_path):
    """Two folds of train rows with class shares 0.5, 0.25, 0.25, and four test rows."""
    targets = np.vstack([np.eye(3)[[0, 0, 1, 2]], np.full((4, 3), np.nan)])
    frame = pd.DataFrame(
        {"id": ["1", "2", "3", "4", *TEST_IDS], "part": ["train"] * 4 + ["test"] * 4}
    )
    frame = frame.assign(fold=[0, 1, 0, 1, -1, -1, -1, -1], group=range(8))
    frame[["y_a", "y_b", "y_tie"]] = targets
    layout = Layout("tiny", tmp_path)
    write_table(frame, layout.folds)
    values = [[0.2, 0.3, 0.5], [0, 0, 1], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]
    predicted = pd.DataFrame({"id": ["1", *TEST_IDS], "part": ["oof"] + ["test"] * 4})
    predicted[["p_a", "p_b", "p_tie"]] = [[1, 0, 0], *values]
    write_table(predicted, layout.predictions(ENSEMBLE))
    layout.raw.mkdir(parents=True)
    write_task(tmp_path, "preference")
    write_rejects(tmp_path, [])
    write_sample(tmp_path, ["t🦦", "007", "9", "8"])
    return tmp_path


def write_sample(folder, ids, columns=NAMES):
    frame = pd.DataFrame({columns[0]: ids, **dict.fromkeys(columns[1:], 1 / 3)})
    frame.to_csv(Layout("tiny", folder).raw / "sample.csv", index=False)


def write_rejects(folder, rejects):
    frame = pd.DataFrame(rejects, columns=["part", "id"], dtype=str)
    write_table(frame, Layout("tiny", folder).rejects)


def run_stage(folder, monkeypatch, **changes):
    write_params(folder, "tiny", submit=SECTION | changes)
    monkeypatch.chdir(folder)
    submit.main(dataset="tiny")
    return pd.read_csv(Layout("tiny").submission, dtype={"id": str, "label": str})


def test_file_has_the_columns_and_the_order_of_the_sample(inputs, monkeypatch):
    found = run_stage(inputs, monkeypatch)
    assert list(found) == list(COLUMNS.values())
    assert found["id"].tolist() == ["t🦦", "007", "9", "8"]
    np.testing.assert_allclose(found.iloc[1, 1:].astype(float), [0.2, 0.3, 0.5], atol=1e-9)


def test_probabilities_are_never_zero_or_one_and_sum_to_one(inputs, monkeypatch):
    values = run_stage(inputs, monkeypatch).iloc[:, 1:].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1)
    assert values.min() > 0.0009
    assert values.max() < 1


def test_test_row_without_a_prediction_gets_the_class_shares(inputs, monkeypatch, caplog):
    write_sample(inputs, [*TEST_IDS, "lost"])
    found = run_stage(inputs, monkeypatch).set_index("id")
    assert found.loc["lost"].tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert "1 test rows have no prediction" in caplog.text
    write_sample(inputs, [*TEST_IDS, "NA"])  # an id like any other
    run_stage(inputs, monkeypatch)
    assert "\nNA,0.5" in Layout("tiny").submission.read_text(encoding="utf-8")


def test_without_a_sample_each_test_id_stands_once(inputs, monkeypatch):
    assert run_stage(inputs, monkeypatch, sample=None)["id"].tolist() == TEST_IDS
    # a second row of an id is a reject too, and one without an id cannot be submitted
    write_rejects(inputs, [("test", "lost"), ("train", "x"), ("test", "8"), ("test", None)])
    found = run_stage(inputs, monkeypatch, sample=None).set_index("id")
    assert found.index.tolist() == [*TEST_IDS, "lost"]
    assert found.loc["lost"].tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_sample_that_is_not_there_is_named_with_its_param(inputs, monkeypatch):
    with pytest.raises(InputError, match=r"params/tiny\.yaml: submit\.sample: .* got 's\.csv'"):
        run_stage(inputs, monkeypatch, sample="s.csv")


def test_sample_with_other_columns_is_refused(inputs, monkeypatch):
    write_sample(inputs, TEST_IDS, ("id", "winner_model_b", "winner_model_a", "winner_tie"))
    with pytest.raises(InputError, match=r"sample\.csv: got the columns \['id', 'winner_model_b'"):
        run_stage(inputs, monkeypatch)
    assert not Layout("tiny").submission.exists()


def test_sample_that_lacks_or_repeats_a_test_id_is_refused(inputs, monkeypatch):
    faults = {"'007' is missing": TEST_IDS[1:], "'8' stands twice": [*TEST_IDS, "8"]}
    for fault, ids in faults.items():
        write_sample(inputs, ids)
        with pytest.raises(InputError, match=f"expected each test id once\n.*{fault}"):
            run_stage(inputs, monkeypatch)


def test_columns_stand_in_the_order_of_the_params_and_differ(inputs, monkeypatch):
    names = {"tie": "t", "a": "x", "b": "y", "id": "key"}
    assert list(run_stage(inputs, monkeypatch, columns=names, sample=None)) == [
        "t",
        "x",
        "y",
        "key",
    ]
    with pytest.raises(InputError, match="two have the same name"):
        run_stage(inputs, monkeypatch, columns=COLUMNS | {"a": "id"})


def test_columns_that_do_not_name_every_class_are_refused(inputs, monkeypatch):
    columns = {"id": "id", "a": "x", "b": "y"}
    with pytest.raises(InputError, match=r"submit\.columns: got \['id', 'a', 'b'\]; expected"):
        run_stage(inputs, monkeypatch, columns=columns)


def test_clip_keeps_what_is_far_from_the_edges():
    rows = np.array([[0.2, 0.3, 0.5], [0, 0, 1]])
    found = submit.clip(rows, 0.01)
    np.testing.assert_allclose(found[0], rows[0])
    np.testing.assert_allclose(found[1], np.array([0.01, 0.01, 1]) / 1.02)


LABELS = {"separator": None, "numbers_from": None, "at_least_one": False}
WORDS = {"columns": {"id": "id", "label": "label"}, "sample": None}


def write_task(folder, kind, classes=("a", "b", "tie"), thresholds=None):
    layout = Layout("tiny", folder)
    write_json({"kind": kind, "classes": list(classes)}, layout.labels)
    write_json(thresholds or {}, layout.thresholds(ENSEMBLE))


def test_one_label_a_row_is_the_likeliest_class_in_the_raw_files_words(inputs, monkeypatch):
    write_task(inputs, "single_label")
    found = run_stage(inputs, monkeypatch, labels=LABELS, **WORDS)
    assert found.to_dict("list") == {"id": TEST_IDS, "label": ["tie", "tie", "a", "tie"]}
    numbers = LABELS | {"numbers_from": 1}
    found = run_stage(inputs, monkeypatch, labels=numbers, **WORDS)
    assert found["label"].tolist() == ["3", "3", "1", "3"]


def test_several_labels_are_those_that_reach_their_thresholds(inputs, monkeypatch):
    write_task(inputs, "multi_label", thresholds={"tie": 0.75, "b": 0.2, "a": 0.6})
    section = LABELS | {"separator": ",", "numbers_from": 0}
    found = run_stage(inputs, monkeypatch, labels=section, **WORDS)
    assert found.fillna("")["label"].tolist() == ["1", "2", "0,1", "2"]
    write_task(inputs, "multi_label", thresholds={"tie": 0.9, "b": 0.9, "a": 0.6})
    found = run_stage(inputs, monkeypatch, labels=section, **WORDS)
    assert found.fillna("")["label"].tolist() == ["", "2", "0", ""]
    found = run_stage(inputs, monkeypatch, labels=section | {"at_least_one": True}, **WORDS)
    assert found["label"].tolist() == ["2", "2", "0", "2"]


def test_row_without_a_prediction_gets_the_likeliest_class_of_all(inputs, monkeypatch):
    write_task(inputs, "single_label")
    pd.DataFrame({"id": [*TEST_IDS, "lost"], "label": ""}).to_csv(
        Layout("tiny", inputs).raw / "sample.csv", index=False
    )
    words = WORDS | {"sample": "sample.csv"}
    found = run_stage(inputs, monkeypatch, labels=LABELS, **words)
    assert found.set_index("id")["label"]["lost"] == "a"


def test_probabilities_of_several_labels_do_not_sum_to_one(inputs, monkeypatch):
    write_task(inputs, "multi_label", thresholds={"a": 0.5, "b": 0.5, "tie": 0.5})
    found = run_stage(
        inputs, monkeypatch, sample=None, columns={n: n for n in ("id", "a", "b", "tie")}
    )
    np.testing.assert_allclose(found.iloc[1, 1:].astype(float), [0.001, 0.001, 0.999])


@pytest.mark.parametrize(("separator", "torn"), [(None, "a"), ("i", "tie"), ("t", "tie")])
def test_separator_must_stand_in_no_name(inputs, monkeypatch, separator, torn):
    write_task(inputs, "multi_label", thresholds={"a": 0.5, "b": 0.5, "tie": 0.5})
    with pytest.raises(InputError, match=f"got {separator!r}; expected .* that of '{torn}'"):
        run_stage(inputs, monkeypatch, labels=LABELS | {"separator": separator}, **WORDS)


def test_thresholds_must_be_those_of_the_classes(inputs, monkeypatch):
    write_task(inputs, "multi_label", thresholds={"a": 0.5, "c": 0.5})
    with pytest.raises(InputError, match=r"ensemble\.json: got \['a', 'c'\]; expected the classes"):
        run_stage(inputs, monkeypatch, labels=LABELS | {"separator": ","}, **WORDS)


def test_columns_of_a_label_are_an_id_and_the_label(inputs, monkeypatch):
    write_task(inputs, "single_label")
    with pytest.raises(InputError, match=r"expected the keys \['id', 'label'\]"):
        run_stage(inputs, monkeypatch, labels=LABELS)
