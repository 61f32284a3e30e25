"""Search the params of a whole pipeline: each trial is a DVC experiment. A tool, no stage.

In: a YAML file with the section `sweep`. Out: DVC experiments `<name of the file>-000`, `-001`, ...
and a table of them. Optuna (TPE) proposes values for a batch of `jobs` trials, DVC's queue runs
them in copies of the repository, and the metric is read from the commit of each. A trial that fails
is told as failed, and the sweep goes on. Stopped, by Ctrl-C too, the same command goes on where it
was; the same seed and jobs give the same trials. A changed plan wants a new file name. The best
of many trials on the rows that they are judged on is a little too good: run it again with other
seeds. Copies hold only what Git or DVC track.

    sweep:                                          # sweep.yaml
      space:
        params/demo.yaml:logreg.C: {low: 0.0001, high: 1.0, log: true}
        params/demo.yaml:tfidf.words.longest: {choices: [1, 2]}
      metric: {file: metrics/scores/demo/ensemble.json, key: oof.log_loss, direction: minimize}
      seed: 0

    verdict sweep --space sweep.yaml --trials 20 --jobs 2
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from stages.core.errors import InputError
from stages.core.params import Params, check_params, read_section
from stages.core.space import Space, draw
from stages.core.tables import flatten
from stages.runtime.cli import run

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger("verdict")

STORE = Path("scratch") / "sweeps.db"
POLL = 3.0  # seconds between looks at the queue, each of which takes one


class Metric(Params):
    """Number `key` of the JSON `file`, and whether less or more of it is better."""

    file: str
    key: str
    direction: Literal["minimize", "maximize"]


class SweepParams(Params):
    """Section `sweep`: keys of `space` are what `dvc exp run -S` takes, `<file>:<param>`."""

    space: Annotated[dict[str, Space], Field(min_length=1)]
    metric: Metric
    seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Queue:
    """The queue of DVC, with `jobs` workers."""

    metric: Metric
    jobs: int

    def put(self, name: str, values: Mapping[str, Any]) -> None:
        """Queue an experiment.

        Raises:
            InputError: DVC refuses it: no such param, or an experiment of this name exists.
        """
        _dvc("exp", "run", "--queue", "--name", name, *(override(*item) for item in values.items()))

    def knows(self, name: str) -> bool:
        """Whether it waits or ran."""
        return bool(self._states({name})) or self._read(name) is not None

    def results(self, names: Iterable[str]) -> dict[str, float | None]:
        """Wait until no worker has any of them, and read their metrics; None where one failed."""
        names = set(names)
        while under_way := {"Queued", "Running"} & set(self._states(names).values()):
            if "Queued" in under_way:  # a worker that finds nothing to do leaves
                _dvc("queue", "start", "--jobs", str(self.jobs))
            time.sleep(POLL)
        return {name: self._read(name) for name in names}

    def _states(self, names: Container[str]) -> dict[str, str]:
        lines = [line.split() for line in _dvc("queue", "status").splitlines()]
        return {words[1]: words[-1] for words in lines if len(words) > 3 and words[1] in names}

    def _read(self, name: str) -> float | None:
        from dvc.exceptions import DvcException
        from dvc.scm import SCMError

        try:
            return read_metric(self.metric, name)
        except (DvcException, SCMError):  # no such experiment
            return None


def read_metric(metric: Metric, revision: str | None = None) -> float:
    """The metric at a revision, or in the workspace."""
    from dvc.api import metrics_show

    try:
        found = flatten(metrics_show(metric.file, rev=revision))
    except FileNotFoundError as error:
        raise InputError(
            f"sweep.metric.file: got {metric.file!r}; expected a file of metrics that a stage "
            "writes (`dvc metrics show` lists those that there are)"
        ) from error
    if not isinstance(found.get(metric.key), int | float):
        numbers = sorted(key for key, value in found.items() if isinstance(value, int | float))
        raise InputError(
            f"sweep.metric.key: no such number in {metric.file}, got {metric.key!r}; "
            f"expected one of {numbers}"
        )
    return float(found[metric.key])


def check_metric(metric: Metric) -> None:
    """Refuse a metric that no experiment will have, before the first one runs."""
    from dvc.repo import Repo

    with Repo(_wait_for_lock=True) as repo:
        outs = {Path(out.fs_path) for out in repo.index.outs}
    path = Path(metric.file)
    if path.exists() or path.resolve() not in outs:
        read_metric(metric)


def override(key: str, value: Any) -> str:
    """A param as an option of `dvc exp run`."""
    return f"--set-param={key}={json.dumps(value)}"


def sweep(study: "Study", name: str, plan: SweepParams, trials: int, jobs: int, at: Queue) -> None:
    """Bring `study` to that many trials, in batches of `jobs`, on the experiments `<name>-<n>`."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    left = []  # by a sweep that was stopped
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if set(trial.params) == set(plan.space):
            left.append(trial)
        else:  # it was stopped while it drew
            study.tell(trial.number, state=TrialState.FAIL)
    while left or len(study.trials) < trials:
        batch = {trial.number: trial.params for trial in left}
        # one seed a batch: a sweep that was stopped draws what it would have drawn
        study.sampler = TPESampler(seed=plan.seed + len(study.trials))
        while not left and len(batch) < jobs and len(study.trials) < trials:
            trial = study.ask()
            drawn = {key: draw(trial, key, space) for key, space in plan.space.items()}
            batch[trial.number] = drawn
        names = {number: f"{name}-{number:03d}" for number in batch}
        new = [number for number in batch if not (left and at.knows(names[number]))]
        for place, number in enumerate(new):
            try:
                at.put(names[number], batch[number])
            except InputError:  # of these names none is ours, also in the next run
                for refused in new[place:]:
                    study.tell(refused, state=TrialState.FAIL)
                raise
        found = at.results(names.values())
        for number in batch:
            _tell(study, number, names[number], found[names[number]])
        left = []


def check_plan(study: "Study", plan: SweepParams, path: Path) -> None:
    """Keep the plan with the study; trials of another plan would not compare."""
    own = plan.model_dump(mode="json")
    if study.user_attrs.get("plan", own) != own:
        raise InputError(
            f"{path}: got another plan than its {len(study.trials)} trials were made for; "
            "expected the same, or a file of another name for a new sweep"
        )
    study.set_user_attr("plan", own)


def _tell(study: "Study", number: int, name: str, value: float | None) -> None:
    from optuna.trial import TrialState

    if value is None:
        study.tell(number, state=TrialState.FAIL)
        log.warning("sweep: %s failed; `dvc queue logs %s` tells why", name, name)
    else:
        study.tell(number, value)
        log.info("sweep: %s: %.6g", name, value)


def table(study: "Study", name: str) -> pd.DataFrame:
    """A row for each trial, the best first, the failed last; of the params' keys what differs."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    files = {key.rpartition(":")[0] for key in keys}
    common = f"{files.pop()}:" if len(files) == 1 else ""
    lines = [(f"{name}-{n.number:03d}", n.value, *map(n.params.get, keys)) for n in study.trials]
    columns = ["experiment", "value", *(key.removeprefix(common) for key in keys)]
    found = pd.DataFrame(lines, columns=columns)
    return found.sort_values("value", ascending=study.direction.name == "MINIMIZE")


def _dvc(*words: str) -> str:
    """What `dvc` prints; its workers find this Python first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "dvc", *words],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise InputError(f"dvc {' '.join(words)}: {reason}")
    return done.stdout


def main(*, space: Path, trials: int, jobs: int = 1, store: Path = STORE) -> None:
    """Search with so many trials in all, those of earlier runs counted.

    Args:
        space: YAML file with the section `sweep`.
        trials: How many experiments in all.
        jobs: How many at the same time; VERDICT_WORKERS bounds the cores of each.
        store: Optuna's database of sweeps, one named like each file.
    """
    import optuna

    if min(trials, jobs) < 1:
        raise InputError(f"--trials, --jobs: got {trials} and {jobs}; expected numbers from 1")
    if space.suffix != ".yaml":
        raise InputError(f"--space: got {str(space)!r}; expected a file with the suffix .yaml")
    plan = check_params(SweepParams, read_section(space, "sweep"), space, "sweep")
    check_metric(plan.metric)
    store.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{store}", study_name=space.stem, load_if_exists=True,
        direction=plan.metric.direction,
    )  # fmt: skip
    check_plan(study, plan, space)
    sweep(study, space.stem, plan, trials, jobs, Queue(plan.metric, jobs))
    found = table(study, space.stem)
    print(found.to_string(index=False))  # noqa: T201 - for the person at the terminal
    if found["value"].notna().any():
        print(f"\ndvc exp apply {found['experiment'].iloc[0]}")  # noqa: T201


if __name__ == "__main__":
    run(main)
