"""Each stage on demos of several sizes beside what a user would write instead, as one table.

    python benchmarks/speed.py                          # 1,000, 10,000 and 57,000 rows, with peers
    python benchmarks/speed.py --rows 1000 --rows 2000 --no-peers     # the stages alone
    python benchmarks/speed.py --rows 57000 --no-each --peer-folds 1  # the shortest way to a ratio

Works in temporary copies of the tracked files. First all is built by `verdict build --jobs 2` from
the raw files of the demo; then each stage's command of dvc.yaml runs as it stands, in order, one at
a time, and then each peer of benchmarks/peers.py on the same rows and folds. Of a peer that is
cross-fitted, `--peer-folds` are fitted and the time of the others is taken to be the same; log
losses are of these folds. Models that average several seeds have one here, as the peers do. CPU
seconds and peak memory are those of all processes of a stage (their resident sets, sampled every
0.1 s; shared pages count twice, mapped files count). `growth` is the power of the rows with which
its CPU seconds grow between the two largest sizes.
Transformers are left out: they have benchmarks of their own. fastText and AutoGluon, where they are
installed, are outside the sum.
"""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import cyclopts
import numpy as np
import psutil
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.core.build import judged_models
from stages.core.folds import read_folds
from stages.core.layout import Layout
from stages.core.tables import by_id, read_table
from stages.core.tasks import read_task

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("peers.py")
PEERS_IN_ORDER = (
    "tfidf", "logreg", "svm", "word2vec", "forest", "xgb", "lgbm", "mlp", "mean"
)  # fmt: skip
BESIDE = tuple(filter(importlib.util.find_spec, ("fasttext", "autogluon")))


@dataclass
class Spent:
    """What a command took."""

    wall: float
    cpu: float
    gigabytes: float


@contextmanager
def copy(rows: int) -> Iterator[Path]:
    """A temporary copy of the tracked files, a repository of its own, with `rows` train rows."""
    # The mirror of runs may still write there when it is removed
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        for file in filter(None, listed.stdout.split("\0")):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
        (folder / "dvc.lock").unlink(missing_ok=True)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        yaml = YAML()
        lists = yaml.load(folder / "params.yaml")
        lists["build"]["backbones"] = []
        yaml.dump(lists, folder / "params.yaml")
        params = folder / "params" / "demo.yaml"
        tree = yaml.load(params)
        tree["demo"]["train_rows"] = rows
        tree["split"]["max_leak_share"] = 0.1  # of few rows, one more or less
        for model in ("lgbm", "mlp"):
            tree[model]["seeds"] = 1
        yaml.dump(tree, params)
        yield folder


def commands_of(folder: Path) -> dict[str, str]:
    """The commands of the stages, in order."""
    with Repo(folder) as repo:
        found = {stage.name: stage.cmd for stage in repo.index.stages}
    return {name: c.replace("python ", f"{sys.executable} ", 1) for name, c in found.items()}


def measure(command: str, folder: Path) -> Spent:
    """Run `command`."""
    started = time.perf_counter()
    process = psutil.Popen(command, shell=True, cwd=folder)
    peak, cpu = 0, {}
    while process.poll() is None:
        used = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                used += member.memory_info().rss
                times = member.cpu_times()
                cpu[member.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, used)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{command}: exit status {process.returncode}")
    spent = Spent(time.perf_counter() - started, sum(cpu.values()), peak / 1e9)
    print(f"{spent}: {command}", file=sys.stderr)
    return spent


def build(folder: Path) -> Spent:
    """What `verdict build --jobs 2` takes from raw files, transformers tuned on no fold."""
    for words in (["init", "-q", "-f"], ["repro", "-q", "demo"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, check=True)
    return measure(f"{sys.executable} -m stages.cli build --jobs 2", folder)


def run_peer(name: str, folder: Path, n_folds: int) -> tuple[Spent, dict[str, float]]:
    """What a peer takes, and its scores."""
    out = folder / "peer.json"
    command = f"{sys.executable} {PEERS} --name {name} --data data/demo --out {out}"
    spent = measure(f"PYTHONPATH=. {command} --folds {n_folds}", folder)
    found = json.loads(out.read_text())
    spent.wall += found["left_out"]["wall"]
    spent.cpu += found["left_out"]["cpu"]
    return spent, found["scores"]


def our_losses(folder: Path, n_folds: int) -> dict[str, float]:
    """Out-of-fold log loss of each model on the first `n_folds` folds."""
    layout = Layout("demo", folder)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    rows = np.concatenate([folds.held(number) for number in folds.numbers[:n_folds]])
    ids, found = folds.ids.iloc[rows], {}
    for name in judged_models(layout):
        file = layout.predictions(name)
        table = by_id(read_table(file), ids, file)
        p = table[[f"p_{name}" for name in task.classes]].to_numpy()
        found[name] = float(task.row_losses(folds.targets[rows], p).mean())
    return found


def growth(seconds: list[float], rows: list[int]) -> str:
    """The power of the rows with which something grew between the last two sizes."""
    if len(rows) < 2:
        return ""
    small, large = (max(value, 0.01) for value in seconds[-2:])
    return f"{math.log(large / small) / math.log(rows[-1] / rows[-2]):.2f}"


def line(name: str, spent: list[Spent], sizes: list[int]) -> str:
    """A row of the table: what each size took, and the growth from size to size."""
    cells = [f"{s.wall:.1f}, {s.cpu:.1f}, {s.gigabytes:.2f}" for s in spent]
    return row([name, *cells, growth([s.cpu for s in spent], sizes)])


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    *, rows: list[int] | None = None, each: bool = True, peers: bool = True, peer_folds: int = 5
) -> None:
    """Print the table for demos of `rows` train rows."""
    sizes = sorted(rows or [1000, 10_000, 57_000])
    whole: list[Spent] = []
    stages: dict[str, list[Spent]] = {}
    others: dict[str, list[tuple[Spent, dict[str, float]]]] = {}
    losses: list[dict[str, float]] = []
    for n in sizes:
        with copy(n) as folder:
            whole.append(build(folder))
            losses.append(our_losses(folder, peer_folds))
            for name, command in commands_of(folder).items() if each else ():
                stages.setdefault(name, []).append(measure(command, folder))
            for name in [*PEERS_IN_ORDER, *BESIDE] if peers else ():
                others.setdefault(name, []).append(run_peer(name, folder, peer_folds))

    print("", row(["", *(f"{n:,} rows: wall s, CPU s, GB" for n in sizes), "growth"]))
    print(row(["---", *["---:"] * (len(sizes) + 1)]))

    for name, spent in stages.items():
        print(line(name, spent, sizes))
    if stages:
        print(line("all stages", summed(stages), sizes))
    print(line("verdict build --jobs 2", whole, sizes))
    for name, found in others.items():
        print(line(f"peer: {name}", [spent for spent, _ in found], sizes))
    if others:
        all_peers = summed({n: [spent for spent, _ in others[n]] for n in PEERS_IN_ORDER})
        print(line("all peers", all_peers, sizes))
        ratios = [
            f"{theirs.wall / ours.wall:.1f}, {theirs.cpu / ours.cpu:.1f}"
            for ours, theirs in zip(whole, all_peers, strict=True)
        ]
        print(row(["times as fast as all peers", *ratios, ""]))
    print(f"\n| log loss, {peer_folds} folds |", " | ".join(f"{n:,} rows" for n in sizes), "|")
    print(row(["---", *["---:"] * len(sizes)]))
    for name in losses[0]:
        print(row([name, *(f"{found[name]:.4f}" for found in losses)]))
    for name, found in others.items():
        for key in found[0][1]:
            print(row([f"peer: {name}, {key}", *(f"{values[key]:.4f}" for _, values in found)]))


def summed(columns: dict[str, list[Spent]]) -> list[Spent]:
    """Wall and CPU added up, and the largest memory, of each size."""
    found = []
    for column in zip(*columns.values(), strict=True):
        wall, cpu, gigabytes = zip(*map(astuple, column), strict=True)
        found.append(Spent(sum(wall), sum(cpu), max(gigabytes)))
    return found


if __name__ == "__main__":
    cyclopts.run(main)
