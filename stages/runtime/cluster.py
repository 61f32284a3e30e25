"""Work on a Ray cluster, where the variable RAY_ADDRESS names one; the results are the same bytes.

The process that starts the work runs on a node of the cluster. It sends its own package `stages`
along, so that the nodes run the code of the working tree; they need the same installed packages.
What a task needs goes through Ray's object store, once for all tasks. A task whose worker dies (or
is stopped for lack of memory) runs again elsewhere. Each task has one thread.
"""

import logging
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from stages.core.errors import InputError

log = logging.getLogger("verdict")

T = TypeVar("T")
R = TypeVar("R")

ADDRESS = "RAY_ADDRESS"
TIMEOUT = 20  # seconds to wait for the cluster
AHEAD = 4  # tasks for each core that are submitted before the first is awaited
RETRIES = 3
# Inside a worker: one thread, no tasks of tasks, and no second look for the cluster.
WORKER = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VERDICT_WORKERS": "1",
    ADDRESS: "",
}


def is_given() -> bool:
    """Whether the work is for a cluster."""
    return bool(os.environ.get(ADDRESS))


def stream(
    function: Callable[[T], R], items: Iterable[T], *, at_once: int | None = None
) -> Iterator[R]:
    """`map(function, items)` on the cluster, in order; items are taken as the cluster keeps up.

    At most `at_once` run at the same time on the node with the fewest CPUs; on one with more, in
    proportion.
    """
    ray = connect()
    at_work = cores()
    share = max(1, min(at_work) // at_once) if at_once else 1
    task = ray.remote(num_cpus=share, max_retries=RETRIES, scheduling_strategy="SPREAD")(_call)
    shared = ray.put(function)
    waiting: deque[tuple[int, Any]] = deque()
    for number, item in enumerate(items):
        waiting.append((number, task.remote(shared, item)))
        if len(waiting) >= AHEAD * sum(at_work):
            yield _take(*waiting.popleft())
    while waiting:
        yield _take(*waiting.popleft())


def _call(function: Callable[[T], R], item: T) -> tuple[int, R]:
    """In a worker: how often the task was tried before, and its result."""
    from ray._private.worker import global_worker
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        found = function(item)
    return global_worker.core_worker.get_current_task_attempt_number(), found


def _take(number: int, reference: Any) -> Any:
    import ray

    with plain_errors():
        attempt, found = ray.get(reference)
    if attempt:
        log.warning("cluster: task %d ran again, since its worker died (%d)", number, attempt)
    return found


def fit(trainer: Any, work: Callable[[], R], storage: Path, **scaling: Any) -> R:
    """Run `work` in a group of processes; what the first returns.

    If one dies, all start anew, a few times; bad input ends the work at once. `trainer` is a class
    of Ray Train; `storage`, a folder for its own files, is seen by all nodes.
    """
    connect()
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError

    own = storage.resolve() / "ray"
    settings = RunConfig(name=own.name, storage_path=str(own.parent))
    for again in reversed(range(1 + RETRIES)):
        shutil.rmtree(own, ignore_errors=True)  # of the try before, or of a killed run
        try:
            group = trainer(work, scaling_config=ScalingConfig(**scaling), run_config=settings)
            found: R = group.fit().return_value
        except WorkerGroupError as error:
            causes = list(error.worker_failures.values())
            bad = [cause for cause in causes if isinstance(cause, InputError)]
            if bad or not again:  # the others may only have lost their neighbour
                raise [*bad, *causes, error][0] from error
            log.warning("cluster: a process failed, all start anew: %s", causes or error)
        else:
            return found
        finally:
            shutil.rmtree(own, ignore_errors=True)
    raise AssertionError("the last try returns or raises")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what went wrong in a worker as it was raised there, without Ray's wrapping."""
    from ray.exceptions import RayTaskError, UserCodeException

    try:
        yield
    except (RayTaskError, UserCodeException) as error:
        cause: BaseException | None = error
        while isinstance(cause, RayTaskError | UserCodeException):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise cause or error from error


def cores() -> list[int]:
    """The number of CPUs of each node that has some."""
    nodes = connect().nodes()
    found = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    if not any(found):
        raise InputError(f"{ADDRESS}: got a cluster without CPUs; expected at least one")
    return [n for n in found if n]


def connect() -> Any:
    """The module `ray`, connected to the cluster."""
    address = os.environ[ADDRESS]
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"{ADDRESS}: got {address!r}, but ray is not installed; expected "
            "`pip install 'verdict[ray]'`, or no such variable"
        ) from error
    if ray.is_initialized():
        return ray
    try:
        _knock(address)
        ray.init(
            address,
            logging_level=logging.WARNING,
            runtime_env={"py_modules": [str(Path(__file__).parents[1])], "env_vars": WORKER},
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{ADDRESS}: no cluster, got {address!r} ({error}); expected the address that "
            "`ray start --head` printed, or auto, on a node of the cluster"
        ) from error
    total = ray.cluster_resources()
    log.info("cluster: %d nodes, %g CPUs", len(ray.nodes()), total.get("CPU", 0))
    return ray


def _knock(address: str) -> None:
    """Refuse at once an address where nobody listens: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
