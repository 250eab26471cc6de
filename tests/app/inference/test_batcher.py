"""The batcher: order, isolation, fairness, bounds, and what becomes of those who leave."""

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from app.inference.batcher import Batcher, BatcherStopped, CallFailed, DeadlinePassed
from app.inference.queue import Arrays, Job, RequestContext


class Gate:
    """A call that can be held, and that remembers the rows of every batch it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.batches: list[list[float]] = []

    def __call__(self, x: np.ndarray[Any, Any]) -> Arrays:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(x.ravel().tolist())
        if (x == -1).any():
            raise ValueError("poison")
        return (x * 2,)


@contextmanager
def running(call: Callable[..., Arrays], **options: Any) -> Iterator[Batcher]:
    batcher = Batcher({"double": call, "negate": lambda x: (-x,)}, **{"batch_rows": 4, "queue_rows": 100, **options})
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.stop(5)


def rows(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)[:, None]


async def held(batcher: Batcher, gate: Gate, *first: float) -> "asyncio.Task[Arrays]":
    """Occupy the worker, so that whatever comes next has to queue."""
    gate.open.clear()
    gate.entered.clear()
    task = asyncio.create_task(batcher.run("double", rows(*first)))
    await asyncio.to_thread(gate.entered.wait, 10)
    return task


def test_jobs_of_many_requests_ride_in_one_call_and_each_gets_its_own_rows() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = await held(batcher, gate, 0)
            others = [asyncio.create_task(batcher.run("double", rows(i))) for i in range(1, 5)]
            await asyncio.sleep(0)
            gate.open.set()
            results = [float((await task)[0][0, 0]) for task in (first, *others)]
        assert results == [0, 2, 4, 6, 8]
        assert gate.batches == [[0], [1, 2, 3, 4]]

    asyncio.run(go())


def test_a_batch_grows_as_long_as_every_other_round_of_the_loop_brings_more() -> None:
    async def after(rounds: int, batcher: Batcher) -> Arrays:
        for _ in range(rounds):
            await asyncio.sleep(0)
        return await batcher.run("double", rows(rounds))

    async def go() -> None:
        gate = Gate()
        with running(gate, batch_rows=100) as batcher:
            await asyncio.gather(*(after(rounds, batcher) for rounds in (0, 1, 3, 4, 6, 8)))
        assert gate.batches == [[0, 1, 3, 4, 6, 8]]

    asyncio.run(go())


def test_a_full_batch_does_not_wait_for_more() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = asyncio.create_task(batcher.run("double", rows(*range(4))))
            await asyncio.sleep(0)
            # The loop makes no further round before the worker is at work.
            assert gate.entered.wait(10)
            await first

    asyncio.run(go())


def test_the_results_of_a_call_bring_the_next_rows_before_it_sets_out_again() -> None:
    """Clients that answer at once meet in one batch, though those of one batch are done before the others' begins."""

    async def client(batcher: Batcher, number: float) -> None:
        for _ in range(20):
            assert (await batcher.run("double", rows(number)))[0][0, 0] == 2 * number

    async def go() -> None:
        gate = Gate()
        with running(gate, batch_rows=100) as batcher:
            first = await held(batcher, gate, 0)
            clients = [asyncio.create_task(client(batcher, number)) for number in range(1, 9)]
            await asyncio.sleep(0)
            gate.open.set()
            await asyncio.gather(first, *clients)
        assert all(len(batch) == 8 for batch in gate.batches[1:])

    asyncio.run(go())


def test_rows_not_requests_are_counted_against_the_limit_of_a_batch() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            await held(batcher, gate, 0)
            tasks = [asyncio.create_task(batcher.run("double", rows(*range(3)))) for _ in range(4)]
            await asyncio.sleep(0)
            gate.open.set()
            for task in tasks:
                np.testing.assert_array_equal((await task)[0], rows(0, 2, 4))
        assert max(map(len, gate.batches)) == 4

    asyncio.run(go())


def test_a_large_job_is_cut_and_a_small_one_rides_in_the_next_call() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            large = await held(batcher, gate, *range(40))
            small = asyncio.create_task(batcher.run("double", rows(1000)))
            await asyncio.sleep(0)
            gate.open.set()
            np.testing.assert_array_equal((await large)[0], rows(*range(0, 80, 2)))
            assert (await small)[0][0, 0] == 2000
        # It came while the first ran.
        assert 1000 in gate.batches[1]

    asyncio.run(go())


def test_small_jobs_without_end_do_not_keep_a_large_one_out() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            large = await held(batcher, gate, *range(20))
            small = [asyncio.create_task(batcher.run("double", rows(1000 + i))) for i in range(40)]
            await asyncio.sleep(0)
            gate.open.set()
            await asyncio.gather(large, *small)
        # From its second slice on it has half of each call: 4 and then 8 times 2.
        assert [len([row for row in batch if row < 1000]) for batch in gate.batches[:9]] == [4, *[2] * 8]

    asyncio.run(go())


def test_different_calls_do_not_mix_and_none_is_forgotten() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            await held(batcher, gate, 0)
            names = ["double", "negate"] * 10
            tasks = [asyncio.create_task(batcher.run(name, rows(i))) for i, name in enumerate(names)]
            await asyncio.sleep(0)
            gate.open.set()
            for i, (name, task) in enumerate(zip(names, tasks, strict=True)):
                assert (await task)[0][0, 0] == (2 * i if name == "double" else -i)

    asyncio.run(go())


def test_a_failing_call_fails_its_own_requests_only_and_the_worker_lives_on() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            await held(batcher, gate, 0)
            good = asyncio.create_task(batcher.run("double", rows(1)))
            bad = asyncio.create_task(batcher.run("double", rows(-1)))
            also = asyncio.create_task(batcher.run("double", rows(3)))
            await asyncio.sleep(0)
            gate.open.set()
            assert (await good)[0][0, 0] == 2
            with pytest.raises(CallFailed, match="poison"):
                await bad
            assert (await also)[0][0, 0] == 6
            assert (await batcher.run("double", rows(4)))[0][0, 0] == 8
            assert batcher.alive

    asyncio.run(go())


def test_a_job_that_fails_in_its_middle_costs_no_more_calls() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            with pytest.raises(CallFailed):
                await batcher.run("double", rows(-1, *range(39)))
            assert len(gate.batches) == 1

    asyncio.run(go())


def test_failing_to_make_or_to_take_rows_fails_the_job_alone() -> None:
    async def go() -> None:
        def broken(*_: Any) -> Any:
            raise RuntimeError("broken")

        def ignore(*_: Any) -> None:
            return None

        with running(Gate()) as batcher:
            with pytest.raises(CallFailed, match="broken"):
                await batcher.stream("double", 3, take=broken, put=ignore)
            with pytest.raises(CallFailed, match="broken"):
                await batcher.stream("double", 1, take=lambda *_: (rows(1),), put=broken)
            assert batcher.alive

    asyncio.run(go())


def test_abandoned_requests_are_dropped_before_they_cost_a_call() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = await held(batcher, gate, 0)
            gone = asyncio.create_task(batcher.run("double", rows(7)))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
            gate.open.set()
            await first
            await batcher.run("double", rows(1))
        assert 7 not in [row for batch in gate.batches for row in batch]

    asyncio.run(go())


def test_expired_work_is_not_computed() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = await held(batcher, gate, 0)
            late = asyncio.create_task(batcher.run("double", rows(7), context=RequestContext(time.monotonic())))
            await asyncio.sleep(0.01)
            gate.open.set()
            await first
            with pytest.raises(DeadlinePassed):
                await late
        assert 7 not in [row for batch in gate.batches for row in batch]

    asyncio.run(go())


def test_nothing_is_kept_of_a_job_that_was_late() -> None:
    async def go() -> None:
        with running(Gate()) as batcher:
            await batcher.run("double", rows(1))
            before = {id(found) for found in gc.get_objects() if type(found) is Job}
            gc.disable()  # which would find what is left in circles, some day
            try:
                with suppress(DeadlinePassed):
                    await batcher.run("double", rows(1), context=RequestContext(0.0))
                    raise AssertionError
                end = time.monotonic() + 10
                while [found for found in gc.get_objects() if type(found) is Job and id(found) not in before]:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.01)
            finally:
                gc.enable()

    asyncio.run(go())


def test_stopping_finishes_what_is_queued_and_takes_no_more() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = await held(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", rows(1)))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(asyncio.to_thread(batcher.stop, 10))
            while batcher.alive:
                await asyncio.sleep(0.001)
            with pytest.raises(BatcherStopped):
                await batcher.run("double", rows(2))
            gate.open.set()
            await stopping
            assert (await first)[0][0, 0] == 0
            assert (await queued)[0][0, 0] == 2

    asyncio.run(go())


def test_what_a_hanging_call_leaves_at_the_end_fails_and_does_not_hang() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            first = await held(batcher, gate, 0)
            await asyncio.to_thread(batcher.stop, 0.01)
            with pytest.raises(BatcherStopped):
                await first
            gate.open.set()

    asyncio.run(go())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_is_seen_and_strands_nobody() -> None:
    async def go() -> None:
        def die(x: np.ndarray[Any, Any]) -> Arrays:
            raise SystemExit  # not an Exception: nothing catches it

        with running(die) as batcher:
            with pytest.raises(BatcherStopped):
                await batcher.run("double", rows(1))
            while batcher.alive:
                await asyncio.sleep(0.001)
            with pytest.raises(BatcherStopped):
                await batcher.run("double", rows(1))

    asyncio.run(go())


def test_no_result_ever_reaches_another_request() -> None:
    """Ten thousand requests of random sizes and calls, some poisoned, some abandoned."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 12, 10_000)

    async def one(batcher: Batcher, i: int) -> None:
        x = rows(*(1 + i * 16 + k for k in range(sizes[i])))
        if i % 97 == 0:
            x[-1] = -1
            with pytest.raises(CallFailed):
                await batcher.run("double", x)
        elif i % 41 == 0:
            task = asyncio.create_task(batcher.run("negate", x))
            await asyncio.sleep(0)
            task.cancel()
        elif i % 2:
            np.testing.assert_array_equal((await batcher.run("double", x))[0], 2 * x)
        else:
            np.testing.assert_array_equal((await batcher.run("negate", x))[0], -x)

    async def go() -> None:
        with running(Gate(), batch_rows=8, queue_rows=10**9) as batcher:
            for start in range(0, len(sizes), 500):
                await asyncio.gather(*(one(batcher, i) for i in range(start, start + 500)))

    asyncio.run(go())


def test_every_call_is_observed_with_its_rows() -> None:
    seen: list[tuple[str, int, float]] = []

    async def go() -> None:
        with running(Gate(), observe=lambda *call: seen.append(call)) as batcher:
            await batcher.run("double", rows(*range(10)), context=RequestContext(math.inf))

    asyncio.run(go())
    assert [(name, count) for name, count, _ in seen] == [("double", 4), ("double", 4), ("double", 2)]
    assert all(seconds > 0 for _, _, seconds in seen)
