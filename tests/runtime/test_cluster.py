"""The pipeline on a Ray cluster of three nodes on this machine: a head without CPUs, two workers.

Each node is a process group of its own, and all are gone at the end.
"""

import filecmp
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from stages.core.blocks import read_blocks
from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import write_table
from stages.runtime import cluster
from tests.given import write_params
from tests.trained import BACKBONE

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "data": ("clean",),
    "features": ("tfidf", "word2vec", "style"),
    "models": ("logreg", "forest", "xgb", "lgbm", "mlp", "svm"),
    "transformer": ("finetune",),
}
STORE = 80_000_000  # bytes of a node's object store: the least that Ray takes is 75 MB
COST = "metrics/cost"
LIMIT = 600  # seconds for a command: Ray Train alone takes 20 to 60 to start


class Cluster:
    """A cluster, and what starts commands on it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.nodes: list[psutil.Process] = []

    def start(self, *options: str) -> None:
        """Start a node, and wait until it runs."""
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        words += ["--disable-usage-stats", f"--object-store-memory={STORE}"]
        # PYTHONPATH shall not lead the workers to the code: it comes along
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept["RAY_worker_niceness"] = "0"  # with Ray's own, 15, they stand still beside other tests
        # what does not fit into the store is spilled, however full the disk is by other things
        kept["RAY_local_fs_capacity_threshold"] = "1"
        path = self.folder / f"node{len(self.nodes)}.log"
        with path.open("w") as log:
            node = psutil.Popen(
                words, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, env=kept
            )
        self.nodes.append(node)
        until = time.monotonic() + 600  # one after the other: they look for free ports
        while "Ray runtime started" not in path.read_text():
            assert node.poll() is None, path.read_text()
            assert time.monotonic() < until, path.read_text()
            time.sleep(0.1)

    def working(self, name: str) -> list[psutil.Process]:
        """The processes of workers that are at a task or actor of this name."""
        found = [child for node in self.nodes for child in node.children(recursive=True)]
        return [each for each in found if f"ray::{name}" in name_of(each)]

    def stop(self) -> list[str]:
        """End all; the commands of processes that would not go."""
        family = [each for n in self.nodes for each in [n, *n.children(recursive=True)]]
        for node in self.nodes[::-1]:
            node.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=10)
        for each in left:
            each.kill()
        return [name_of(each) for each in psutil.wait_procs(left, timeout=10)[1]]


def name_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    pytest.importorskip("ray", reason="pip install .[ray]")
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    home = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has a hundred characters
    port = made.address.rpartition(":")[2]
    try:
        made.start(
            "--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false",
            f"--temp-dir={home}",
        )  # fmt: skip
        for _ in range(2):
            made.start(f"--address={made.address}", "--num-cpus=1")
        yield made
    finally:
        left = made.stop()
        shutil.rmtree(home, ignore_errors=True)
    assert left == []


def environment(address, **more):
    return os.environ | {
        "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address, "VERDICT_TRACKING": "off", **more,
    }  # fmt: skip


def start(words, folder, address, **more):
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment(address, **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(words, folder, address, status=0):
    with start(words, folder, address) as process:
        output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == status, output
    return output


def command(stage):
    (room,) = (room for room, stages in ROOMS.items() if stage in stages)
    return ["-m", f"stages.{room}.{stage}", "--dataset", "demo"]


def outs(layout):
    """The folders and the files that the classical stages write, without those of their costs."""
    folders = [layout.features(name) for name in ("tfidf", "lsa", "word2vec")]
    files = [layout.clean, layout.features("style")]
    for name in ROOMS["models"]:
        folders.append(layout.model(name))
        files += [layout.predictions(name), layout.trials(name)]
    return folders, files


def different(one, two):
    """Files that differ below two folders, or stand in one only."""
    names = {
        path.relative_to(top).as_posix()
        for top in (one, two)
        for path in top.rglob("*")
        if path.is_file()
    }
    return sorted(
        name
        for name in names
        if not ((one / name).exists() and (two / name).exists())
        or not filecmp.cmp(one / name, two / name, shallow=False)
    )


TOGETHER = """
import importlib, json, sys
from stages.runtime.cli import run

for words in json.loads(sys.argv[1]):
    sys.argv = words
    run(importlib.import_module(words[0]).main)
"""


def test_classical_stages_write_the_bytes_of_one_machine(nodes, trained, tmp_path):
    stages = [stage for room in ("data", "features", "models") for stage in ROOMS[room]]
    stages.remove("svm")
    alone = trained("demo")
    there = Path(shutil.copytree(alone, tmp_path / "there"))
    folders, files = outs(Layout("demo", there))
    for folder in folders:
        shutil.rmtree(folder)
    for file in files:
        file.unlink()
    words = json.dumps([command(stage)[1:] for stage in stages])
    run(["-c", TOGETHER, words], there, nodes.address)  # one driver: its workers start once
    assert "cluster: 3 nodes, 2 CPUs" in run(command("svm"), there, nodes.address)
    costs = [name for name in different(alone, there) if not name.startswith(COST)]
    assert costs == []


KILL = """
import logging, os, sys, time
from pathlib import Path
from stages.runtime import parallel

folder = Path(sys.argv[1])

def work(n):
    (folder / f"{n}-{os.getpid()}").touch()
    time.sleep(0.3)
    shipped = [p for p in sys.path if "py_modules" in p and Path(p, "stages/core").exists()]
    threads = os.environ["OMP_NUM_THREADS"]
    return n * n, len(shipped), threads, parallel.workers(), parallel.run(abs, [-n])

logging.basicConfig()
print(parallel.run(work, range(12)))
"""


def test_work_of_a_killed_worker_is_done_again_and_that_is_logged(nodes, tmp_path):
    with start(["-c", KILL, str(tmp_path)], tmp_path, nodes.address) as process:
        while len(list(tmp_path.iterdir())) < 4:
            time.sleep(0.01)
            assert process.poll() is None, process.stdout.read()
        nodes.working("_call")[0].kill()
        output, _ = process.communicate(timeout=600)
    assert str([(n * n, 1, "1", 1, [n]) for n in range(12)]) in output
    assert "ran again, since its worker died" in output
    tries = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert len(tries) == len(set(tries)) + 1 == 13


def test_error_in_a_worker_is_raised_as_it_is(nodes, trained, tmp_path):
    code = "from stages.runtime import parallel; from stages.core.errors import InputError\n"
    code += "def f(n): raise InputError(f'x.csv: got {n}')\n"
    code += "try: parallel.run(f, [1])\nexcept InputError as error: print(repr(error))"
    assert "InputError('x.csv: got 1')" in run(["-c", code], tmp_path, nodes.address)


def test_bad_input_in_a_group_ends_it_at_the_first_try(nodes, trained, tmp_path):
    code = (
        "import os, tempfile, time; from pathlib import Path; from stages.runtime import cluster\n"
        "from stages.core.errors import InputError\n"
        "from ray.train.torch import TorchTrainer\n"
        "here = Path.cwd()\n"
        "def work():\n"
        "    tempfile.mkstemp(dir=here, prefix='try')\n"
        "    if os.environ['RANK'] == '0': time.sleep(60)\n"
        "    raise InputError('x: got 1')\n"
        "cluster.connect()\n"
        "try: cluster.fit(TorchTrainer, work, here / 'own', num_workers=2)\n"
        "except InputError as error: print(repr(error))\n"
    )
    assert "InputError('x: got 1')" in run(["-c", code], tmp_path, nodes.address)
    assert len(list(tmp_path.glob("try*"))) == 2


def test_fine_tuning_gives_what_torchrun_gives_though_a_process_is_killed(nodes, trained, tmp_path):
    alone, there = (
        Path(shutil.copytree(trained("demo"), tmp_path / name)) for name in ("alone", "there")
    )
    words = [*command("finetune"), "--backbone", BACKBONE]
    cpu = {"ACCELERATE_USE_CPU": "true", "VERDICT_WORKERS": "2"}  # of torchrun's two processes
    with start(words, alone, "", VERDICT_LAUNCH="--nproc_per_node 2", **cpu) as process:
        assert process.wait(LIMIT) == 0, process.stdout.read()
    with start(words, there, nodes.address, **cpu) as process:
        while not list(there.glob("scratch/finetune/demo-*/*")):
            time.sleep(0.01)
            assert process.poll() is None, process.stdout.read()
        nodes.working("RayTrainWorker")[0].kill()
        output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    assert [name for name in different(alone, there) if not name.startswith(COST)] == []


BOOST = """
import hashlib, sys
import numpy as np
from pathlib import Path
from stages.core.layout import Layout
from stages.core.params import read_params
from stages.core.stopping import StoppingParams
from stages.core.tasks import Preference
from stages.models import lgbm, xgb
from stages.models.fitting.sample import Sample

X = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
y = np.where(X[:, 0] > 0.5, 0, np.where(X[:, 0] < -0.5, 1, 2))
ones = np.ones(len(y))
sample = Sample(Preference(), X, 4, y, ones, ones, np.arange(len(y)))
task, y = sample.task, sample.both_orders().y
digests = []
for module, kind, stopping, name in (
    (xgb, xgb.XgbParams, None, "xgb"),
    (xgb, xgb.XgbParams, None, "xgb"),
    (lgbm, lgbm.LgbmParams, StoppingParams(patience=2, holdout_parts=3), "lgbm"),
):
    params = read_params(kind, Layout("demo"), name).model_copy(
        update={"workers": int(sys.argv[1]), "seeds": 1, "rounds": 8, "stopping": stopping,
                "learning_rate": 0.5, "min_child_weight": 1.0, "min_data_in_leaf": 3,
                "extra_trees": False}
    )
    model = module.fit(sample, params, 0)
    found = model.predict(sample.both_orders().X)
    assert (found.argmax(axis=1) == y).mean() > 0.9
    model.save(Path(name))
    file = next(Path().glob(f"{name}.*"))
    digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
# not by print: what Ray prints from its own thread would get in between
Path(f"digests{sys.argv[1]}").write_text(" ".join(digests))
"""


def test_boosters_share_the_rows_of_a_fit_and_give_the_same_bytes_again(nodes, trained, tmp_path):
    shutil.copytree(trained("demo") / "params", tmp_path / "params")
    found = {}
    for workers, address in (("1", ""), ("2", nodes.address)):
        run(["-c", BOOST, workers], tmp_path, address)
        found[workers] = (tmp_path / f"digests{workers}").read_text().split()
    assert [len(lines) for lines in found.values()] == [3, 3]
    assert found["2"][0] == found["2"][1] != found["1"][0]
    assert found["2"][2] != found["1"][2]


def test_more_workers_than_one_need_a_cluster(trained, tmp_path):
    shutil.copytree(trained("demo") / "params", tmp_path / "params")
    output = run(["-c", BOOST, "2"], tmp_path, "", status=1)
    assert "workers: got 2; expected 1, or a cluster (RAY_ADDRESS" in output


def long_rows(n, seed):
    """Rows of some 30 kB, that are quickly read: most of it is zero-width spaces."""
    text = f"hello {seed} there" + "\u200b" * 3_400
    columns = {name: [f'["{text}{i % 7}"]' for i in range(n)]
               for name in ("prompt", "response_a", "response_b")}  # fmt: skip
    return pd.DataFrame({"id": [f"{seed}-{i}" for i in range(n)], **columns})


def test_predict_passes_more_data_than_the_memory_of_a_node(nodes, trained, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for seed in range(6):
        frame = long_rows(500, seed)
        frame.loc[3, "prompt"] = "no turns" if seed == 5 else frame.loc[3, "prompt"]
        frame.to_csv(shards / f"{seed}.csv", index=False)
    assert sum(path.stat().st_size for path in shards.iterdir()) > STORE
    words = ["-m", "stages.serving.predict", "--dataset", "demo", "--root", str(trained("demo"))]
    output = run([*words, str(shards), "there"], tmp_path, nodes.address, status=2)
    assert "2999 rows -> there" in output
    run([*words, str(shards / "5.csv"), "5.csv"], tmp_path, "", status=2)
    there = tmp_path / "there"
    assert len(list(there.iterdir())) == 7
    assert (there / "5.csv").read_bytes() == (tmp_path / "5.csv").read_bytes()
    assert (there / "5.rejects.csv").read_bytes() == (tmp_path / "5.rejects.csv").read_bytes()
    ids = pd.concat(pd.read_csv(there / f"{seed}.csv") for seed in range(6))["id"]
    assert len(set(ids)) == len(ids) == 2999


def test_features_pass_more_data_than_the_memory_of_a_node(nodes, trained, tmp_path):
    frame = pd.concat([long_rows(500, seed) for seed in range(6)], ignore_index=True)
    texts = ["prompt", "response_a", "response_b"]
    assert frame["prompt"].str.len().sum() * 9 > STORE  # in UTF-8
    layout = Layout("demo", tmp_path / "there")
    write_table(frame, layout.clean)
    parts = np.where(np.arange(len(frame)) % 5, "train", "test")
    write_table(frame[["id"]].assign(part=parts), layout.folds)
    frame[texts] = frame[texts].map(lambda text: [text])
    write_table(frame, layout.augmented)
    shutil.copy(Layout("demo", trained("demo")).labels, layout.labels)
    params = json.loads((trained("demo") / "params/demo.yaml").read_text())
    for stage in ("tfidf", "word2vec"):
        params[stage]["max_texts"] = 300  # what is fitted on must fit into memory
    write_params(tmp_path / "there", "demo", **params)
    alone = Path(shutil.copytree(tmp_path / "there", tmp_path / "alone"))
    commands = [command(stage)[1:] for stage in ("style", "tfidf", "word2vec")]
    for folder, own, address in ((layout.root, commands, nodes.address), (alone, commands[1:], "")):
        run(["-c", TOGETHER, json.dumps(own)], folder, address)
    assert different(alone, layout.root) == ["data/demo/features/style.parquet"]
    found = pd.read_parquet(layout.features("style"))
    assert found["id"].tolist() == frame["id"].tolist()
    assert len(set(found["prompt.characters"])) == 1
    blocks = read_blocks(layout.features("tfidf"), frame["id"])
    assert [block.X.shape[0] for block in blocks.values()] == [len(frame)] * 3
    assert min(np.diff(block.X.indptr).min() for block in blocks.values()) > 0


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1:9", r"no cluster, got '127\.0\.0\.1:9' \(.*refused\); expected the address"),
        ("nowhere", r"no cluster, got 'nowhere' \(.*\); expected the address"),
    ],
)
def test_address_without_a_cluster_is_refused(monkeypatch, address, what):
    pytest.importorskip("ray", reason="pip install .[ray]")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS: {what}"):
        cluster.connect()


def test_missing_ray_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match=r"got 'auto', but ray is not installed; expected `pip"):
        cluster.connect()


def test_without_an_address_ray_is_not_imported(trained):
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    code += "runpy.run_module(sys.argv[0], run_name='__main__')\nassert 'ray' not in sys.modules"
    run(["-c", code, *command("logreg")[1:]], trained("demo"), "")
