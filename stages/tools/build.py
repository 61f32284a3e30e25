"""Build independent stages side by side, which `dvc repro` does not: a tool, no stage.

In: dvc.yaml. Out: what `dvc repro` makes, the same bytes. Each stage is a `dvc repro --single-item`
in one of `jobs` processes, started when all stages that it depends on are done. Of those that wait,
the one with the longest chain of followers comes first, then the one with the largest inputs: what
takes long should not be the last. No two stages that may want the GPU run at once. What DVC finds
unchanged is not started. When a stage fails, what depends on it is left out, the others end, and
the exit status is 1. Ctrl-C stops all. Each stage may take all cores, as in `dvc repro`, since some
leave the others idle.

    verdict build --jobs 2 ensemble@demo
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cyclopts

from stages.core.errors import InputError
from stages.runtime.cli import run
from stages.runtime.cost import size_on_disk

log = logging.getLogger("verdict")

PATIENCE = 10  # seconds in which interrupted stages may end by themselves
NETWORKS = Path("stages/transformer/network")  # a stage that depends on it may want the GPU


class Pipeline(NamedTuple):
    """Of all stages, by name: those that each depends on, its inputs; and what is out of date.

    Of the stages in `one_at_a_time`, which may want the GPU, no two run at once.
    """

    needs: dict[str, set[str]]
    inputs: dict[str, list[Path]]
    stale: set[str]
    one_at_a_time: set[str]


def read_pipeline(folder: Path) -> Pipeline:
    """What DVC knows of the pipeline in `folder`."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(folder, _wait_for_lock=True) as repo:
            graph = repo.index.graph
            needs = {s.addressing: {need.addressing for need in graph[s]} for s in graph}
            inputs = {s.addressing: [Path(dep.fs_path) for dep in s.deps] for s in graph}
            with repo.lock:
                stale = {stage.addressing for stage in graph if stage.changed()}
    except LockError as error:
        raise InputError(f"{folder}: another run of DVC goes on there: {error}") from error
    except DvcException as error:
        causes = [str(each) for each in (error, error.__cause__) if each]
        raise InputError(f"{folder}: DVC cannot read the pipeline: {': '.join(causes)}") from error
    network = (folder / NETWORKS).resolve()
    return Pipeline(needs, inputs, stale, {name for name in inputs if network in inputs[name]})


def select(needs: Mapping[str, set[str]], targets: Collection[str]) -> dict[str, set[str]]:
    """The targets (a name without @ means all stages of it) and all that they depend on."""
    import networkx as nx

    names = {name: {name, name.split("@")[0]} for name in needs}
    if unknown := sorted(set(targets).difference(*names.values())):
        raise InputError.listing(f"targets: got {unknown}; expected some of", sorted(needs))
    chosen = {name for name in needs if not targets or names[name] & set(targets)}
    graph = nx.DiGraph(needs)
    chosen = chosen.union(*(nx.descendants(graph, name) for name in chosen))
    return {name: needs[name] for name in needs if name in chosen}


def followers(needs: Mapping[str, set[str]]) -> dict[str, int]:
    """How many stages follow each one in the longest chain."""
    import networkx as nx

    steps = enumerate(nx.topological_generations(nx.DiGraph(needs)))
    return {name: number for number, names in steps for name in names}


class Workers:
    """Processes that run a stage each."""

    def __init__(self, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes: dict[Connection, BaseProcess] = {}
        self.idle: list[Connection] = []
        self.busy: dict[Connection, str] = {}
        for _ in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes[ours] = process
            self.idle.append(ours)

    def start(self, stage: str) -> None:
        """Give a stage to an idle process."""
        pipe = self.idle.pop()
        self.busy[pipe] = stage
        pipe.send(stage)

    def finished(self) -> Iterator[tuple[str, int]]:
        """Wait for stages to end: their names and exit statuses."""
        ended = wait(list(self.busy))
        for pipe in [pipe for pipe in self.busy if pipe in ended]:
            stage = self.busy.pop(pipe)
            try:
                status = pipe.recv()
            except EOFError:  # killed: that process is lost, the others go on
                yield stage, 1
                continue
            self.idle.append(pipe)
            yield stage, status

    def stop(self, *, interrupt: bool = False) -> None:
        """End the processes; with `interrupt` also the stages that still run."""
        if interrupt:
            self._kill(signal.SIGINT)
        for pipe, process in self.processes.items():
            pipe.close()
            process.join(PATIENCE)
        self._kill(signal.SIGKILL)

    def _kill(self, signal_number: int) -> None:
        for process in self.processes.values():
            if process.is_alive() and process.pid:
                with suppress(ProcessLookupError):  # it may not have its own group yet
                    os.killpg(process.pid, signal_number)
                    continue
                process.kill()


def _work(pipe: Connection) -> None:
    os.setsid()  # a group of its own, to be stopped with its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from dvc.cli import main

    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            stage = pipe.recv()
            pipe.send(main(["--wait-for-lock", "repro", "--single-item", stage]))


def _end_with_parent() -> None:
    """End, with what still runs here, when the build is killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build(pipeline: Pipeline, workers: Workers) -> list[str]:
    """Run what is stale or follows it; the names of the stages that failed or were left out."""
    needs = pipeline.needs
    rank, sorter = followers(needs), TopologicalSorter(needs)
    sorter.prepare()
    ran: set[str] = set()
    failed: list[str] = []
    waiting: list[tuple[int, int, str]] = []
    while sorter.is_active():
        while ready := sorter.get_ready():
            for name in ready:
                if needs[name] & set(failed):
                    log.error("%s: left out, since what it depends on failed", name)
                    failed.append(name)
                elif name in pipeline.stale or needs[name] & ran:
                    size = sum(map(size_on_disk, filter(Path.exists, pipeline.inputs[name])))
                    waiting.append((-rank[name], -size, name))
                    continue
                sorter.done(name)
        for item in sorted(waiting):
            name, running = item[-1], set(workers.busy.values())
            wants_gpu = name in pipeline.one_at_a_time
            if workers.idle and not (wants_gpu and pipeline.one_at_a_time & running):
                waiting.remove(item)
                workers.start(name)
        if waiting and not workers.busy:
            raise InputError("build: all processes were killed; expected one to be left")
        for name, status in workers.finished() if workers.busy else ():
            if status:
                log.error("%s: failed with exit status %d", name, status)
                failed.append(name)
            else:
                ran.add(name)
            sorter.done(name)
    return failed


def main(*targets: str, jobs: Annotated[int, cyclopts.Parameter(alias="-j")] = 2) -> None:
    """Build `targets` (stages, or `svm` for all of `svm@...`; none: everything), `jobs` at once."""
    if jobs < 1:
        raise InputError(f"--jobs: got {jobs}; expected a whole number from 1")
    pipeline = read_pipeline(Path.cwd())
    chosen = select(pipeline.needs, targets)
    if not pipeline.stale & set(chosen):
        log.info("build: %d stages, all up to date", len(chosen))
        return
    # threads that wait for their next piece of work would take the cores of another stage
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    workers = Workers(min(jobs, len(chosen)))
    with _terminable():
        try:
            failed = build(pipeline._replace(needs=chosen), workers)
        except KeyboardInterrupt:
            log.error("build: interrupted, stopping %s", ", ".join(workers.busy.values()))
            workers.stop(interrupt=True)
            sys.exit(130)
    workers.stop()
    if failed:
        raise InputError.listing(f"{len(failed)} of {len(chosen)} stages were not built", failed)


if __name__ == "__main__":
    run(main)
