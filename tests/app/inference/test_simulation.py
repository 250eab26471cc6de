"""Properties of the queue and its admission, in virtual time."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.inference.admission import QueueLimits
from app.inference.costs import PlannedCall
from app.inference.errors import QueueFull, TooLong
from app.inference.lane import INTERRUPTIONS, MARGIN
from app.inference.queue import MAX_LARGE_SHARE
from tests.support.simulation import Arrival, Request, Simulation

CALLS = ("encode", "decode", "score", "descend", "judge", "typicality")
MAX_WORK = 65536


def free_energy(rows: int, draws: int = 1, refine: int = 0) -> tuple[PlannedCall, ...]:
    """The calls of a free energy."""
    pairs = rows * draws
    refined = [PlannedCall("score", pairs), PlannedCall("descend", rows, refine), PlannedCall("judge", rows, 8)]
    last = [PlannedCall("score", pairs), PlannedCall("typicality", rows)]
    return (PlannedCall("encode", rows), *(refined if refine else []), *last)


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlannedCall, ...]:
    """The calls of one request, within the limits of a request."""
    rows = draw(st.one_of(st.integers(1, 8), st.integers(1, 100), st.integers(1, 1024)))
    if draw(st.booleans()):
        return (PlannedCall(draw(st.sampled_from(["encode", "decode"])), rows),)
    draws = draw(st.one_of(st.just(1), st.integers(1, 64), st.integers(1, 5000)))
    refine = draw(st.one_of(st.just(0), st.integers(1, 5), st.integers(1, 100)))
    draws = max(1, min(draws, MAX_WORK // rows // (1 + refine)))
    if rows * draws * (1 + refine) > MAX_WORK:
        refine = 0
    return free_energy(rows, draws, refine)


@dataclass(frozen=True)
class Pattern:
    """How requests come: in what sizes, how fast, and with how much time."""

    chance: random.Random
    kinds: list[tuple[PlannedCall, ...]]
    count: int
    load: float  # work that comes, over what the worker can do
    burst: float  # probability that a request comes together with the one before
    tight: float  # probability of a timeout of a few times the price of the request, or of the work that came before
    leaving: float  # probability that a client leaves

    def arrivals(self, prices: dict[tuple[PlannedCall, ...], float]) -> list[Arrival]:
        """Requests in the order of their arrival, given the estimated seconds of each kind."""
        chance, time, arrivals, work = self.chance, 0.0, list[Arrival](), 0.0
        weights = [1 / (prices[kind] + 1e-3) for kind in self.kinds]
        for _ in range(self.count):
            plan = chance.choices(self.kinds, weights if chance.random() < 0.7 else None)[0]
            price = prices[plan]
            if chance.random() >= self.burst:
                time += chance.expovariate(self.load / price / (1 - self.burst))
            ahead = max(0.0, work - time)
            timeout = 60.0
            if chance.random() < self.tight:
                timeout = max(1e-3, min(60.0, (price + chance.choice([0, ahead])) * chance.uniform(1.2, 6)))
            leaves = chance.expovariate(1 / (price + ahead)) if chance.random() < self.leaving else None
            arrivals.append(Arrival(time, plan, timeout, leaves))
            work = max(work, time) + price
        return arrivals


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """Patterns of arrivals of up to six kinds of requests."""
    return Pattern(
        random.Random(draw(st.integers(0, 1 << 32))),
        draw(st.lists(plans(), min_size=1, max_size=6)),
        count=draw(st.integers(1, 120)),
        load=draw(st.sampled_from([0.5, 1, 3, 20])),
        burst=draw(st.sampled_from([0, 0.5, 0.95])),
        tight=draw(st.sampled_from([0, 0.1, 0.6, 1])),
        leaving=draw(st.sampled_from([0, 0, 0.2])),
    )


costs = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]), st.sampled_from([3e-6, 1e-4, 5e-4, 1e-3, 5e-3, 3e-2, 0.3])
        )
        for name in CALLS
    }
)
limits = st.builds(
    QueueLimits,
    rows=st.sampled_from([100, 1 << 14]),
    seconds=st.sampled_from([0.1, 1.0, 5.0]),
    large_seconds=st.sampled_from([1.0, 30.0]),
)


def check_refusal(simulation: Simulation, request: Request) -> None:
    """Check that the bound that a refusal names held, by the simulation's own books."""
    bounds, queue = simulation.limits, simulation.queue
    error, timeout = request.error, request.arrival.timeout
    slices = MARGIN * simulation.costs.slice_seconds
    if isinstance(error, TooLong):
        assert MARGIN * request.price / MAX_LARGE_SHARE + INTERRUPTIONS * slices > timeout
        return
    assert isinstance(error, QueueFull)
    ahead = dict.fromkeys((False, True), 0.0)
    for other in simulation.open.values():
        ahead[other.context.large] += other.seconds_left
    overheads = sum(simulation.costs[call].overhead for call in CALLS)
    overdue = MARGIN * queue.overdue(queue.large_share)
    small = MARGIN * (ahead[False] + overheads) / queue.small_share + slices + overdue
    large = MARGIN * ahead[True]
    # Rows of clients that have left are in the running batch only: a slice at most.
    match error.bound:
        case "queue_rows":
            assert queue.small.rows + max(rows for _, rows, _ in request.arrival.plan) > bounds.rows
        case "queue_seconds":
            assert small + slices / queue.small_share > bounds.seconds
        case "large_queue_seconds":
            assert large / 0.25 + slices > bounds.large_seconds
        case "deadline":
            least = min(queue.small_share, 0.25)
            own = MARGIN * request.price
            assert (small + large + own) / least + 2 * INTERRUPTIONS * slices > timeout
        case "share":
            assert queue.large_active
            assert ahead[False] + overdue > 0
    assert 1 <= error.retry_after <= 60


def check(simulation: Simulation) -> None:
    """Check what must hold after every run."""
    two_slices = 2 * max(simulation.longest, MARGIN * simulation.costs.slice_seconds)
    for request in simulation.requests:
        assert request.outcome in {"done", "left", "full", "too long"}, request
        if request.outcome == "done":
            assert request.rows == request.planned_rows
            assert request.ended <= request.arrival.time + request.arrival.timeout + 1e-9
            if not request.context.large:
                assert request.started - request.admitted <= simulation.limits.seconds + two_slices
        assert request.rows <= request.planned_rows
    for batch in simulation.batches:
        first = batch.slices[0].job.context
        if first.large:
            assert first is next(request.context for request in batch.requests if request.context.large)
    assert not simulation.open
    for lane in (simulation.queue.small, simulation.queue.large):
        assert lane.rows == 0
        assert lane.seconds == lane.shared_seconds == 0
        assert not lane.requests
        assert not any(lane.pending.values())
        assert not lane.jobs()


@given(costs, limits, patterns(), st.sampled_from([0.3, 1.0, 1.25]), st.booleans())
@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_admitted_ends_in_time_and_in_order(
    costs: dict[str, tuple[float, float]],
    limits: QueueLimits,
    pattern: Pattern,
    slowness: float,
    learn: bool,
) -> None:
    simulation = Simulation(
        costs, limits, duration=lambda estimated: slowness * estimated, learn=learn, on_refused=check_refusal
    )
    prices = {kind: simulation.admission.measure(kind).seconds for kind in pattern.kinds}
    simulation.run(pattern.arrivals(prices))
    check(simulation)


#: Overhead and seconds per row of the calls of a convolutional model on one core, and of a small one.
CONVOLUTIONAL = {
    "encode": (3e-4, 2e-4),
    "decode": (3e-4, 2e-4),
    "score": (5e-4, 5e-4),
    "descend": (2e-3, 1e-3),
    "judge": (1e-3, 1e-3),
    "typicality": (4e-4, 3e-4),
}
SMALL = dict.fromkeys(CALLS, (5e-05, 3e-06))
KINDS = {
    "1 x 1": free_energy(1),
    "1 x 16": free_energy(1, 16),
    "8 x 16": free_energy(8, 16),
    "64 x 1": free_energy(64),
    "64 x 64": free_energy(64, 64),
    "1,024 x 1": free_energy(1024),
    "4 x 16, refined": free_energy(4, 16, 20),
    "256 decodings": (PlannedCall("decode", 256),),
}


@pytest.mark.parametrize("model", [CONVOLUTIONAL, SMALL], ids=["convolutional", "small"])
@pytest.mark.parametrize("factor", [1, 4, 10])
@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)], ids=" and ".join)
def test_work_done_under_poisson_arrivals(model: dict[str, tuple[float, float]], factor: int, kinds: list[str]) -> None:
    chance = random.Random(f"{factor} {kinds}")
    simulation = Simulation(model, QueueLimits(1 << 14, 1.0, 30.0))
    prices = [simulation.admission.measure(KINDS[kind]).seconds for kind in kinds]
    # Each kind brings as much work as any other.
    rates = [factor / price / len(kinds) for price in prices]
    horizon = max(200 / sum(rates), 20 * max(prices) if len(kinds) > 1 else 0.0)
    arrivals, time = list[Arrival](), 0.0
    while (time := time + chance.expovariate(sum(rates))) < horizon or len(arrivals) < 200:
        arrivals.append(Arrival(time, KINDS[chance.choices(kinds, rates)[0]]))
    horizon = arrivals[-1].time
    simulation.run(arrivals)
    check(simulation)
    done = sum(r.price for r in simulation.requests if r.outcome == "done" and r.ended <= horizon + 1)
    offered = sum(r.price for r in simulation.requests)
    assert done >= 0.9 * min(offered, horizon)
