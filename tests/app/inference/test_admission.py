"""Who may join the queue of a batcher, and who is told to come again."""

import asyncio
import time

import numpy as np
import pytest

from app.inference.admission import Cost, QueueFull
from app.inference.batcher import DeadlinePassed
from app.inference.queue import RequestContext
from tests.app.inference.test_batcher import Gate, held, rows, running


def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_rows=5) as batcher:
            first = await held(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", rows(*range(5))))
            await asyncio.sleep(0)
            assert batcher.waiting == 5
            with pytest.raises(QueueFull) as refused:
                await batcher.run("double", rows(1))
            assert refused.value.retry_after >= 1
            gate.open.set()
            await first
            await queued
            assert batcher.waiting == 0

    asyncio.run(go())


def test_a_large_job_that_waits_keeps_no_small_one_out() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_rows=5) as batcher:
            large = await held(batcher, gate, *range(20))
            assert batcher.waiting == 16
            small = asyncio.create_task(batcher.run("double", rows(30)))
            await asyncio.sleep(0)
            assert not small.done()
            with pytest.raises(QueueFull, match="17 rows are waiting"):
                await batcher.run("double", rows(*range(5)))
            gate.open.set()
            np.testing.assert_array_equal((await small)[0], rows(60))
            await large

    asyncio.run(go())


def test_no_more_seconds_of_work_wait_than_may_nor_than_a_job_has() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_seconds=1.0) as batcher:
            batcher.admission.costs["double"] = Cost(10, 2.0)  # a fifth of a second a row, as if it had been measured
            first = await held(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", rows(i))) for i in (1, 2, 3, 4, 5, 6)]
            await asyncio.sleep(0)
            assert batcher.waiting == 6, "five rows are a second, and six are more only with the sixth"
            with pytest.raises(QueueFull, match=r"1\.2 s of work are waiting") as refused:
                await batcher.run("double", rows(7))
            assert refused.value.retry_after == 1
            soon = RequestContext(time.monotonic() + 0.5)
            with pytest.raises(QueueFull):
                await batcher.run("double", rows(*range(9)), context=soon)  # has a long way, and no time for it
            large = asyncio.create_task(batcher.run("double", rows(*range(9))))
            await asyncio.sleep(0)
            assert batcher.waiting == 15
            gate.open.set()
            await asyncio.gather(first, large, *queued)

    asyncio.run(go())


def test_who_was_let_in_is_not_sent_away_half_done() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_rows=5) as batcher:
            context = RequestContext()
            await batcher.run("double", rows(1), context=context)
            first = await held(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", rows(i))) for i in range(5)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                await batcher.run("double", rows(6))
            second = asyncio.create_task(batcher.run("double", rows(7), context=context))
            await asyncio.sleep(0)
            assert batcher.waiting == 6
            gate.open.set()
            np.testing.assert_array_equal((await second)[0], rows(14))
            await asyncio.gather(first, *queued)

    asyncio.run(go())


def test_what_is_still_to_come_of_others_counts_too() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_seconds=1.0) as batcher:
            batcher.admission.costs["negate"] = Cost(10, 3.0)

            async def request(first: float) -> None:
                context = RequestContext()
                with batcher.admission.promised(context, {"negate": 3}):
                    await batcher.run("double", rows(first), context=context)
                    await batcher.run("negate", rows(first, first, first), context=context)

            first = await held(batcher, gate, 0)
            let_in = [asyncio.create_task(request(i)) for i in range(2)]
            await asyncio.sleep(0)
            assert batcher.admission._promised["negate"] == 6
            with pytest.raises(QueueFull, match=r"1\.8 s of work are waiting"):
                await request(7)
            let_in[0].cancel()
            await asyncio.sleep(0)
            assert batcher.admission._promised["negate"] == 3
            gate.open.set()
            await asyncio.gather(first, let_in[1])
            assert batcher.admission._promised["negate"] == 0

    asyncio.run(go())


def test_what_a_row_takes_is_told_by_calls_of_many_rows() -> None:
    cost = Cost()
    for count, seconds in ((1, 0.002), (64, 0.004), (1, 0.002), (64, 0.004)):
        cost = cost.after(count, seconds)
    assert 0.004 / 64 < cost.a_row < 0.012 / 128


def test_a_deadline_that_has_passed_is_a_504_though_others_wait() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate) as batcher:
            batcher.admission.costs["double"] = Cost(1, 10.0)
            first = await held(batcher, gate, 0)
            queued = asyncio.create_task(batcher.run("double", rows(1, 2)))
            await asyncio.sleep(0)
            late = asyncio.create_task(batcher.run("double", rows(3), context=RequestContext(time.monotonic() - 1)))
            await asyncio.sleep(0)
            gate.open.set()
            with pytest.raises(DeadlinePassed):
                await late
            await asyncio.gather(first, queued)

    asyncio.run(go())


def test_a_batch_may_wait_however_slow_the_model() -> None:
    async def go() -> None:
        gate = Gate()
        with running(gate, queue_seconds=1e-6) as batcher:
            batcher.admission.costs["double"] = Cost(1, 10.0)
            first = await held(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", rows(i))) for i in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFull) as refused:
                await batcher.run("double", rows(7))
            assert refused.value.retry_after == 40
            gate.open.set()
            await asyncio.gather(first, *queued)

    asyncio.run(go())
