"""Queue: order of jobs, fairness between new and partial jobs, dropped and late jobs."""

import gc
import math
from typing import Any

import numpy as np
import pytest

from app.inference.context import RequestContext
from app.inference.queue import MAX_DROPPED_JOBS, Job, Queue


def job(rows: int = 1, call: str = "encode", deadline: float = math.inf) -> Job:
    """A job whose rows are never read."""

    def unused(*_: Any) -> Any:
        raise AssertionError

    return Job(call, rows, unused, unused, RequestContext(deadline=deadline))


def taken(queue: Queue) -> list[tuple[Job, int, int]]:
    """The next batch, as plain tuples."""
    return [(part.job, part.start, part.stop) for part in queue.take(0.0)[0]]


def test_jobs_of_a_call_share_a_batch_and_the_call_that_waits_longest_goes_first() -> None:
    queue = Queue(8)
    a, b, c, d = job(), job(call="decode"), job(2), job(call="decode")
    for queued in (a, b, c, d):
        queue.put(queued)
    assert queue.rows == 5
    assert taken(queue) == [(a, 0, 1), (c, 0, 2)]
    assert taken(queue) == [(b, 0, 1), (d, 0, 1)]
    assert queue.take(0.0) == ([], [])
    assert queue.rows == 0


def test_the_remaining_rows_of_a_large_job_go_to_the_end() -> None:
    queue = Queue(4)
    large, other = job(9), job(call="decode")
    queue.put(large)
    queue.put(other)
    assert taken(queue) == [(large, 0, 4)]
    small = job()
    queue.put(small)
    assert taken(queue) == [(other, 0, 1)]
    # The small job is new and goes first; the large job fills the batch.
    assert taken(queue) == [(small, 0, 1), (large, 4, 7)]
    assert taken(queue) == [(large, 7, 9)]
    assert queue.rows == 0


def test_a_small_job_does_not_wait_for_the_remaining_rows_of_a_large_one() -> None:
    queue = Queue(4)
    queue.put(job(9))
    assert queue.rows_before(1) == queue.rows_before(5) == {"encode": 9}
    taken(queue)
    assert queue.rows_before(1) == {"encode": 0}
    assert queue.rows_before(5) == {"encode": 5}
    queue.put(job(2))
    assert queue.rows_before(4) == {"encode": 4}, "at most as many rows of the large job go before"
    assert queue.rows_before(5) == {"encode": 7}


def test_two_large_jobs_alternate() -> None:
    queue = Queue(4)
    first, second = job(8), job(8)
    queue.put(first)
    queue.put(second)
    batches = [taken(queue) for _ in range(4)]
    assert batches == [
        [(first, 0, 4)],
        [(second, 0, 2), (first, 4, 6)],
        [(second, 2, 6)],
        [(first, 6, 8), (second, 6, 8)],
    ]


def test_batches_of_one_row_alternate_between_new_and_partial_jobs() -> None:
    queue = Queue(1)
    large, other = job(4), job(call="decode")
    queue.put(large)
    queue.put(other)
    rows = []
    for _ in range(12):
        rows += taken(queue)
        queue.put(job())
    assert sum(owner is large for owner, _, _ in rows) == 4
    assert (other, 0, 1) in rows


def test_dropped_and_late_jobs_are_not_taken_and_not_counted() -> None:
    queue = Queue(4)
    dropped, late, good = job(3), job(2, deadline=5.0), job()
    for queued in (dropped, late, good):
        queue.put(queued)
    queue.drop(dropped)
    queue.drop(dropped)
    assert queue.rows == 3
    assert queue.take(6.0) == ([(good, 0, 1)], [late])
    assert queue.rows == 0


def test_dropped_jobs_do_not_fill_memory_while_no_batch_is_taken() -> None:
    gc.collect()
    before = sum(type(item) is Job for item in gc.get_objects())
    queue = Queue(4)
    waiting = job()
    queue.put(waiting)
    for _ in range(10 * MAX_DROPPED_JOBS):
        dropped = job(5)
        queue.put(dropped)
        queue.drop(dropped)
    assert queue.rows == 1
    assert sum(type(item) is Job for item in gc.get_objects()) - before <= MAX_DROPPED_JOBS + 2
    assert taken(queue) == [(waiting, 0, 1)]


def test_clear_returns_all_jobs_that_wait() -> None:
    queue = Queue(4)
    partial, new, dropped = job(9), job(call="decode"), job()
    for queued in (partial, new, dropped):
        queue.put(queued)
    taken(queue)
    queue.drop(dropped)
    assert set(queue.clear()) == {partial, new}
    assert queue.rows == 0
    assert queue.take(0.0) == ([], [])


def test_late_jobs_are_swept_while_others_are_taken() -> None:
    queue = Queue(10)
    for _ in range(MAX_DROPPED_JOBS):  # the next drop sweeps
        dropped = job()
        queue.put(dropped)
        queue.drop(dropped)
    first, late, last = job(2), job(3, deadline=1.0), job(2)
    for queued in (first, late, last):
        queue.put(queued)
    assert queue.take(2.0) == ([(first, 0, 2), (last, 0, 2)], [late])
    assert queue.rows == 0
    assert queue.take(2.0) == ([], [])
    assert queue.rows_before(1) == queue.rows_before(100) == {"encode": 0}


@pytest.mark.parametrize("limit", [1, 3, MAX_DROPPED_JOBS])
def test_every_row_is_taken_once_and_in_order_whatever_happens(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.queue.MAX_DROPPED_JOBS", limit)
    random = np.random.default_rng(0)
    for _ in range(200):
        queue, waiting, now = Queue(int(random.integers(1, 9))), list[Job](), 0.0
        taken_rows: dict[Job, int] = {}
        for _ in range(60):
            now += 1
            chance = random.random()
            if chance < 0.5:
                deadline = now + float(random.integers(1, 20)) if random.random() < 0.2 else math.inf
                waiting.append(job(int(random.integers(1, 20)), str(random.integers(3)), deadline))
                queue.put(waiting[-1])
            elif chance < 0.6 and waiting:
                queue.drop(waiting.pop(int(random.integers(len(waiting)))))
            else:
                batch, late_jobs = queue.take(now)
                assert sum(stop - start for _, start, stop in batch) <= queue.batch_rows
                assert len({part.job.call for part in batch}) <= 1
                assert len({id(part.job) for part in batch}) == len(batch)
                for late in late_jobs:
                    assert late.context.deadline < now
                    waiting.remove(late)
                for owner, start, stop in batch:
                    assert owner in waiting and owner.context.deadline >= now
                    assert taken_rows.get(owner, 0) == start < stop
                    taken_rows[owner] = stop
                assert batch or not waiting
            assert queue.rows == sum(queued.remaining for queued in waiting)
            for call, rows in queue.rows_before(100).items():
                new = sum(queued.remaining for queued in waiting if queued.call == call and not queued.rows_taken)
                partial = sum(queued.remaining for queued in waiting if queued.call == call and queued.rows_taken)
                assert rows == new + partial
                assert queue.rows_before(1)[call] == new + min(new, partial)
            waiting = [queued for queued in waiting if queued.remaining]
