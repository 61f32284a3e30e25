"""Time and peak memory of each stage on a demo of any size, as a Markdown table.

    python tests/bench/stages.py --rows 57000

Transformers are left out (`--finetune` takes them in): they have benchmarks of their own.
Works in a temporary copy of the tracked files; each stage's command of dvc.yaml runs as it stands,
in order, one at a time. Peak memory is the largest sum over the stage's processes (their resident
sets, sampled every 0.1 s; shared pages count twice). Run by hand: a large size takes long.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cyclopts
import psutil
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def tracked_copy(target: Path) -> None:
    """Copy the files that Git tracks to `target`, a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)


def set_params(folder: Path, rows: int, finetune: bool) -> list[str]:
    """Set the number of train rows of the demo, and the backbones to leave out: returned."""
    yaml = YAML()
    backbones = [] if finetune else list(yaml.load(folder / "params.yaml")["backbones"])
    params = folder / "params" / "demo.yaml"
    tree = yaml.load(params)
    tree["demo"]["train_rows"] = rows
    tree["ensemble"]["members"] = [m for m in tree["ensemble"]["members"] if m not in backbones]
    yaml.dump(tree, params)
    return backbones


def measure(command: str, folder: Path) -> tuple[float, float, float]:
    """Run `command`; wall seconds, CPU seconds and peak memory in GB."""
    started = time.perf_counter()
    process = psutil.Popen(command, shell=True, cwd=folder)
    peak, cpu = 0, {}
    while process.poll() is None:
        family = [process, *process.children(recursive=True)]
        used = 0
        for member in family:
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
    return time.perf_counter() - started, sum(cpu.values()), peak / 1e9


def main(*, rows: int = 2000, finetune: bool = False) -> None:
    """Print the table for a demo of `rows` train rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracked_copy(folder)
        left_out = set_params(folder, rows, finetune)
        with Repo(folder) as repo:
            commands = {stage.name: stage.cmd for stage in repo.index.stages}
        lines, total = [], 0.0
        for stage, command in commands.items():
            if stage.endswith(tuple(f"-{backbone}" for backbone in left_out)):
                continue
            for backbone in left_out:
                command = command.replace(f" --models {backbone}", "")
            wall, cpu, peak = measure(command.replace("python ", f"{sys.executable} ", 1), folder)
            total += wall
            lines.append(f"| {stage} | {wall:.1f} | {cpu:.1f} | {peak:.2f} |")
        head = ["| stage | wall s | CPU s | peak GB |", "| --- | ---: | ---: | ---: |"]
        print("", f"{rows} train rows", "", *head, *lines, f"| all | {total:.1f} | | |", sep="\n")
        print((folder / "metrics/leaderboard.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    cyclopts.run(main)
