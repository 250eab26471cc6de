"""Batcher: order, isolation of failures, fairness, limits, cancellation and shutdown."""

import asyncio
import gc
import math
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from app.inference.admission import QueueLimits
from app.inference.batcher import Batcher
from app.inference.context import RequestContext
from app.inference.errors import BatcherStopped, CallFailed, DeadlinePassed
from app.inference.jobs import Array, Arrays, Job
from tests.support.worker import POISON, GatedCall, column, double, occupy, running_batcher


def test_jobs_of_many_requests_share_a_call_and_each_gets_its_own_rows() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = await occupy(batcher, gate, 0)
            others = [asyncio.create_task(batcher.run("double", column(i))) for i in range(1, 5)]
            await asyncio.sleep(0)
            gate.release.set()
            results = [float((await task)[0][0, 0]) for task in (first, *others)]
        assert results == [0, 2, 4, 6, 8]
        assert gate.batches == [[0], [1, 2, 3, 4]]

    asyncio.run(go())


def test_a_batch_grows_while_rounds_of_the_event_loop_bring_more_rows() -> None:
    async def after(rounds: int, batcher: Batcher) -> Arrays:
        for _ in range(rounds):
            await asyncio.sleep(0)
        return await batcher.run("double", column(rounds))

    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, batch_rows=100) as batcher:
            await asyncio.gather(*(after(rounds, batcher) for rounds in (0, 1, 3, 4, 6, 8)))
        assert gate.batches == [[0, 1, 3, 4, 6, 8]]

    asyncio.run(go())


def test_a_full_batch_does_not_wait() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = asyncio.create_task(batcher.run("double", column(*range(4))))
            await asyncio.sleep(0)
            # The event loop makes no further round before the call begins.
            assert gate.entered.wait(10)
            await first

    asyncio.run(go())


def test_the_worker_waits_for_the_rows_that_results_bring() -> None:
    """Clients that send again as soon as they have a result share every later batch."""

    async def client(batcher: Batcher, number: float) -> None:
        for _ in range(20):
            assert (await batcher.run("double", column(number)))[0][0, 0] == 2 * number

    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, batch_rows=100) as batcher:
            first = await occupy(batcher, gate, 0)
            clients = [asyncio.create_task(client(batcher, number)) for number in range(1, 9)]
            await asyncio.sleep(0)
            gate.release.set()
            await asyncio.gather(first, *clients)
        assert all(len(batch) == 8 for batch in gate.batches[1:])

    asyncio.run(go())


def test_the_limit_of_a_batch_counts_rows_not_requests() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            await occupy(batcher, gate, 0)
            tasks = [asyncio.create_task(batcher.run("double", column(*range(3)))) for _ in range(4)]
            await asyncio.sleep(0)
            gate.release.set()
            for task in tasks:
                np.testing.assert_array_equal((await task)[0], column(0, 2, 4))
        assert max(map(len, gate.batches)) == 4

    asyncio.run(go())


def test_a_large_job_is_cut_and_a_small_one_is_in_the_next_call() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            large = await occupy(batcher, gate, *range(40))
            small = asyncio.create_task(batcher.run("double", column(1000)))
            await asyncio.sleep(0)
            gate.release.set()
            np.testing.assert_array_equal((await large)[0], column(*range(0, 80, 2)))
            assert (await small)[0][0, 0] == 2000
        # The small job was queued during the first call.
        assert gate.batches[1] == [1000]

    asyncio.run(go())


def test_many_small_jobs_do_not_starve_a_large_one() -> None:
    async def go() -> None:
        def slow(x: Array) -> Arrays:
            time.sleep(0.002 * len(x))
            return double(x)

        gate = GatedCall(slow)
        with running_batcher(gate, limits=QueueLimits(10**6)) as batcher:
            large = await occupy(batcher, gate, *range(40))
            small = [asyncio.create_task(batcher.run("double", column(1000 + i, 2000, 3000))) for i in range(80)]
            await asyncio.sleep(0)
            gate.release.set()
            await large
            assert not all(task.done() for task in small)
            await asyncio.gather(*small)
        # A quarter of the time until the large job is done is its own.
        sizes = [len(batch) for batch in gate.batches]
        last = max(index for index, batch in enumerate(gate.batches) if batch[0] < 1000)
        assert 0.15 < 40 / sum(sizes[: last + 1]) < 0.35

    asyncio.run(go())


def test_different_calls_share_no_batch_and_all_are_computed() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            await occupy(batcher, gate, 0)
            names = ["double", "negate"] * 10
            tasks = [asyncio.create_task(batcher.run(name, column(i))) for i, name in enumerate(names)]
            await asyncio.sleep(0)
            gate.release.set()
            for i, (name, task) in enumerate(zip(names, tasks, strict=True)):
                assert (await task)[0][0, 0] == (2 * i if name == "double" else -i)

    asyncio.run(go())


def test_a_failing_call_fails_its_own_requests_only_and_the_worker_goes_on() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            await occupy(batcher, gate, 0)
            good = asyncio.create_task(batcher.run("double", column(1)))
            bad = asyncio.create_task(batcher.run("double", column(POISON)))
            other = asyncio.create_task(batcher.run("double", column(3)))
            await asyncio.sleep(0)
            gate.release.set()
            assert (await good)[0][0, 0] == 2
            with pytest.raises(CallFailed, match="poison"):
                await bad
            assert (await other)[0][0, 0] == 6
            assert (await batcher.run("double", column(4)))[0][0, 0] == 8
            assert batcher.alive

    asyncio.run(go())


def test_no_slice_is_computed_after_one_has_failed() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            with pytest.raises(CallFailed):
                await batcher.run("double", column(POISON, *range(39)))
            assert len(gate.batches) == 1

    asyncio.run(go())


def test_errors_of_take_and_put_fail_the_job_alone() -> None:
    async def go() -> None:
        def broken(*_: Any) -> Any:
            raise RuntimeError("broken")

        def ignore(*_: Any) -> None:
            return None

        with running_batcher(GatedCall()) as batcher:
            with pytest.raises(CallFailed, match="broken"):
                await batcher.stream("double", 3, take=broken, put=ignore)
            with pytest.raises(CallFailed, match="broken"):
                await batcher.stream("double", 1, take=lambda *_: (column(1),), put=broken)
            assert batcher.alive

    asyncio.run(go())


def test_cancelled_jobs_are_not_computed() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = await occupy(batcher, gate, 0)
            cancelled = asyncio.create_task(batcher.run("double", column(7)))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.sleep(0)
            gate.release.set()
            await first
            await batcher.run("double", column(1))
        assert 7 not in [row for batch in gate.batches for row in batch]

    asyncio.run(go())


def test_late_jobs_are_not_computed() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = await occupy(batcher, gate, 0)
            late = asyncio.create_task(
                batcher.run("double", column(7), context=RequestContext(deadline=time.monotonic()))
            )
            await asyncio.sleep(0.01)
            gate.release.set()
            await first
            with pytest.raises(DeadlinePassed):
                await late
        assert 7 not in [row for batch in gate.batches for row in batch]

    asyncio.run(go())


def test_a_late_job_is_freed_without_garbage_collection() -> None:
    async def go() -> None:
        with running_batcher(GatedCall()) as batcher:
            await batcher.run("double", column(1))
            before = {id(item) for item in gc.get_objects() if type(item) is Job}
            gc.disable()  # it would free reference cycles
            try:
                with suppress(DeadlinePassed):
                    await batcher.run("double", column(1), context=RequestContext(deadline=0.0))
                    raise AssertionError
                end = time.monotonic() + 10
                while [item for item in gc.get_objects() if type(item) is Job and id(item) not in before]:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.01)
            finally:
                gc.enable()

    asyncio.run(go())


def test_stop_computes_queued_jobs_and_refuses_new_ones() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = await occupy(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", column(1)))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(asyncio.to_thread(batcher.stop, 10))
            while batcher.alive:
                await asyncio.sleep(0.001)
            with pytest.raises(BatcherStopped):
                await batcher.run("double", column(2))
            gate.release.set()
            await stopping
            assert (await first)[0][0, 0] == 0
            assert (await queued)[0][0, 0] == 2

    asyncio.run(go())


def test_stop_fails_the_jobs_of_a_call_that_hangs() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            first = await occupy(batcher, gate, 0)
            await asyncio.to_thread(batcher.stop, 0.01)
            with pytest.raises(BatcherStopped):
                await first
            gate.release.set()

    asyncio.run(go())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_is_visible_and_fails_its_jobs() -> None:
    async def go() -> None:
        def die(x: np.ndarray[Any, Any]) -> Arrays:
            raise SystemExit  # not a subclass of Exception, so nothing catches it

        with running_batcher(die) as batcher:
            with pytest.raises(BatcherStopped):
                await batcher.run("double", column(1))
            while batcher.alive:
                await asyncio.sleep(0.001)
            with pytest.raises(BatcherStopped):
                await batcher.run("double", column(1))

    asyncio.run(go())


def test_every_request_gets_its_own_results() -> None:
    """10,000 requests of random sizes and calls; some fail, some are cancelled."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 12, 10_000)

    async def request(batcher: Batcher, i: int) -> None:
        x = column(*(1 + i * 16 + k for k in range(sizes[i])))
        if i % 97 == 0:
            x[-1] = POISON
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
        with running_batcher(GatedCall(), batch_rows=8, limits=QueueLimits(10**9)) as batcher:
            for start in range(0, len(sizes), 500):
                await asyncio.gather(*(request(batcher, i) for i in range(start, start + 500)))

    asyncio.run(go())


def test_every_call_is_observed_with_its_rows() -> None:
    observed: list[tuple[str, int, float]] = []

    async def go() -> None:
        with running_batcher(GatedCall(), observe=lambda *call: observed.append(call)) as batcher:
            await batcher.run("double", column(*range(10)), context=RequestContext(deadline=math.inf))

    asyncio.run(go())
    assert [(name, count) for name, count, _ in observed] == [("double", 4), ("double", 4), ("double", 2)]
    assert all(seconds > 0 for _, _, seconds in observed)
