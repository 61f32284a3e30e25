"""One way to run work on all cores. How many workers there are never changes a result."""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed
from threadpoolctl import threadpool_limits

from stages.base.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def workers() -> int:
    """The number of workers: the variable VERDICT_WORKERS, or the cores that this process may use.

    Raises:
        InputError: VERDICT_WORKERS is no positive whole number.
    """
    given = os.environ.get("VERDICT_WORKERS")
    if given is None:
        return int(cpu_count())
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"VERDICT_WORKERS: got {given!r}; expected a whole number from 1")
    return int(given)


def run(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    processes: bool = False,
    at_once: int | None = None,
) -> list[R]:
    """`[function(item) for item in items]`, side by side.

    Threads share memory and suit work that releases the GIL (fits in compiled libraries);
    `processes` suits pure Python. `at_once` bounds what runs at the same time. BLAS runs on one
    thread meanwhile: its threads would fight the workers, and their number can change the last
    bits.
    """
    n_jobs = min(workers(), at_once or workers())
    with threadpool_limits(limits=1):
        return list(
            Parallel(n_jobs=n_jobs, prefer="processes" if processes else "threads")(
                delayed(function)(item) for item in items
            )
        )
