"""One way to run work on all cores, or on a cluster; neither changes a result.

How many workers there are says the variable VERDICT_WORKERS; where RAY_ADDRESS names a cluster, the
work runs there (`stages.runtime.cluster`).
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_limits

from stages.core.errors import InputError
from stages.runtime import cluster

WORKERS = "VERDICT_WORKERS"
# joblib has one pool of processes, which whoever is done ends for all; a server predicts in threads
ONE_AT_A_TIME = Lock()

T = TypeVar("T")
R = TypeVar("R")


def workers() -> int:
    """The number of workers: VERDICT_WORKERS, or the cores that this process may use."""
    given = os.environ.get(WORKERS)
    if given is None:
        return int(cpu_count())
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"{WORKERS}: got {given!r}; expected a whole number from 1")
    return int(given)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread, so that the number of cores does not change the last bits of a result."""
    import scipy.linalg  # noqa: F401 - has a BLAS of its own, which is limited only once it is there

    with threadpool_limits(limits=1):
        yield


def run(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    processes: bool = False,
    at_once: int | None = None,
) -> list[R]:
    """`[function(item) for item in items]`, side by side.

    Threads share memory and suit work that releases the GIL (fits in compiled libraries);
    `processes` suits pure Python, and libraries that hold a lock. `at_once` bounds what runs at
    the same time. BLAS runs on one thread meanwhile: its threads would fight the workers, and their
    number can change the last bits. On a cluster each item is a task, and `at_once` bounds the
    tasks of a node.
    """
    with ONE_AT_A_TIME if processes else nullcontext():
        return list(stream(function, items, processes=processes, at_once=at_once))


def stream(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    processes: bool = False,
    at_once: int | None = None,
) -> Generator[R, None, None]:
    """As `run`, but the results come one by one, in order, and items are taken as workers get free.

    Results wait for who takes them. Who does not take them all must close the iterator, or what
    else runs in processes breaks when it is collected.
    """
    if cluster.is_given():
        yield from cluster.stream(function, items, at_once=at_once)
        return
    n_jobs = min(workers(), at_once or workers())
    options = (
        {"backend": "loky", "inner_max_num_threads": 1} if processes else {"backend": "threading"}
    )
    try:
        with one_blas_thread(), parallel_config(**options):
            yield from Parallel(n_jobs=n_jobs, return_as="generator")(
                delayed(function)(item) for item in items
            )
    finally:
        if processes and n_jobs > 1:
            get_reusable_executor().shutdown()  # what they took counts when they have ended
