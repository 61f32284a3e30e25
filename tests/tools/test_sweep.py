import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.space import draw
from stages.tools import sweep as module
from stages.tools.sweep import SweepParams, check_plan, override, sweep, table

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "space": {
        "params/demo.yaml:logreg.C": {"low": 0.001, "high": 1.0, "log": True},
        "params/demo.yaml:tfidf.words.longest": {"choices": [1, 2]},
    },
    "metric": {"file": "metrics/a.json", "key": "log_loss", "direction": "minimize"},
    "seed": 0,
}
C, LONGEST = PLAN["space"]


class Toy:
    """Runs experiments by a formula; `stops` after so many, as Ctrl-C does."""

    def __init__(self, fails=(), stops=None):
        self.queued, self.fails, self.stops = {}, fails, stops

    def put(self, name, values):
        self.queued[name] = values

    def knows(self, name):
        return name in self.queued

    def results(self, names):
        if self.stops is not None and len(self.queued) > self.stops:
            raise KeyboardInterrupt
        return {name: self.loss(name) for name in names}

    def loss(self, name):
        values = self.queued[name]
        return None if name in self.fails else (values[C] - 0.1) ** 2 + 0.01 * values[LONGEST]


@pytest.fixture
def plan():
    return SweepParams.model_validate_json(json.dumps(PLAN))


@pytest.fixture
def make_study(tmp_path):
    """`make_study(name)`: a study that is kept on disk."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{tmp_path / 'sweeps.db'}"

    def make(name):
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)

    return make


def test_trials_are_experiments_within_the_space(make_study, plan):
    study, toy = make_study("a"), Toy()
    sweep(study, "a", plan, 5, 2, toy)
    assert list(toy.queued) == ["a-000", "a-001", "a-002", "a-003", "a-004"]
    for values in toy.queued.values():
        assert 0.001 <= values[C] <= 1
        assert values[LONGEST] in (1, 2)
    found = table(study, "a")
    assert list(found) == ["experiment", "value", "logreg.C", "tfidf.words.longest"]
    assert found["value"].is_monotonic_increasing
    assert found["experiment"].iloc[0] == min(toy.queued, key=toy.loss)


def test_failed_trial_is_told_and_the_sweep_goes_on(make_study, plan, caplog):
    study, toy = make_study("a"), Toy(fails={"a-001"})
    sweep(study, "a", plan, 3, 1, toy)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert caplog.messages == ["sweep: a-001 failed; `dvc queue logs a-001` tells why"]
    assert table(study, "a")["experiment"].iloc[-1] == "a-001"


def test_stopped_sweep_goes_on_as_if_it_had_not_been_stopped(make_study, plan):
    whole = Toy()
    sweep(make_study("whole"), "a", plan, 8, 2, whole)
    toy = Toy(stops=4)
    with pytest.raises(KeyboardInterrupt):
        sweep(make_study("stopped"), "a", plan, 8, 2, toy)
    assert len(toy.queued) == 6  # two are under way
    toy.stops = None
    sweep(make_study("stopped"), "a", plan, 8, 2, toy)
    assert toy.queued == whole.queued


def test_trial_that_was_stopped_while_it_drew_is_a_failed_one(make_study, plan):
    study, toy = make_study("a"), Toy()
    draw(study.ask(), C, plan.space[C])  # and then the process was killed
    sweep(study, "a", plan, 3, 1, toy)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert sorted(toy.queued) == ["a-001", "a-002"]


def test_experiment_of_another_sweep_is_never_taken_for_a_trial(make_study, plan):
    class Taken(Toy):
        def put(self, name, values):
            if name in self.queued:
                raise InputError(f"experiment {name} exists")
            super().put(name, values)

    toy = Taken()
    toy.queued["a-001"] = {C: 0.1, LONGEST: 1}  # of a sweep whose store is gone
    with pytest.raises(InputError, match="a-001 exists"):
        sweep(make_study("a"), "a", plan, 4, 3, toy)
    states = [trial.state.name for trial in make_study("a").trials]
    assert states == ["RUNNING", "FAIL", "FAIL"]  # the first is under way
    study = make_study("a")
    sweep(study, "a", plan, 4, 3, toy)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.params for trial in study.trials if trial.value] == [
        toy.queued["a-000"], toy.queued["a-003"],
    ]  # fmt: skip


def test_changed_plan_is_refused(make_study, plan):
    study = make_study("a")
    check_plan(study, plan, Path("a.yaml"))
    check_plan(make_study("a"), plan, Path("a.yaml"))
    metric = plan.metric.model_copy(update={"direction": "maximize"})
    other = plan.model_copy(update={"metric": metric})
    with pytest.raises(InputError, match=r"a\.yaml: got another plan than its 0 trials were"):
        check_plan(study, other, Path("a.yaml"))


def test_columns_of_the_table_tell_files_apart(make_study, plan):
    keys = ["params/a.yaml:x", "params/b.yaml:x"]
    two = plan.model_copy(update={"space": dict(zip(keys, plan.space.values(), strict=True))})
    study, toy = make_study("a"), Toy()
    toy.loss = lambda name: toy.queued[name][keys[0]]
    sweep(study, "a", two, 2, 2, toy)
    assert list(table(study, "a")) == ["experiment", "value", *keys]


def test_sweep_that_has_its_trials_runs_none(make_study, plan):
    sweep(make_study("a"), "a", plan, 2, 1, Toy())
    again = Toy()
    sweep(make_study("a"), "a", plan, 2, 1, again)
    assert again.queued == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "k=1e-05"), (3, "k=3"), (None, "k=null"), (True, "k=true"), ("a b", 'k="a b"')],
)
def test_override_is_what_dvc_reads(value, text):
    assert override("k", value) == f"--set-param={text}"


def test_file_with_faults_lists_them_all(tmp_path):
    bad = PLAN | {"seed": -1, "metric": PLAN["metric"] | {"direction": "up"}}
    YAML(typ="safe").dump({"sweep": bad}, tmp_path / "mine.yaml")
    with pytest.raises(InputError, match=r"2 fault\(s\) in sweep\n.*direction.*\n.*seed"):
        module.main(space=tmp_path / "mine.yaml", trials=1)


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--space: got '.*sweep\.yml'; expected a file with"):
        module.main(space=tmp_path / "sweep.yml", trials=1)


def test_no_trials_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--trials, --jobs: got 0 and 1; expected numbers from 1"):
        module.main(space=tmp_path / "sweep.yaml", trials=0)


SCRIPT = """import json, sys
from pathlib import Path
x = float(Path("params/demo.yaml").read_text().split(":")[1])
sys.exit("too large") if x > 8 else Path("out.json").write_text(json.dumps({"loss": x * x}))
"""
PIPELINE = """stages:
  square:
    cmd: python square.py
    deps: [square.py]
    params: [params/demo.yaml: [x]]
    metrics: [out.json: {cache: false}]
"""
SWEEP = """sweep:
  space:
    params/demo.yaml:x: {choices: [3.0, 9.0]}
  metric: {file: out.json, key: loss, direction: minimize}
  seed: 0
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_sweep_over_a_pipeline_of_dvc(tmp_path):
    files = {
        "square.py": SCRIPT, "dvc.yaml": PIPELINE, "sweep.yaml": SWEEP,
        "params/demo.yaml": "x: 5.0\n", ".gitignore": "/scratch\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    dropped = ("DVC_", "GIT_", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")},
    }

    def call(*words):
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )

    commands = [
        "git init -q -b main", "dvc init -q", "dvc repro -q", "git add -A", "git commit -q -m x",
    ]  # fmt: skip
    for command in commands:
        done = call(*command.split())
        assert done.returncode == 0, done.stderr
    words = [sys.executable, "-m", "stages.tools.sweep", "--trials", "2", "--jobs", "2", "--space"]
    done = call(*words, "sweep.yaml")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1:3] == [["sweep-001", "9.0", "3.0"], ["sweep-000", "NaN", "9.0"]]
    assert lines[-1] == ["dvc", "exp", "apply", "sweep-001"]
    assert call(*lines[-1]).returncode == 0
    assert json.loads((tmp_path / "out.json").read_text())["loss"] == 9
    wrong = SWEEP.replace("x:", "y:")
    (tmp_path / "wrong.yaml").write_text(wrong, encoding="utf-8")
    done = call(*words, "wrong.yaml")
    assert done.returncode == 1
    assert "y" in done.stderr
    assert "Traceback" not in done.stderr
    for name, old, new, fault in (
        ("file", "out.json", "oud.json", "sweep.metric.file: got 'oud.json'; expected a file"),
        ("key", "key: loss", "key: lost", "got 'lost'; expected one of ['loss']"),
    ):
        (tmp_path / f"{name}.yaml").write_text(SWEEP.replace(old, new), encoding="utf-8")
        done = call(*words, f"{name}.yaml")
        assert done.returncode == 1
        assert fault in done.stderr
        assert "Traceback" not in done.stderr
