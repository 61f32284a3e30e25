from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from operator import neg
from time import sleep

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_info

from stages.core.errors import InputError
from stages.runtime import parallel


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("n", ["1", "2"])
def test_results_stand_in_the_order_of_the_items(monkeypatch, n, processes):
    monkeypatch.setenv("VERDICT_WORKERS", n)
    assert parallel.run(neg, range(20), processes=processes) == [-i for i in range(20)]


def test_at_once_bounds_what_runs_side_by_side(monkeypatch):
    monkeypatch.setenv("VERDICT_WORKERS", "2")
    running, most = [], []

    def work(item):
        running.append(item)
        sleep(0.01)
        most.append(len(running))
        running.remove(item)

    parallel.run(work, range(6), at_once=1)
    assert most == [1] * 6


@pytest.mark.parametrize("processes", [False, True])
def test_blas_has_one_thread_meanwhile(monkeypatch, processes):
    def pools_with_blas(_):
        np.ones((2, 2)) @ np.ones((2, 2))  # BLAS is loaded
        return threadpool_info()

    monkeypatch.setenv("VERDICT_WORKERS", "2")
    before = pools_with_blas(None)
    found = parallel.run(pools_with_blas, range(2), processes=processes)
    blas = [pool["num_threads"] for pools in found for pool in pools if pool["user_api"] == "blas"]
    assert blas
    assert set(blas) == {1}
    assert threadpool_info() == before


def test_error_of_an_item_is_raised(monkeypatch):
    monkeypatch.setenv("VERDICT_WORKERS", "2")
    with pytest.raises(ZeroDivisionError, match="by zero"):
        parallel.run(lambda x: 1 // x, [1, 0])


@pytest.mark.timeout(120)
def test_threads_may_use_processes_at_the_same_time(monkeypatch):
    monkeypatch.setenv("VERDICT_WORKERS", "2")

    def later(x):
        sleep(0.02)
        return x

    def request(n):
        return [parallel.run(later, range(n), processes=True) for _ in range(4)]

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(request, (20, 21, 22)))
    assert found == [[list(range(n))] * 4 for n in (20, 21, 22)]


@pytest.mark.filterwarnings("ignore:.*still being processed")  # what joblib says of a closed one
def test_processes_end_with_the_work_also_after_an_error(monkeypatch):
    monkeypatch.setenv("VERDICT_WORKERS", "2")
    with closing(parallel.stream(abs, range(50), processes=True)) as first:
        next(first)
    for function, items in ((abs, range(9)), (lambda x: 1 // x, [1, 0])):
        with suppress(ZeroDivisionError):
            parallel.run(function, items, processes=True)
        left = [" ".join(each.cmdline()) for each in psutil.Process().children()]
        assert [command for command in left if "LokyProcess" in command] == []


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", ""])
def test_bad_number_of_workers_is_refused(monkeypatch, given):
    monkeypatch.setenv("VERDICT_WORKERS", given)
    with pytest.raises(InputError, match=rf"VERDICT_WORKERS: got '{given}'; expected a whole"):
        parallel.workers()


def test_without_the_variable_all_cores_work(monkeypatch):
    monkeypatch.delenv("VERDICT_WORKERS", raising=False)
    assert parallel.workers() >= 1
