import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from stages.runtime import tracking
from stages.runtime.tracking import Live, mirror

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("scratch/live/demo/minilm")
GROUPS = {"linear": ["svm"], "dense": [], "latent": [], "backbones": ["minilm"]}
BUILD = {
    "datasets": ["demo"],
    "build": GROUPS,
    "learning_curves": {"datasets": [], "models": []},
}
TABLES = ("trials", "loss_curves", "classes", "confusion", "reliability")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty working directory, with tracking on and a store of its own."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VERDICT_TRACKING", "on")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """All processes that the test starts for tracking; none outlives it."""
    found, popen = [], subprocess.Popen

    def start(*words, **options):
        found.append(popen(*words, **options))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(tracking.subprocess, "Popen", start)
        yield found
    for process in found:
        process.kill()
        process.wait()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_results(folder, loss=1.25):
    """What the mirror reads, of a classical model, a backbone and the ensemble."""
    write(folder / "params.yaml", BUILD)
    used = {"finetune": {"minilm": {"lora": {"rank": 8}}}, "ensemble": {"members": ["svm"]}}
    write(folder / "data/used_params/demo.json", used)
    write(folder / "params/demo.yaml", {"finetune": {"minilm": {}}})
    write(folder / "data/demo/labels.json", "{}")
    write(folder / "data/demo/folds.parquet", "rows")
    write(folder / "models/demo/svm/params.json", {"C": 0.5, "style": {"parts": ["sum"]}})
    for model in ("svm", "minilm", "ensemble"):
        scores = {"oof": {"log_loss": loss, "regret": None}, "dev": {"log_loss": 1.5}}
        write(folder / f"metrics/scores/demo/{model}.json", scores)
        write(folder / f"metrics/confusion/demo/{model}.csv", "actual,predicted\na,b\n")
    write(folder / "metrics/cost/demo/svm.json", {"wall_seconds": 2.0})
    write(folder / "metrics/trials/demo/svm.csv", "trial\n0\n")


def rows_of(store, query):
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(query).fetchall()


def of_run(store, table, name):
    """Keys and values of a run, from one of the tables params, metrics and tags."""
    query = f"select key, value from {table} natural join runs where name = '{name}'"
    return dict(rows_of(store, query))


def children(store):
    query = "select name, status from runs natural join tags where key = 'mlflow.parentRunId'"
    return sorted(rows_of(store, query))


def losses(*steps, **more):
    return [{"step": step, "epoch": 0.5, "train_loss": 1 / step, **more} for step in steps]


def mirror_fully(started):
    mirror("demo")
    started[-1].wait(600)


def test_stage_does_not_import_mlflow():
    code = (
        "import stages.evaluation.score, stages.transformer.finetune, stages.runtime.tracking\n"
        "import sys; assert not {'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_switched_off_nothing_is_started_or_written(folder, started, monkeypatch):
    monkeypatch.setenv("VERDICT_TRACKING", "off")
    mirror("demo")
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1))
    assert started == []
    assert list(folder.iterdir()) == []


def test_only_one_of_several_processes_shows_its_curve(folder, started):
    with Live("demo", "minilm", on=False) as live:
        live.curve("fold0", losses(1))
    assert started == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("no more processes"), ValueError("null byte")])
def test_what_cannot_be_started_is_a_warning(folder, monkeypatch, caplog, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(tracking.subprocess, "Popen", refuse)
    mirror("demo")
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1))
    assert caplog.messages == [f"mlflow: demo is not mirrored: {error}"] * 2


def test_missing_interpreter_is_a_warning(folder, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    mirror("demo")
    (message,) = caplog.messages
    assert message.startswith("mlflow: demo is not mirrored: ")


def test_process_has_a_session_of_its_own(folder, started):
    mirror("demo")
    assert os.getsid(started[0].pid) == started[0].pid != os.getsid(0)


def test_server_that_does_not_answer_costs_no_time(folder, started, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        write_results(folder)
        begun = time.perf_counter()
        mirror("demo")
        with Live("demo", "minilm") as live:
            live.curve("fold0", losses(1))
        assert time.perf_counter() - begun < 1
        assert [process.poll() for process in started] == [None, None]


def test_curve_has_the_layout_of_dvclive(folder, started):
    write(FOLDER / "plots/metrics/fold7/train_loss.tsv", "of an earlier run")
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1, 2, holdout_loss=None))
        live.curve("fold0", losses(1, 2) + losses(4, holdout_loss=0.75))
        live.curve("fold1", losses(2, holdout_loss=None))
    tables = {
        str(path.relative_to(FOLDER / "plots/metrics")): path.read_text("utf-8")
        for path in FOLDER.rglob("*.tsv")
    }
    assert tables == {
        "fold0/train_loss.tsv": "step\ttrain_loss\n1\t1.0\n2\t0.5\n4\t0.25\n",
        "fold0/holdout_loss.tsv": "step\tholdout_loss\n4\t0.75\n",
        "fold1/train_loss.tsv": "step\ttrain_loss\n2\t0.5\n",
    }
    assert json.loads((FOLDER / "metrics.json").read_text("utf-8")) == {
        "step": 2,
        "fold0": {"train_loss": 0.25, "holdout_loss": 0.75},
        "fold1": {"train_loss": 0.5},
    }
    assert sorted(path.name for path in FOLDER.iterdir()) == ["metrics.json", "plots"]


def test_curve_that_cannot_be_drawn_is_one_warning(folder, started, caplog):
    write(folder / "scratch", "a file")
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1))
        live.curve("fold0", losses(1, 2))
    (message,) = caplog.messages
    assert message.startswith("scratch/live/demo/minilm: the loss curve is not shown: ")


def test_writer_that_dies_is_no_fault_of_the_training(folder, started, caplog):
    with Live("demo", "minilm") as live:
        started[0].kill()
        started[0].wait()
        live.curve("fold0", losses(1))
        live.curve("fold0", losses(1, 2))
    assert caplog.messages == []
    text = (FOLDER / "plots/metrics/fold0/train_loss.tsv").read_text("utf-8")
    assert text == "step\ttrain_loss\n1\t1.0\n2\t0.5\n"


def test_each_row_of_a_curve_is_sent_once(folder, monkeypatch):
    sent = []
    monkeypatch.setattr(Live, "_send", lambda self, **message: sent.append(message))
    monkeypatch.setattr(tracking, "_start", lambda *_: None)
    with Live("demo", "minilm") as live:
        for steps in ([1], [1, 2], [1, 2], [1, 2, 3]):
            live.curve("fold0", losses(*steps))
    assert [[row["step"] for row in m["rows"]] for m in sent if "rows" in m] == [[1], [2], [3]]
    assert sent[-1] == {"end": True}


@pytest.mark.slow
def test_server_that_refuses_is_one_warning_without_its_password(
    folder, started, monkeypatch, capfd
):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:se@cret@127.0.0.1:{port}")
    write_results(folder)
    mirror("demo")
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1))
    for process in started:
        process.wait(600)
    lines = sorted(capfd.readouterr().err.splitlines())
    for line, what in zip(lines, ("demo", "live minilm@demo"), strict=True):
        assert line.startswith(f"mlflow: {what} is not mirrored to http://127.0.0.1:{port}: ")
        assert line.endswith("Connection refused")


@pytest.mark.slow
def test_missing_mlflow_is_one_warning(folder, started, monkeypatch, capfd):
    write(folder / "fake/mlflow/__init__.py", "raise ModuleNotFoundError('no mlflow here')")
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))
    write_results(folder)
    mirror_fully(started)
    assert capfd.readouterr().err == f"mlflow: demo is not mirrored to {folder}: no mlflow here\n"


@pytest.mark.slow
def test_store_that_cannot_be_written_is_one_warning(folder, started, monkeypatch, capfd):
    write_results(folder)
    (folder / "mlflow.db").mkdir()
    mirror_fully(started)
    assert started[-1].returncode == 0
    monkeypatch.setenv("DVC_ROOT", str(folder / "nowhere"))
    mirror_fully(started)
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(f"mlflow: demo is not mirrored to {folder}: ")
    assert second.startswith(f"mlflow: demo is not mirrored to {folder / 'nowhere'}: ")


@pytest.mark.slow
def test_results_that_cannot_be_read_are_one_warning(folder, started, capfd):
    write_results(folder)
    write(folder / "metrics/scores/demo/svm.json", "{")
    mirror_fully(started)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"mlflow: demo is not mirrored to {folder}: ")


@pytest.mark.slow
def test_mirror_shows_params_metrics_and_tables_of_each_model(folder, started, capfd):
    write_results(folder)
    many = {f"p{i}": i for i in range(250)}
    write(folder / "models/demo/svm/params.json", {"C": 0.5, "more": many})
    mirror("demo")
    mirror("demo")  # at once, into a fresh store
    for process in started:
        process.wait(600)
    assert capfd.readouterr().err == ""
    store = folder / "mlflow.db"
    assert children(store) == [(m, "FINISHED") for m in ("ensemble", "minilm", "svm")]
    assert rows_of(store, "select name from runs where name = 'workspace'") == [("workspace",)]

    assert of_run(store, "metrics", "svm") == {
        "oof.log_loss": 1.25, "dev.log_loss": 1.5, "wall_seconds": 2.0
    }  # fmt: skip
    assert of_run(store, "metrics", "minilm") == {"oof.log_loss": 1.25, "dev.log_loss": 1.5}
    assert of_run(store, "params", "svm") == {
        "C": "0.5",
        **{f"more.{k}": str(v) for k, v in many.items()},
    }
    assert of_run(store, "params", "minilm") == {"lora.rank": "8"}
    assert of_run(store, "params", "ensemble") == {"members": "['svm']"}
    ((place,),) = rows_of(store, "select artifact_uri from runs where name = 'svm'")
    artifacts = Path(place.removeprefix("file://"))
    assert sorted(path.name for path in artifacts.iterdir()) == ["confusion.csv", "trials.csv"]
    assert (artifacts / "confusion.csv").read_text("utf-8") == "actual,predicted\na,b\n"
    tags = of_run(store, "tags", "svm")
    assert {"stage": "svm", "dataset": "demo", "experiment": "workspace"}.items() <= tags.items()
    assert {"content", "data"} <= set(tags)
    assert not {"commit", "dirty"} & set(tags)  # not in Git
    ((name, digest, source),) = rows_of(store, "select name, digest, dataset_source from datasets")
    assert (name, digest) == ("demo", tags["data"])
    assert json.loads(source) == {"uri": str(folder / "data/raw/demo")}


@pytest.mark.slow
def test_only_what_changed_is_written_again(folder, started):
    write_results(folder)
    mirror_fully(started)
    write(folder / "metrics/trials/demo/svm.csv", "trial\n0\n1\n")
    mirror_fully(started)
    mirror_fully(started)
    runs = [name for name, _ in children(folder / "mlflow.db")]
    assert runs == ["ensemble", "minilm", "svm", "svm"]
    assert rows_of(folder / "mlflow.db", "select count(*) from runs") == [(5,)]


@pytest.mark.slow
def test_runs_of_a_commit_and_an_experiment_have_one_parent(folder, started, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], check=True)

    write_results(folder)
    mirror_fully(started)  # of no commit
    git("init", "-q", ".")
    git("add", "params")
    git("commit", "-qm", "params")
    mirror_fully(started)
    write(folder / "params/demo.yaml", (folder / "params/demo.yaml").read_text("utf-8") + " ")
    monkeypatch.setenv("DVC_EXP_NAME", "wide-'moat")
    for _ in range(2):
        mirror_fully(started)
    store = folder / "mlflow.db"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=True, text=True)
    commit = head.stdout.strip()
    names = {"workspace", f"workspace {commit[:7]}", f"wide-'moat {commit[:7]}"}
    parents = rows_of(store, "select name from runs natural join tags where value = 'pipeline'")
    assert sorted(name for (name,) in parents) == sorted(names)
    assert len(children(store)) == 9
    dirty = {tags["experiment"]: tags["dirty"] for tags in tags_of_all(store) if "dirty" in tags}
    assert dirty == {"workspace": "false", "wide-'moat": "true"}
    assert {tags.get("commit") for tags in tags_of_all(store)} == {None, commit}


def tags_of_all(store):
    found = {}
    for run, key, value in rows_of(store, "select run_uuid, key, value from tags"):
        found.setdefault(run, {})[key] = value
    return found.values()


@pytest.mark.slow
def test_folder_may_have_signs_that_mean_something_in_an_address(
    folder, started, monkeypatch, capfd
):
    place = folder / "job%2Fbranch? #1%"
    place.mkdir()
    monkeypatch.chdir(place)
    write_results(place)
    mirror_fully(started)
    assert capfd.readouterr().err == ""
    assert len(children(place / "mlflow.db")) == 3
    (table,) = place.glob("mlruns/*/artifacts/trials.csv")
    assert table.read_text("utf-8") == "trial\n0\n"
    assert list(folder.iterdir()) == [place]


@pytest.mark.slow
def test_runs_of_a_copy_go_to_the_main_repository(folder, started, monkeypatch):
    copy, main = folder / "copy", folder / "main"
    for place in (copy, main):
        place.mkdir()
    write_results(copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.setenv("DVC_EXP_NAME", "wide-moat")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc1234def")
    mirror_fully(started)
    shutil.rmtree(copy)
    assert len(children(main / "mlflow.db")) == 3
    (parent,) = rows_of(main / "mlflow.db", "select name from runs where name like 'wide%'")
    assert parent == ("wide-moat abc1234",)
    assert len(list(main.glob("mlruns/*/artifacts/confusion.csv"))) == 3


def diverge():
    with Live("demo", "mpnet") as live:
        live.curve("fold0", losses(1))
        raise ValueError("diverged")


@pytest.mark.slow
def test_live_run_shows_the_curve_and_how_it_ended(folder, started, capfd):
    write_results(folder)
    with Live("demo", "minilm") as live:
        live.curve("fold0", losses(1, holdout_loss=None))
        live.curve("fold0", losses(1, 2, holdout_loss=0.75))
    with pytest.raises(ValueError, match="diverged"):
        diverge()
    words = "with Live('demo', 'killed') as live: live.curve('a', [{'step': 1}]); os.kill(0, 9)"
    killed = subprocess.run(
        [sys.executable, "-c", f"import os; from stages.runtime.tracking import Live\n{words}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, start_new_session=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    for process in started:
        process.wait(600)
    mirror_fully(started)
    store, ended = folder / "mlflow.db", time.monotonic() + 600
    while dict(children(store)).get("live killed", "RUNNING") == "RUNNING":
        assert time.monotonic() < ended
        time.sleep(0.2)
    assert children(store) == [
        ("ensemble", "FINISHED"),
        ("live killed", "FAILED"),
        ("live minilm", "FINISHED"),
        ("live mpnet", "FAILED"),
        ("minilm", "FINISHED"),
        ("svm", "FINISHED"),
    ]
    query = "select key, step, value from metrics natural join runs where name = 'live minilm'"
    assert sorted(rows_of(store, query)) == [
        ("fold0/holdout_loss", 2, 0.75), ("fold0/train_loss", 1, 1.0), ("fold0/train_loss", 2, 0.5)
    ]  # fmt: skip
    assert len(rows_of(store, "select name from runs where name = 'workspace'")) == 1
    assert capfd.readouterr().err == ""
