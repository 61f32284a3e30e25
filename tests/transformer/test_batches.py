from collections import Counter

import numpy as np
import pytest

from stages.transformer.network.batches import epoch_plan, inference_batches

BUDGET = 256


def drawn(n_rows, n_orders, longest=100):
    row = np.random.default_rng(5).integers(1, longest, size=(n_rows, 1))
    return np.repeat(row, n_orders, axis=1)


def plan(lengths, batch_size=16, n_processes=1, seed=0, budget=BUDGET):
    return epoch_plan(lengths, batch_size, budget, n_processes, np.random.default_rng(seed))


def all_micro(steps):
    return [micro for step in steps for process in step.micro for micro in process]


def padded(sequences, lengths):
    return len(sequences) * max((lengths[tuple(at)] for at in sequences), default=0)


def test_inference_takes_each_sequence_once_longest_first_within_the_budget():
    lengths = drawn(200, 1)[:, 0]
    batches = inference_batches(lengths, BUDGET)
    assert sorted(np.concatenate(batches)) == list(range(200))
    in_order = lengths[np.concatenate(batches)]
    assert (np.diff(in_order) <= 0).all()
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= BUDGET
    assert len(batches) < 60  # of about 10,000 tokens


def test_sequence_longer_than_the_budget_is_a_batch_alone():
    batches = inference_batches(np.array([10, 300, 12, 400]), BUDGET)
    assert [list(batch) for batch in batches] == [[3], [1], [2, 0]]


def test_no_sequences_make_no_batches():
    assert inference_batches(np.zeros(0, np.int64), BUDGET) == []
    assert plan(np.zeros((0, 2), np.int64)) == []


@pytest.mark.parametrize("n_orders", [1, 2])
@pytest.mark.parametrize("n_processes", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [1, 5, 333])
def test_every_sequence_of_every_row_is_seen_once_an_epoch(n_rows, n_orders, n_processes):
    steps = plan(drawn(n_rows, n_orders), n_processes=n_processes)
    seen = Counter(tuple(at) for micro in all_micro(steps) for at in micro.tolist())
    expected = {(row, order) for row in range(n_rows) for order in range(n_orders)}
    assert set(seen) == expected
    assert set(seen.values()) == {1}
    assert len(steps) == -(-n_rows // 16)


@pytest.mark.parametrize("n_processes", [1, 3])
def test_orders_of_a_row_share_a_micro_batch_within_the_budget(n_processes):
    lengths = drawn(333, 2)
    steps = plan(lengths, n_processes=n_processes)
    for step in steps:
        rows = [row for process in step.micro for micro in process for row in micro[:, 0]]
        assert Counter(rows) == dict.fromkeys(step.rows.tolist(), 2)
    for micro in all_micro(steps):
        assert padded(micro, lengths) <= BUDGET
        assert set(Counter(micro[:, 0].tolist()).values()) <= {2}


def test_orders_that_do_not_fit_together_go_one_after_the_other():
    (step,) = plan(np.array([[200, 200], [300, 300], [9, 9]]), batch_size=3)
    assert [micro.tolist() for micro in step.micro[0]] == [
        [[1, 0]], [[1, 1]], [[0, 0]], [[0, 1]], [[2, 0], [2, 1]]
    ]  # fmt: skip


@pytest.mark.parametrize("n_processes", [2, 3, 8])
def test_processes_have_the_same_number_of_micro_batches_and_like_work(n_processes):
    lengths = drawn(333, 2)
    steps = plan(lengths, n_processes=n_processes)
    for step in steps:
        assert len(step.micro) == n_processes
        assert len({len(process) for process in step.micro}) == 1
        assert all(micro.shape[1] == 2 for process in step.micro for micro in process)
    work = [
        sum(padded(micro, lengths) for step in steps for micro in step.micro[process])
        for process in range(n_processes)
    ]
    assert max(work) < 1.5 * min(work)


def test_number_of_processes_and_the_budget_do_not_change_the_steps():
    lengths = drawn(333, 1)
    one = plan(lengths)
    for other in (plan(lengths, n_processes=3), plan(lengths, budget=64)):
        assert [step.rows.tolist() for step in other] == [step.rows.tolist() for step in one]


def test_plan_comes_from_the_generator_alone_and_another_epoch_differs():
    lengths = drawn(333, 2)

    def rows(steps):
        return [step.rows.tolist() for step in steps]

    assert rows(plan(lengths, seed=1)) == rows(plan(lengths, seed=1))
    assert rows(plan(lengths, seed=1)) != rows(plan(lengths, seed=2))
    generator = np.random.default_rng(1)
    first = epoch_plan(lengths, 16, BUDGET, 1, generator)
    assert rows(first) != rows(epoch_plan(lengths, 16, BUDGET, 1, generator))


def test_little_is_padding():
    lengths = drawn(4000, 1, longest=500)
    steps = plan(lengths, batch_size=32, budget=4096)
    cost = sum(padded(micro, lengths) for micro in all_micro(steps))
    assert cost < 1.05 * lengths.sum()


def test_long_rows_do_not_come_first():
    lengths = drawn(4000, 1, longest=500)
    means = [lengths[step.rows].mean() for step in plan(lengths)]
    halves = np.array_split(means, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 50
