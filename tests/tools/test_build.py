"""`stages.tools.build` on small pipelines of shell commands, against what `dvc repro` does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.tools import build

ROOT = Path(__file__).resolve().parents[2]
DIAMOND = {"one": set(), "left@x": {"one"}, "right": {"one"}, "end": {"left@x", "right"}}


def test_targets_come_with_what_they_depend_on_and_a_name_means_all_of_its_stages():
    assert build.select(DIAMOND, ["left"]) == {"one": set(), "left@x": {"one"}}
    assert build.select(DIAMOND, []) == DIAMOND
    with pytest.raises(InputError, match=r"targets: got \['leftt'\]; expected some of\n  end\n"):
        build.select(DIAMOND, ["leftt", "end"])


def test_chains_are_counted_to_their_longest_end():
    needs = DIAMOND | {"far": {"right"}, "farther": {"far"}}
    expected = {"one": 3, "right": 2, "far": 1, "farther": 0, "left@x": 1, "end": 0}
    assert build.followers(needs) == expected


class OneByOne:
    """Stands for a process that runs what it is given at once."""

    def __init__(self, jobs=1):
        self.idle, self.busy, self.started, self.together = list(range(jobs)), {}, [], []

    def start(self, stage):
        self.busy[self.idle.pop()] = stage
        self.started.append(stage)

    def finished(self):
        self.together.append(list(self.busy.values()))
        ended = list(self.busy)
        self.idle += ended
        yield from [(self.busy.pop(number), 0) for number in ended]


def test_longest_chain_comes_first_then_the_largest_inputs(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large").write_bytes(b"12345")
    (tmp_path / "small").write_bytes(b"1234")
    needs = {"a": set(), "small": set(), "large": set(), "begin": set(), "end": {"begin"}}
    inputs = {name: [tmp_path / "missing"] for name in needs} | {
        "small": [tmp_path / "small"], "large": [tmp_path / "missing", tmp_path / "folder"],
    }  # fmt: skip
    process = OneByOne()
    assert build.build(build.Pipeline(needs, inputs, set(needs), set()), process) == []
    assert process.started == ["begin", "large", "small", "a", "end"]


def test_no_two_stages_that_may_want_the_gpu_run_at_once():
    names = ("embed", "finetune@a", "finetune@b", "other", "rest")
    wanted = {name for name in names if name.startswith(("embed", "finetune"))}
    process = OneByOne(jobs=3)
    pipeline = build.Pipeline({n: set() for n in names}, {n: [] for n in names}, set(names), wanted)
    assert build.build(pipeline, process) == []
    assert sorted(process.started) == sorted(names)
    assert [len(wanted & set(stages)) for stages in process.together] == [1, 1, 1]


def test_what_loads_a_network_may_want_the_gpu():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    found = {name for name in stages if build.NETWORKS.as_posix() in stages[name]["deps"]}
    assert found == {"embed", "tokens", "finetune"}


@pytest.fixture
def project(tmp_path):
    """`one` feeds `left`, `right` and `bad`, of which `end` and `after` take their files."""
    stages = {
        "one": {"cmd": "echo 1 > one", "outs": ["one"]},
        "left": {"cmd": "cat one > left", "deps": ["one"], "outs": ["left"]},
        "right": {"cmd": "cat one one > right", "deps": ["one"], "outs": ["right"]},
        "end": {"cmd": "cat left right > end", "deps": ["left", "right"], "outs": ["end"]},
    }
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, stages)
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    return folder, stages


def write(folder, stages):
    YAML().dump({"stages": stages}, folder / "dvc.yaml")


def start(folder, *words):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    environment = kept | {
        "PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }  # fmt: skip
    return subprocess.Popen(
        words, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


def heed_interrupts():
    """Let SIGINT in: what a shell runs in the background is born deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(folder, *words):
    with start(folder, *words) as process:
        output, _ = process.communicate(timeout=600)
    return process.returncode, output


def wait_for_pid(file):
    """The process that writes its number to `file`."""
    until = time.monotonic() + 600
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return int(file.read_text())


def build_all(folder, *options):
    return run(folder, sys.executable, "-m", "stages.tools.build", *options)


def stages_of_lock(folder):
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]


@pytest.mark.slow
def test_build_leaves_what_dvc_repro_leaves_and_runs_nothing_twice(project):
    folder, _ = project
    status, output = build_all(folder, "-j", "2")
    assert (status, output.count("Running stage")) == (0, 4)
    assert (folder / "end").read_text() == "1\n1\n1\n"
    built = stages_of_lock(folder)
    assert "up to date" in run(folder, sys.executable, "-m", "dvc", "repro")[1]
    assert run(folder, sys.executable, "-m", "dvc", "repro", "--force")[0] == 0
    assert stages_of_lock(folder) == built
    status, output = build_all(folder)
    assert (status, output.count("Running stage")) == (0, 0)
    assert "4 stages, all up to date" in output


@pytest.mark.slow
def test_failure_stops_its_followers_and_nothing_else(project):
    folder, stages = project
    bad = {"cmd": "echo broken pipe organ >&2; exit 3", "deps": ["one"], "outs": ["bad"]}
    after = {"cmd": "cat bad > after", "deps": ["bad"], "outs": ["after"]}
    write(folder, {"bad": bad, "after": after} | stages)
    status, output = build_all(folder)
    assert status == 1
    assert "broken pipe organ" in output
    assert "2 of 6 stages were not built\n  bad\n  after\n" in output
    assert (folder / "end").exists()
    assert not (folder / "after").exists()
    assert set(stages_of_lock(folder)) == set(stages)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_stops_all_its_processes(project, number):
    folder, stages = project
    sleepers = {
        name: {"cmd": f"echo $$ > pid.{name}; sleep 600", "deps": ["one"], "outs": [name]}
        for name in ("long", "longer")
    }
    write(folder, stages | sleepers)
    with start(folder, sys.executable, "-m", "stages.tools.build", "long", "longer") as process:
        try:
            pids = [wait_for_pid(folder / f"pid.{name}") for name in sleepers]
            process.send_signal(number)
            output, _ = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130, output
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert "error" not in build_all(folder, "end")[1].lower()  # no lock is left behind


@pytest.mark.slow
def test_build_beside_a_run_of_dvc_is_refused(project):
    folder, stages = project
    long = {"cmd": "echo $$ > pid; sleep 600", "deps": ["one"], "outs": ["long"]}
    write(folder, stages | {"long": long})
    with start(folder, sys.executable, "-m", "dvc", "repro", "long"):
        pid = wait_for_pid(folder / "pid")
        try:
            status, output = build_all(folder)
        finally:
            os.kill(pid, signal.SIGKILL)
    assert status == 1
    assert f"error: {folder}: another run of DVC goes on there: " in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_params_that_cannot_be_read_are_told_in_a_line(project):
    folder, stages = project
    write(folder, stages | {"own": {"cmd": "true", "params": ["x"], "outs": ["own"]}})
    (folder / "params.yaml").write_text("x: [1")
    with pytest.raises(InputError, match=r"DVC cannot read the pipeline: .*params\.yaml"):
        build.read_pipeline(folder)


def test_stages_of_a_killed_build_end(project):
    folder, stages = project
    write(folder, stages | {"long": {"cmd": "echo $$ > pid; sleep 600", "outs": ["long"]}})
    with start(folder, sys.executable, "-m", "stages.tools.build", "long") as process:
        wait_for_pid(folder / "pid")
        process.kill()
        process.communicate(timeout=60)  # until all that hold its output have ended
