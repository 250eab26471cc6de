"""Admission: what is refused, by which limit, and when it could be taken. `test_simulation` has its promises."""

import asyncio
import math
import re
import threading
import time

import pytest

from app.inference.admission import Admission, QueueLimits, one_call
from app.inference.context import RequestContext
from app.inference.costs import Costs, Plan, PlannedCall
from app.inference.errors import DeadlinePassed, QueueFull, TooLong
from app.inference.queue import Queue
from tests.support.worker import GatedCall, column, occupy, running_batcher


def admission(limits: QueueLimits | None = None, per_row: float = 1e-3) -> Admission:
    """An admission to an empty queue whose calls take this many seconds a row, in batches of 64 and slices of 38."""
    costs = Costs(64)
    for call in ("encode", "score"):
        costs.measured(call, 0.0, per_row)
    return Admission(Queue(costs), limits or QueueLimits(100_000, 1.0, 30.0))


def admit(admission: Admission, rows: int, timeout: float = 60.0, draws: int = 0) -> RequestContext:
    """Admit a request at time 0."""
    plan = (PlannedCall("encode", rows), *((PlannedCall("score", rows * draws),) if draws else ()))
    context = RequestContext(timeout=timeout, deadline=timeout)
    admission.admit(context, plan, 0.0)
    return context


def test_requests_of_up_to_a_batch_of_work_are_small() -> None:
    a = admission()
    assert [admit(a, rows).large for rows in (1, 38, 39)] == [False, False, True]
    assert not admit(a, 1, draws=38).large
    assert admit(a, 1, draws=100).large


def test_small_requests_wait_no_longer_than_the_limit() -> None:
    a = admission(QueueLimits(100_000, 0.5))
    for _ in range(11):
        admit(a, 38)
    with pytest.raises(QueueFull, match=r"the work ahead takes 0\.52 s; retry after 1 s") as refused:
        admit(a, 38)
    assert refused.value.bound == "queue_seconds"
    assert admit(a, 39).large, "large requests have a limit of their own"


def test_small_requests_behind_a_large_one_have_three_quarters_of_the_worker() -> None:
    a = admission(QueueLimits(100_000, 0.5))
    admit(a, 10_000)
    # Small requests have three quarters of 0.5 s less a slice, and calls may take a quarter longer than estimated.
    for _ in range(math.floor((0.5 - 1.25 * 0.038) * 0.75 / 1.25 / 0.038) + 1):
        admit(a, 38)
    with pytest.raises(QueueFull):
        admit(a, 38)


def test_what_an_idle_service_cannot_do_in_time_is_too_long() -> None:
    a = admission()
    with pytest.raises(TooLong, match=r"up to an estimated 0\.04[78] s even without.* has 0\.04 s.*X-Request-Timeout"):
        admit(a, 38, timeout=0.04)
    with pytest.raises(TooLong, match=re.escape("up to an estimated 139 s even without others, and it has 60 s")):
        admit(a, 100_000)
    admit(a, 1)
    with pytest.raises(TooLong):  # whatever else is queued
        admit(a, 100_000)


def test_a_large_request_is_refused_if_it_cannot_end_in_time_behind_the_others() -> None:
    a = admission()
    admit(a, 20_000)
    with pytest.raises(QueueFull, match="with the work ahead this request takes 33 s") as refused:
        admit(a, 4_000, timeout=20)
    assert refused.value.bound == "deadline"
    assert refused.value.retry_after == 14
    admit(a, 4_000, timeout=60)


def test_large_requests_wait_no_longer_than_the_limit() -> None:
    a = admission(QueueLimits(100_000, 1.0, 5.0))
    admit(a, 4_000)
    with pytest.raises(QueueFull, match=r"the large requests ahead take 5\.6 s; retry after 1 s") as refused:
        admit(a, 100)
    assert refused.value.bound == "large_queue_seconds"
    assert not admit(a, 1).large


@pytest.mark.parametrize("others", [False, True])
def test_only_a_large_request_may_be_done_sooner_by_another_worker(others: bool) -> None:
    a = admission(QueueLimits(100_000, 1.0, 30.0, others))
    admit(a, 20_000)
    with pytest.raises(QueueFull) as refused:
        admit(a, 4_000, timeout=20.0)
    assert (refused.value.bound, refused.value.elsewhere) == ("deadline", others)
    admit(a, 8_000)
    with pytest.raises(QueueFull) as refused:
        admit(a, 1_000)
    assert (refused.value.bound, refused.value.elsewhere) == ("large_queue_seconds", others)

    def fill() -> None:
        for _ in range(1000):
            admit(a, 10)

    with pytest.raises(QueueFull) as refused:
        fill()
    assert not refused.value.elsewhere


def test_the_queued_rows_of_small_requests_are_limited() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, limits=QueueLimits(5)) as batcher:
            first = await occupy(batcher, gate, 0)
            queued = [asyncio.create_task(batcher.run("double", column(0, 1))) for _ in range(2)]
            await asyncio.sleep(0)
            assert batcher.waiting == 4
            with pytest.raises(QueueFull, match="4 rows are queued") as refused:
                await batcher.run("double", column(1, 2))
            assert refused.value.retry_after >= 1
            gate.release.set()
            await asyncio.gather(first, *queued)
            assert batcher.waiting == 0

    asyncio.run(go())


def test_an_admitted_request_is_not_refused_halfway() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate, limits=QueueLimits(2)) as batcher:
            context = RequestContext()
            with batcher.admitted(context, (PlannedCall("double", 1, 2),)):
                await batcher.run("double", column(1), context=context)
                first = await occupy(batcher, gate, 0)
                queued = [asyncio.create_task(batcher.run("double", column(i))) for i in range(2)]
                await asyncio.sleep(0)
                with pytest.raises(QueueFull):
                    await batcher.run("double", column(6))
                second = asyncio.create_task(batcher.run("double", column(7), context=context))
                await asyncio.sleep(0)
                assert batcher.waiting == 3
                gate.release.set()
                assert (await second)[0] == column(14)
                await asyncio.gather(first, *queued)

    asyncio.run(go())


def test_the_work_of_all_calls_counts_from_the_start_and_until_a_request_is_over() -> None:
    async def go() -> None:
        gate = GatedCall()
        with running_batcher(gate) as batcher:
            batcher.costs.measured("double", 0.0, 0.01)
            batcher.costs.measured("negate", 0.0, 0.01)

            async def request(first: float) -> None:
                context = RequestContext()
                with batcher.admitted(context, (PlannedCall("double", 1), PlannedCall("negate", 2))):
                    await batcher.run("double", column(first), context=context)
                    await batcher.run("negate", column(first, first), context=context)

            first = await occupy(batcher, gate, 0)
            admitted = [asyncio.create_task(request(i)) for i in range(2)]
            await asyncio.sleep(0)
            assert batcher.seconds_ahead(large=False) == pytest.approx(0.07)
            admitted[0].cancel()
            await asyncio.sleep(0)
            assert batcher.seconds_ahead(large=False) == pytest.approx(0.04)
            gate.release.set()
            await asyncio.gather(first, admitted[1])
            while batcher.seconds_ahead(large=False):
                await asyncio.sleep(0.001)

    asyncio.run(go())


def test_a_deadline_that_has_passed_is_not_a_full_queue() -> None:
    async def go() -> None:
        with running_batcher(GatedCall()) as batcher, pytest.raises(DeadlinePassed):
            await batcher.run("double", column(3), context=RequestContext(deadline=time.monotonic() - 1))

    asyncio.run(go())


def test_an_unread_request_is_refused_only_if_no_number_of_rows_could_be_taken() -> None:
    a = admission(QueueLimits(100_000, 0.1, 30.0))
    for _ in range(3):
        admit(a, 38)

    def encode(rows: int) -> Plan:
        return (PlannedCall("encode", rows),)

    with pytest.raises(QueueFull):
        a.check(encode(1), encode(38), 60.0, 0.0)
    a.check(encode(1), encode(39), 60.0, 0.0)  # a large one could be taken
    with pytest.raises(TooLong):
        a.check(encode(100_000), encode(100_000), 60.0, 0.0)


def test_calls_that_were_slow_once_are_measured_again() -> None:
    async def go() -> None:
        measured: list[str] = []

        def measure(call: str) -> tuple[float, float]:
            measured.append(call)
            return 0.0, 1e-3

        def context() -> RequestContext:
            return RequestContext(timeout=1.0, deadline=time.monotonic() + 1.0)

        with running_batcher(GatedCall(), measure=measure) as batcher:
            plan = (*one_call("double", 1), *one_call("negate", 1))
            for call in ("double", "negate"):
                batcher.costs.measured(call, 0.0, 100.0)  # the process was held up
            # Nothing is known any more, so it may be taken a moment later.
            with pytest.raises(QueueFull, match="measured again; retry after 1 s") as refusal:
                batcher.check(plan, plan, 1.0)
            assert refusal.value.bound == "unmeasured"
            while len(measured) < 2 or batcher.costs["negate"].seconds(1) > 1:
                await asyncio.sleep(0.001)
            with batcher.admitted(context(), plan):
                await batcher.run("double", column(1), context=context())
            batcher.costs.measured("double", 0.0, 100.0, now=time.monotonic())
            for _ in range(10):
                with pytest.raises(TooLong):
                    await batcher.run("double", column(1), context=context())
            assert measured == ["double", "negate"], "not so soon again"

    asyncio.run(go())


def test_a_measurement_counts_as_work_ahead() -> None:
    async def go() -> None:
        measuring, done = threading.Event(), threading.Event()

        def measure(call: str) -> tuple[float, float]:
            measuring.set()
            assert done.wait(10)
            return 0.0, 1e-3

        with running_batcher(GatedCall(), measure=measure) as batcher:
            batcher.costs.measured("negate", 0.0, 0.02)
            batcher.costs.measured("double", 0.0, 1e-3, now=time.monotonic())
            slow = one_call("negate", 1)
            with pytest.raises(QueueFull):
                batcher.check(slow, slow, 0.001)
            await asyncio.to_thread(measuring.wait, 10)
            assert batcher.loaded
            soon, later = one_call("double", 1), one_call("double", 2)
            with pytest.raises(QueueFull, match="with the work ahead") as refusal:
                batcher.check(soon, soon, 0.1)
            assert refusal.value.bound == "deadline"
            batcher.check(later, later, 1.0)
            done.set()
            while batcher.loaded:
                await asyncio.sleep(0.001)
            batcher.check(soon, soon, 0.1)

    asyncio.run(go())


def test_calls_are_not_measured_while_a_request_is_there() -> None:
    async def go() -> None:
        measured: list[str] = []

        def measure(call: str) -> tuple[float, float]:
            measured.append(call)
            return 0.0, 1e-3

        with running_batcher(GatedCall(), measure=measure) as batcher:
            batcher.costs.measured("negate", 0.0, 100.0)
            context, plan = RequestContext(), one_call("double", 1)
            with batcher.admitted(context, plan):
                with pytest.raises(QueueFull):
                    batcher.check(one_call("negate", 1), one_call("negate", 1), 1.0)
                await batcher.run("double", column(1), context=context)
                await asyncio.sleep(0.05)
                assert not measured
            while not measured:
                await asyncio.sleep(0.001)

    asyncio.run(go())


def test_one_slow_call_changes_an_estimate_by_a_third_at_most() -> None:
    a = admission()
    costs = a.queue.costs
    for _ in range(50):
        costs.record("encode", 10, 0.01, 0.0)
    costs.record("encode", 10, 100.0, 0.0)
    assert costs["encode"].seconds(10) == pytest.approx(0.013, rel=0.02)
