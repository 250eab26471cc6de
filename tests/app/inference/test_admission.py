"""Admission: limits in rows, in seconds of work and by deadline."""

import asyncio
import time

import numpy as np
import pytest

from app.inference.admission import Cost
from app.inference.context import RequestContext
from app.inference.errors import DeadlinePassed, QueueFull
from tests.support.worker import GatedCall, column, occupy, running_batcher


def test_a_full_queue_refuses_with_a_time_to_retry_after() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_rows=5) as batcher:
            first = await occupy(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", column(*range(5))))
            await asyncio.sleep(0)
            assert batcher.waiting == 5
            with pytest.raises(QueueFull) as refused:
                await batcher.run("double", column(1))
            assert refused.value.retry_after >= 1
            gate.release.set()
            await first
            await queued
            assert batcher.waiting == 0

    asyncio.run(go())


def test_a_queued_large_job_does_not_block_small_jobs() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_rows=5) as batcher:
            large = await occupy(batcher, gate, *range(20))
            assert batcher.waiting == 16
            small = asyncio.create_task(batcher.run("double", column(30)))
            await asyncio.sleep(0)
            assert not small.done()
            with pytest.raises(QueueFull, match=r"queue full \(17 rows\)"):
                await batcher.run("double", column(*range(5)))
            gate.release.set()
            np.testing.assert_array_equal((await small)[0], column(60))
            await large

    asyncio.run(go())


def test_queued_seconds_are_limited_by_the_setting_and_the_deadline() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_seconds=1.0) as batcher:
            batcher.admission.costs["double"] = Cost(10, 2.0)  # 0.2 s a row
            first = await occupy(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", column(i))) for i in (1, 2, 3, 4, 5, 6)]
            await asyncio.sleep(0)
            assert batcher.waiting == 6, "the five rows before the sixth are 1 s of work"
            with pytest.raises(QueueFull, match=r"queue full \(1\.2 s of work\)") as refused:
                await batcher.run("double", column(7))
            assert refused.value.retry_after == 1
            context = RequestContext(deadline=time.monotonic() + 0.5)
            with pytest.raises(QueueFull):
                await batcher.run("double", column(*range(9)), context=context)  # a large job with a deadline
            large = asyncio.create_task(batcher.run("double", column(*range(9))))
            await asyncio.sleep(0)
            assert batcher.waiting == 15
            gate.release.set()
            await asyncio.gather(first, large, *queued)

    asyncio.run(go())


def test_an_admitted_request_is_not_refused_halfway() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_rows=5) as batcher:
            context = RequestContext()
            await batcher.run("double", column(1), context=context)
            first = await occupy(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", column(i))) for i in range(5)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                await batcher.run("double", column(6))
            second = asyncio.create_task(batcher.run("double", column(7), context=context))
            await asyncio.sleep(0)
            assert batcher.waiting == 6
            gate.release.set()
            np.testing.assert_array_equal((await second)[0], column(14))
            await asyncio.gather(first, *queued)

    asyncio.run(go())


def test_reserved_rows_of_admitted_requests_count() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_seconds=1.0) as batcher:
            batcher.admission.costs["negate"] = Cost(10, 3.0)

            async def request(first: float) -> None:
                context = RequestContext()
                with batcher.admission.reserve(context, {"negate": 3}):
                    await batcher.run("double", column(first), context=context)
                    await batcher.run("negate", column(first, first, first), context=context)

            first = await occupy(batcher, gate, 0)
            admitted = [asyncio.create_task(request(i)) for i in range(2)]
            await asyncio.sleep(0)
            assert batcher.admission.reserved["negate"] == 6
            with pytest.raises(QueueFull, match=r"queue full \(1\.8 s of work\)"):
                await request(7)
            admitted[0].cancel()
            await asyncio.sleep(0)
            assert batcher.admission.reserved["negate"] == 3
            gate.release.set()
            await asyncio.gather(first, admitted[1])
            assert batcher.admission.reserved["negate"] == 0

    asyncio.run(go())


def test_the_cost_of_a_row_is_that_of_calls_with_many_rows() -> None:
    cost = Cost()
    for count, seconds in ((1, 0.002), (64, 0.004), (1, 0.002), (64, 0.004)):
        cost = cost.add(count, seconds)
    assert 0.004 / 64 < cost.seconds_per_row < 0.012 / 128


def test_a_deadline_that_has_passed_is_not_a_full_queue() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            batcher.admission.costs["double"] = Cost(1, 10.0)
            first = await occupy(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", column(1, 2)))
            await asyncio.sleep(0)
            late = asyncio.create_task(
                batcher.run("double", column(3), context=RequestContext(deadline=time.monotonic() - 1))
            )
            await asyncio.sleep(0)
            gate.release.set()
            with pytest.raises(DeadlinePassed):
                await late
            await asyncio.gather(first, queued)

    asyncio.run(go())


def test_one_batch_may_wait_even_for_a_slow_model() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, queue_seconds=1e-6) as batcher:
            batcher.admission.costs["double"] = Cost(1, 10.0)
            first = await occupy(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", column(i))) for i in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull) as refused:
                await batcher.run("double", column(7))
            assert refused.value.retry_after == 40
            gate.release.set()
            await asyncio.gather(first, *queued)

    asyncio.run(go())
