"""Each stage on demos of several sizes beside what a user would write instead, as one table.

    python tests/bench/speed.py                          # 1,000, 10,000 and 57,000 rows, with peers
    python tests/bench/speed.py --rows 2000 --no-peers   # the stages alone

Works in temporary copies of the tracked files. Each stage's command of dvc.yaml runs as it stands,
in order, one at a time, then each peer of tests/bench/peers.py on the same rows and folds. CPU
seconds and peak memory are those of all processes of a stage (their resident sets, sampled every
0.1 s; shared pages count twice, mapped files count). `start-up` is what the imports of a stage
take (`python -X importtime` on a demo of 200 rows, one worker), `growth` the power of the rows with
which its CPU seconds grow between the two largest sizes. Transformers are left out: they have
benchmarks of their own. fastText and AutoGluon, where they are installed, are outside the sum.
"""

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import psutil
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("peers.py")
PEERS_IN_ORDER = (
    "tfidf", "logreg", "svm", "word2vec", "forest", "xgb", "lgbm", "mlp", "mean"
)  # fmt: skip
BESIDE = tuple(filter(importlib.util.find_spec, ("fasttext", "autogluon")))
SMALL = 200  # rows with which start-up is measured
IMPORT = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)


@dataclass(frozen=True)
class Spent:
    """What a command took."""

    wall: float
    cpu: float
    gigabytes: float


@contextmanager
def copy(rows: int) -> Iterator[Path]:
    """A temporary copy of the tracked files, a repository of its own, with `rows` train rows."""
    with tempfile.TemporaryDirectory() as name:
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
        params = folder / "params" / "demo.yaml"
        tree = yaml.load(params)
        tree["demo"]["train_rows"] = rows
        tree["split"]["max_leak_share"] = 0.1  # of few rows, one more or less
        members = tree["ensemble"]["members"]
        tree["ensemble"]["members"] = [m for m in members if m not in lists["backbones"]]
        yaml.dump(tree, params)
        yield folder


def commands_of(folder: Path) -> dict[str, str]:
    """The commands of the stages, in order, without those of transformers."""
    backbones = list(YAML().load(folder / "params.yaml")["backbones"])
    with Repo(folder) as repo:
        found = {stage.name: stage.cmd for stage in repo.index.stages}
    for backbone in backbones:
        found = {
            name: command.replace(f" --models {backbone}", "")
            for name, command in found.items()
            if not name.endswith(f"-{backbone}")
        }
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
    return Spent(time.perf_counter() - started, sum(cpu.values()), peak / 1e9)


def start_ups() -> dict[str, float]:
    """Seconds that each stage imports."""
    found = {}
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "VERDICT_WORKERS": "1"}
    with copy(SMALL) as folder:
        for name, command in commands_of(folder).items():
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            found[name] = sum(map(int, IMPORT.findall(done.stderr))) / 1e6
    return found


def parallel_build(rows: int) -> float:
    """Wall seconds of `stages.build --jobs 2` from nothing, transformers left out."""
    with copy(rows) as folder:
        last = [n for n in commands_of(folder) if n.startswith(("score", "submit"))]
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "-f"], cwd=folder, check=True)
        words = [sys.executable, "-m", "stages.build", "--jobs", "2", *last]
        started = time.perf_counter()
        subprocess.run(words, cwd=folder, check=True)
        return time.perf_counter() - started


def growth(seconds: list[float], rows: list[int]) -> str:
    """The power of the rows with which something grew between the last two sizes."""
    if len(rows) < 2:
        return ""
    small, large = (max(value, 0.01) for value in seconds[-2:])
    return f"{math.log(large / small) / math.log(rows[-1] / rows[-2]):.2f}"


def line(name: str, spent: list[Spent], sizes: list[int], last: str) -> str:
    """A row of the table: what each size took, and the growth from size to size."""
    cells = [f"{s.wall:.1f}, {s.cpu:.1f}, {s.gigabytes:.2f}" for s in spent]
    return row([name, *cells, growth([s.cpu for s in spent], sizes), last])


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(*, rows: list[int] | None = None, peers: bool = True, parallel: bool = True) -> None:
    """Print the table for demos of `rows` train rows."""
    sizes = sorted(rows or [1000, 10_000, 57_000])
    imports = start_ups()
    stages: dict[str, list[Spent]] = {name: [] for name in imports}
    others: dict[str, list[tuple[Spent, dict[str, float]]]] = {}
    losses: dict[int, dict[str, float]] = {}
    together = {}
    for n in sizes:
        with copy(n) as folder:
            for name, command in commands_of(folder).items():
                stages[name].append(measure(command, folder))
            scores = sorted((folder / "metrics/scores/demo").glob("*.json"))
            losses[n] = {f.stem: json.loads(f.read_text())["log_loss"] for f in scores}
            for name in [*PEERS_IN_ORDER, *BESIDE] if peers else []:
                out = folder / "peer.json"
                command = f"PYTHONPATH=. {sys.executable} {PEERS} --name {name} --out {out}"
                others.setdefault(name, []).append(
                    (measure(f"{command} --data data/demo", folder), json.loads(out.read_text()))
                )
        if parallel:
            together[n] = parallel_build(n)

    print("", row(["", *(f"{n:,} rows: wall s, CPU s, GB" for n in sizes), "growth", "start-up s"]))
    print(row(["---", *["---:"] * (len(sizes) + 2)]))

    for name, spent in stages.items():
        print(line(name, spent, sizes, f"{imports[name]:.2f}"))
    every = [
        Spent(
            sum(s.wall for s in column),
            sum(s.cpu for s in column),
            max(s.gigabytes for s in column),
        )
        for column in zip(*stages.values(), strict=True)
    ]
    print(line("all stages", every, sizes, f"{sum(imports.values()):.2f}"))
    if together:
        print(row(["stages.build --jobs 2", *(f"{together[n]:.1f}" for n in sizes), "", ""]))
    for name, found in others.items():
        print(line(f"peer: {name}", [spent for spent, _ in found], sizes, ""))
    if others:
        walls = [sum(others[n][i][0].wall for n in PEERS_IN_ORDER) for i in range(len(sizes))]
        print(row(["all peers, wall s", *(f"{wall:.1f}" for wall in walls), "", ""]))
        ratios = [
            f"{w / together.get(n, e.wall):.1f}"
            for w, n, e in zip(walls, sizes, every, strict=True)
        ]
        print(row(["times as fast", *ratios, "", ""]))
    print("\n| log loss, out of fold |", " | ".join(f"{n:,} rows" for n in sizes), "|")
    print(row(["---", *["---:"] * len(sizes)]))
    for name in losses[sizes[0]]:
        print(row([name, *(f"{losses[n][name]:.4f}" for n in sizes)]))
    for name, found in others.items():
        for key in found[0][1]:
            print(row([f"peer: {name}, {key}", *(f"{values[key]:.4f}" for _, values in found)]))


if __name__ == "__main__":
    cyclopts.run(main)
