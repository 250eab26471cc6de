"""Queue: order within a lane, the shares of both lanes, dropped and late jobs."""

import gc
import math
from typing import Any

import numpy as np
import pytest

from app.inference.context import RequestContext
from app.inference.costs import Costs, PlannedCall
from app.inference.jobs import Job
from app.inference.lane import MAX_DROPPED_JOBS
from app.inference.queue import Queue

CALLS = ("encode", "decode", "score")


def queue_of(batch_rows: int, per_row: float = 1e-3) -> Queue:
    """A queue whose calls all take this many seconds a row."""
    costs = Costs(batch_rows)
    for call in CALLS:
        costs.measured(call, 0.0, per_row)
    return Queue(costs)


def put(
    queue: Queue, rows: int = 1, call: str = "encode", deadline: float = math.inf, large: bool | None = None
) -> Job:
    """Queue a job of a request of its own; large if it has more rows than a batch."""

    def unused(*_: Any) -> Any:
        raise AssertionError

    large = rows > queue.costs.batch_rows if large is None else large
    context = RequestContext(deadline=deadline, large=large)
    queue.enter(context, queue.costs.size((PlannedCall(call, rows),)), 0.0)
    job = Job(call, rows, unused, unused, context)
    queue.put(job)
    return job


def taken(queue: Queue) -> list[tuple[Job, int, int]]:
    """The next batch, as plain tuples, computed in a millisecond a row."""
    batch = [(part.job, part.start, part.stop) for part in queue.take(0.0)[0]]
    queue.finish(1e-3 * sum(stop - start for _, start, stop in batch), 0.0)
    return batch


def test_jobs_of_a_call_share_a_batch_and_the_oldest_request_goes_first() -> None:
    queue = queue_of(8)
    a, b, c, d = put(queue), put(queue, call="decode"), put(queue, 2), put(queue, call="decode")
    assert queue.rows == 5
    assert taken(queue) == [(a, 0, 1), (c, 0, 2)]
    assert taken(queue) == [(b, 0, 1), (d, 0, 1)]
    assert queue.take(0.0) == ([], [])
    assert queue.rows == 0


def test_the_next_call_of_an_older_request_goes_before_a_younger_request() -> None:
    queue = queue_of(8)
    first, younger = put(queue), put(queue, call="decode")
    assert taken(queue) == [(first, 0, 1)]
    following = Job("score", 1, first.take, first.put, first.context)
    queue.put(following)
    assert taken(queue) == [(following, 0, 1)]
    assert taken(queue) == [(younger, 0, 1)]


def test_large_requests_are_computed_one_after_the_other_and_fill_the_last_slice() -> None:
    queue = queue_of(4)
    first, second, other = put(queue, 6), put(queue, 5), put(queue, 6, call="decode")
    assert [taken(queue) for _ in range(3)] == [
        [(first, 0, 4)],
        [(first, 4, 6), (second, 0, 2)],
        [(second, 2, 5)],
    ]
    assert taken(queue) == [(other, 0, 4)]


def test_a_small_request_waits_for_one_slice_of_a_large_one() -> None:
    queue = queue_of(4)
    large = put(queue, 40)
    assert taken(queue) == [(large, 0, 4)]
    small = [put(queue, 4) for _ in range(4)]
    # A slice of the large request entitles small ones to three times its time.
    assert [taken(queue)[0][0] for _ in range(5)] == [*small[:3], large, small[3]]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_large_requests_have_their_share_beside_endless_small_ones(share: float) -> None:
    queue = queue_of(4)
    context = RequestContext(large=True)
    queue.enter(context, queue.costs.size((PlannedCall("encode", 4000),)), 0.0, share)
    large = Job("encode", 4000, lambda *_: (), lambda *_: None, context)
    queue.put(large)
    rows = {True: 0, False: 0}
    for _ in range(500):
        put(queue, 3)
        for job, start, stop in taken(queue):
            rows[job is large] += stop - start
    assert rows[True] / sum(rows.values()) == pytest.approx(share, abs=0.02)


def test_large_requests_have_all_the_time_that_small_ones_leave() -> None:
    queue = queue_of(4)
    large = put(queue, 4000)
    for _ in range(10):
        assert taken(queue)[0][0] is large
        small = put(queue)
        assert taken(queue) == [(small, 0, 1)]


def test_a_slice_lasts_no_longer_than_its_limit_and_has_a_row_at_least() -> None:
    for per_row, rows in ((1e-5, 64), (1e-2, 3), (1.0, 1)):
        queue = queue_of(64, per_row)
        job = put(queue, 1000)
        assert [(part.job, part.stop) for part in queue.take(0.0)[0]] == [(job, rows)]


def test_younger_requests_do_not_fill_a_batch_that_an_older_one_cannot_wait_for() -> None:
    queue = queue_of(8)
    urgent = put(queue, 1, deadline=0.02)  # less than the interruptions that the other lane is allowed
    younger = put(queue, 1)
    assert taken(queue) == [(urgent, 0, 1)]
    assert taken(queue) == [(younger, 0, 1)]


def test_dropped_and_late_jobs_are_not_taken_and_not_counted() -> None:
    queue = queue_of(4)
    dropped, late, good = put(queue, 3), put(queue, 2, deadline=5.0), put(queue)
    queue.drop(dropped)
    queue.drop(dropped)
    assert queue.rows == 3
    batch, expired = queue.take(6.0)
    assert [part.job for part in batch] == [good]
    assert expired == [late]
    assert queue.rows == 0


def test_dropped_jobs_do_not_fill_memory_while_no_batch_is_taken() -> None:
    gc.collect()
    before = sum(type(item) is Job for item in gc.get_objects())
    queue = queue_of(4)
    waiting = put(queue)
    for _ in range(10 * MAX_DROPPED_JOBS):
        dropped = put(queue, 3)
        queue.drop(dropped)
        queue.leave(dropped.context)
    del dropped
    assert queue.rows == 1
    assert sum(type(item) is Job for item in gc.get_objects()) - before <= MAX_DROPPED_JOBS + 2
    assert taken(queue) == [(waiting, 0, 1)]


def test_clear_returns_all_jobs_that_wait() -> None:
    queue = queue_of(4)
    large, small, dropped = put(queue, 9), put(queue, call="decode"), put(queue)
    taken(queue)
    queue.drop(dropped)
    assert set(queue.clear()) == {large, small}
    assert queue.rows == 0
    assert queue.take(0.0) == ([], [])


@pytest.mark.parametrize("limit", [1, 3, MAX_DROPPED_JOBS])
def test_every_row_is_taken_once_and_in_order_whatever_happens(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.lane.MAX_DROPPED_JOBS", limit)
    random = np.random.default_rng(0)
    for _ in range(200):
        queue, waiting, now = queue_of(int(random.integers(1, 9))), list[Job](), 0.0
        taken_rows: dict[Job, int] = {}
        for _ in range(60):
            now += 1
            chance = random.random()
            if chance < 0.5:
                deadline = now + float(random.integers(1, 20)) if random.random() < 0.2 else math.inf
                waiting.append(put(queue, int(random.integers(1, 20)), CALLS[int(random.integers(3))], deadline))
            elif chance < 0.6 and waiting:
                queue.drop(waiting.pop(int(random.integers(len(waiting)))))
            else:
                batch, late_jobs = queue.take(now)
                queue.finish(0.01, now)
                assert sum(stop - start for _, start, stop in batch) <= queue.costs.batch_rows
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
            waiting = [queued for queued in waiting if queued.remaining]
