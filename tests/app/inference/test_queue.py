"""The queue alone: what rides in the next call, and what is never to ride in any."""

import math
from typing import Any

import numpy as np
import pytest

from app.inference.queue import MANY, Job, Queue, RequestContext


def job(rows: int = 1, call: str = "encode", deadline: float = math.inf) -> Job:
    def unused(*_: Any) -> Any:
        raise AssertionError

    return Job(call, rows, unused, unused, RequestContext(deadline))


def taken(queue: Queue) -> list[tuple[Job, int, int]]:
    return [(piece.job, piece.start, piece.stop) for piece in queue.take(0.0)[0]]


def test_jobs_of_a_call_ride_together_and_the_call_that_waits_longest_goes_first() -> None:
    queue = Queue(8)
    a, b, c, d = job(), job(call="decode"), job(2), job(call="decode")
    for one in (a, b, c, d):
        queue.put(one)
    assert queue.rows == 5
    assert taken(queue) == [(a, 0, 1), (c, 0, 2)]
    assert taken(queue) == [(b, 0, 1), (d, 0, 1)]
    assert queue.take(0.0) == ([], [])
    assert queue.rows == 0


def test_a_large_job_goes_to_the_end_with_what_is_left_of_it() -> None:
    queue = Queue(4)
    large, other = job(9), job(call="decode")
    queue.put(large)
    queue.put(other)
    assert taken(queue) == [(large, 0, 4)]
    small = job()
    queue.put(small)
    assert taken(queue) == [(other, 0, 1)]
    # The small one, which had no turn, and as many of the large one as there is room for.
    assert taken(queue) == [(small, 0, 1), (large, 4, 7)]
    assert taken(queue) == [(large, 7, 9)]
    assert queue.rows == 0


def test_a_small_job_does_not_wait_for_what_is_left_of_a_large_one() -> None:
    queue = Queue(4)
    queue.put(job(9))
    assert queue.ahead(1) == queue.ahead(5) == {"encode": 9}
    taken(queue)
    assert queue.ahead(1) == {"encode": 0}
    assert queue.ahead(5) == {"encode": 5}
    queue.put(job(2))
    assert queue.ahead(4) == {"encode": 4}, "as many rows of the large one go between"
    assert queue.ahead(5) == {"encode": 7}


def test_two_large_jobs_take_turns() -> None:
    queue = Queue(4)
    first, second = job(8), job(8)
    queue.put(first)
    queue.put(second)
    turns = [taken(queue) for _ in range(4)]
    assert turns == [
        [(first, 0, 4)],
        [(second, 0, 2), (first, 4, 6)],
        [(second, 2, 6)],
        [(first, 6, 8), (second, 6, 8)],
    ]


def test_one_row_at_a_time_is_for_fresh_and_begun_jobs_in_turn() -> None:
    queue = Queue(1)
    large, other = job(4), job(call="decode")
    queue.put(large)
    queue.put(other)
    done = []
    for _ in range(12):
        done += taken(queue)
        queue.put(job())
    assert sum(one is large for one, _, _ in done) == 4
    assert (other, 0, 1) in done


def test_what_is_dropped_or_late_does_not_ride_and_does_not_count() -> None:
    queue = Queue(4)
    dropped, late, good = job(3), job(2, deadline=5.0), job()
    for one in (dropped, late, good):
        queue.put(one)
    queue.drop(dropped)
    queue.drop(dropped)
    assert queue.rows == 3
    assert queue.take(6.0) == ([(good, 0, 1)], [late])
    assert queue.rows == 0


def test_dropped_jobs_do_not_fill_memory_while_nothing_is_taken() -> None:
    queue = Queue(4)
    kept = job()
    queue.put(kept)
    for _ in range(10 * MANY):
        gone = job(5)
        queue.put(gone)
        queue.drop(gone)
    assert queue.rows == 1
    assert sum(len(line.fresh) + len(line.begun) for line in queue._lines.values()) <= MANY + 2
    assert taken(queue) == [(kept, 0, 1)]


def test_clearing_gives_back_all_that_wait() -> None:
    queue = Queue(4)
    begun, fresh, gone = job(9), job(call="decode"), job()
    for one in (begun, fresh, gone):
        queue.put(one)
    taken(queue)
    queue.drop(gone)
    assert set(queue.clear()) == {begun, fresh}
    assert queue.rows == 0
    assert queue.take(0.0) == ([], [])


def test_late_jobs_that_are_swept_while_others_are_taken() -> None:
    queue = Queue(10)
    for _ in range(MANY):  # so many that the next to be dropped is swept
        gone = job()
        queue.put(gone)
        queue.drop(gone)
    first, late, last = job(2), job(3, deadline=1.0), job(2)
    for one in (first, late, last):
        queue.put(one)
    assert queue.take(2.0) == ([(first, 0, 2), (last, 0, 2)], [late])
    assert queue.rows == 0
    assert queue.take(2.0) == ([], [])
    assert queue.ahead(1) == queue.ahead(100) == {"encode": 0}


@pytest.mark.parametrize("many", [1, 3, MANY])
def test_whatever_happens_every_row_rides_once_and_in_order(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.queue.MANY", many)
    random = np.random.default_rng(0)
    for _ in range(200):
        queue, alive, now = Queue(int(random.integers(1, 9))), list[Job](), 0.0
        ridden: dict[Job, int] = {}
        for _ in range(60):
            now += 1
            chance = random.random()
            if chance < 0.5:
                late = now + float(random.integers(1, 20)) if random.random() < 0.2 else math.inf
                alive.append(job(int(random.integers(1, 20)), str(random.integers(3)), late))
                queue.put(alive[-1])
            elif chance < 0.6 and alive:
                queue.drop(alive.pop(int(random.integers(len(alive)))))
            else:
                pieces, late_jobs = queue.take(now)
                assert sum(stop - start for _, start, stop in pieces) <= queue._batch_rows
                assert len({piece.job.call for piece in pieces}) <= 1
                assert len({id(piece.job) for piece in pieces}) == len(pieces)
                for one in late_jobs:
                    assert one.context.deadline < now
                    alive.remove(one)
                for one, start, stop in pieces:
                    assert one in alive and one.context.deadline >= now
                    assert ridden.get(one, 0) == start < stop
                    ridden[one] = stop
                assert pieces or not alive
            assert queue.rows == sum(one.left for one in alive)
            for call, everybody in queue.ahead(100).items():
                fresh = sum(one.left for one in alive if one.call == call and not one.done)
                begun = sum(one.left for one in alive if one.call == call and one.done)
                assert everybody == fresh + begun
                assert queue.ahead(1)[call] == fresh + min(fresh, begun)
            alive = [one for one in alive if one.left]
