"""Measurements: the capacity of a cell, points at multiples of it, and small requests beside large ones."""

import asyncio
import itertools
import math
import re
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import uvloop

from benchmarks.overload import cells
from benchmarks.overload.arrangements import Deployment
from benchmarks.overload.client import ClosedLoop, OpenLoop
from benchmarks.overload.outcomes import Figures, Observed, Outcomes, figures
from benchmarks.overload.watch import Watcher

T = TypeVar("T")
#: Least growth of the rate for which the number of clients is doubled once more, and their largest number.
LEAST_GROWTH, MAX_CLIENTS = 1.05, 1024
#: Seconds that a request of the search may take: large ones get no more clients, and none comes near its deadline.
MAX_WAIT_S = 15.0
#: Seconds and requests per client of a trial of the search for the capacity.
TRIAL_S, MIX_TRIAL_S, TRIAL_REQUESTS = 2.0, 8.0, 3
#: Requests that a point should have at capacity; of a mixture, those of the rarest kind.
POINT_REQUESTS, RAREST_REQUESTS = 50, 5
#: Least share of the requests for which the generator must not have been too slow, for the factor to count.
LEAST_SENT = 0.95
#: Clients of the large requests beside the small ones, the share of their capacity at which small ones arrive, and how
#: many of them there should be.
LARGE, LARGE_CLIENTS, SMALL, SMALL_SHARE, SMALL_REQUESTS = "64x64", 4, ("1x1", "1x16"), 0.1, 500
#: Least length of a slice, the unit of the time that a large request may delay a small one.
SLICE_S = 0.05


class NothingDone(Exception):
    """No request of a closed loop was done, so that a cell has no peak."""


@dataclass(frozen=True)
class Options:
    """Durations in seconds."""

    seconds: float  # least duration of a point
    max_seconds: float  # largest duration of a point, for cells whose requests take long
    limit: float  # of a client: a later answer is no work done
    connections: int


@dataclass(frozen=True)
class Peak:
    """The capacity of a cell: its closed loop with the highest rate."""

    cell: str
    clients: int
    figures: Figures
    costs: dict[str, float]  # seconds of the service per request, by kind
    later: float | None = None  # requests per second of the same loop after the points

    @property
    def rate(self) -> float:
        """Requests per second. Those of a mixture follow from its work: the few large ones that a loop had may be more
        or fewer than their share.
        """
        return capacity(self.cell, self.figures, self.costs)

    @property
    def work_rate(self) -> float:
        """Seconds of work per second, by the costs of the kinds: the mean of before and after the points."""
        before = self.figures.work_rate if self.cell == cells.MIX else 1.0
        return before if self.later is None else before * (1 + self.later / self.rate) / 2

    def seconds(self, options: Options) -> float:
        """Return the duration of a point."""
        return point_seconds(self.rate * rarest_share(self.cell, self.costs), self.cell == cells.MIX, options)


@dataclass(frozen=True)
class Point:
    """A cell at a multiple of its capacity."""

    cell: str
    wanted: float  # the factor of the command line
    factor: float  # the largest that the generator could offer, at most that
    offered: float  # requests per second
    figures: Figures
    kinds: dict[str, Figures] = field(default_factory=dict)  # of a mixture
    attempts: list[str] = field(default_factory=list)  # at larger factors, of which too little was sent


@dataclass(frozen=True)
class Beside:
    """Small requests alone, and beside large ones."""

    cell: str
    rate: float  # per second
    alone: Figures
    beside: Figures
    large: Figures
    slice_seconds: float


def capacity(cell: str, found: Figures, costs: Mapping[str, float]) -> float:
    """Return the requests per second of a closed loop."""
    if cell != cells.MIX:
        return found.rate
    return found.work_rate * sum(1 / cost for cost in costs.values()) / len(costs)


def rarest_share(cell: str, costs: Mapping[str, float]) -> float:
    """Return the share of the requests that are of the rarest kind."""
    return min(cells.mixture(costs).values()) if cell == cells.MIX else 1.0


def point_seconds(rate: float, mixed: bool, options: Options) -> float:
    """Return the duration in which enough requests are done at capacity, within the limits.

    Args:
        rate: requests per second of the rarest kind.
    """
    enough = RAREST_REQUESTS if mixed else POINT_REQUESTS
    return min(max(options.seconds, enough / rate), max(options.seconds, options.max_seconds))


class Bench:
    """Measurements of one deployment.

    Args:
        encoded: the bytes of each kind of request.
    """

    def __init__(self, deployment: Deployment, encoded: Mapping[str, bytes], options: Options) -> None:
        self._deployment = deployment
        self._encoded = encoded
        self._options = options

    def peak(self, cell: str, costs: Mapping[str, float], *, brief: bool = False) -> Peak:
        """Measure the capacity of a cell: double the clients until the rate no longer grows, or requests are refused.

        Args:
            costs: seconds per request of the kinds of a mixture.
            brief: do with the longest trial, where only the cost is needed.
        """
        clients = cells.first_clients(cell)
        if self._deployment.models > 1:
            clients = max(clients, 2 * self._deployment.models)  # one each would leave some processes idle by chance
        seconds = MIX_TRIAL_S if cell == cells.MIX else TRIAL_S
        self._closed(cell, costs, 1 if clients < 8 else clients, TRIAL_S)  # warms up
        best, chosen = self._closed(cell, costs, clients, seconds), clients
        while best.refused and chosen > 1:
            chosen //= 2
            best = self._closed(cell, costs, chosen, seconds)
        while not best.refused and 2 * chosen <= min(MAX_CLIENTS, MAX_WAIT_S * best.rate):
            seconds = max(seconds, min(TRIAL_REQUESTS * 2 * chosen / best.rate, self._options.max_seconds / 4))
            trial = self._closed(cell, costs, 2 * chosen, seconds)
            if trial.refused or capacity(cell, trial, costs) < LEAST_GROWTH * capacity(cell, best, costs):
                break
            best, chosen = trial, 2 * chosen
        found = best
        while not brief:
            own = dict(costs) if cell == cells.MIX else {cell: 1 / best.rate}
            found = self._closed(cell, costs, chosen, Peak(cell, chosen, best, own).seconds(self._options))
            if not found.refused or chosen == 1:
                break
            chosen //= 2
        return Peak(cell, chosen, found, dict(costs) if cell == cells.MIX else {cell: 1 / found.rate})

    def repeat(self, peak: Peak) -> Peak:
        """Return the peak with the rate of half as long a loop now: the rate of a machine that others use drifts."""
        found = self._closed(peak.cell, peak.costs, peak.clients, peak.seconds(self._options) / 2)
        return replace(peak, later=capacity(peak.cell, found, peak.costs))

    def point(self, peak: Peak, wanted: float) -> Point:
        """Offer a multiple of the capacity; less, if the generator cannot send that."""
        factor, attempts = wanted, list[str]()
        while True:
            point = self._open(peak, factor, wanted)
            share = point.figures.in_time_share
            if share >= LEAST_SENT or factor <= 1:
                return replace(point, attempts=attempts)
            attempts.append(f"factor {factor:g}: the generator sent {share:.0%} of {point.figures.requests:,} requests")
            factor = max(1.0, math.floor(10 * factor * min(share, LEAST_SENT)) / 10)

    def beside(self, small: Peak) -> Beside:
        """Measure small requests at a low rate alone, and beside clients of large ones."""
        rate = SMALL_SHARE * small.rate
        least = max(self._options.seconds, SMALL_REQUESTS / rate)
        seconds = min(least, max(self._options.seconds, self._options.max_seconds))
        alone, _ = self._run(lambda: self._arrivals(small.cell, small.costs, rate, seconds))

        async def both() -> tuple[Outcomes, Outcomes]:
            large = ClosedLoop(self._deployment.port, self._encoded)
            running = asyncio.create_task(large.run(LARGE_CLIENTS, math.inf, itertools.repeat(LARGE)))
            await asyncio.sleep(min(10.0, seconds / 4))
            found = await self._arrivals(small.cell, small.costs, rate, seconds)
            large.stopping = True
            return found, await running

        before = call_times(self._deployment.metrics_port)
        self._closed(LARGE, {}, 1, TRIAL_S)
        longest = longest_call(before, call_times(self._deployment.metrics_port))
        (outcomes, large), _ = self._run(both)
        return Beside(
            small.cell,
            rate,
            figures(alone, small.costs, seconds=seconds),
            figures(outcomes, small.costs, seconds=seconds),
            figures(large, {}, seconds=seconds),
            max(SLICE_S, longest),
        )

    def _kinds(self, cell: str, costs: Mapping[str, float]) -> Iterator[str]:
        if cell != cells.MIX:
            return itertools.repeat(cell)
        return cells.endless(cells.mixture(costs), math.ceil(2 / rarest_share(cell, costs)))

    def _closed(self, cell: str, costs: Mapping[str, float], clients: int, seconds: float) -> Figures:
        loop = lambda: ClosedLoop(self._deployment.port, self._encoded).run(clients, seconds, self._kinds(cell, costs))  # noqa: E731
        outcomes, observed = self._run(loop)
        found = figures(outcomes, costs, observed=observed)
        if not found.done:
            raise NothingDone(
                f"{clients} clients got no answer with 200; of {found.requests} requests {found.refused} "
                f"came to 429, {found.too_large} to 413, {found.expired} to 504, {found.other} to another status"
            )
        return found

    async def _arrivals(self, cell: str, costs: Mapping[str, float], rate: float, seconds: float) -> Outcomes:
        times = cells.poisson(rate, seconds, seed=0)
        kinds = iter(cells.order(cells.mixture(costs), len(times), 0)) if cell == cells.MIX else itertools.repeat(cell)
        return await OpenLoop(self._deployment.port, self._encoded, self._options.connections).run(times, kinds)

    def _open(self, peak: Peak, factor: float, wanted: float) -> Point:
        rate, seconds, limit = factor * peak.rate, peak.seconds(self._options), self._options.limit
        outcomes, observed = self._run(lambda: self._arrivals(peak.cell, peak.costs, rate, seconds))
        found = figures(outcomes, peak.costs, seconds=seconds, limit=limit, observed=observed)
        kinds = {}
        if peak.cell == cells.MIX:
            for kind in peak.costs:
                own = figures(outcomes, peak.costs, seconds=seconds, limit=limit, kind=kind)
                kinds[kind] = replace(own, elapsed=found.elapsed)
        return Point(peak.cell, wanted, factor, rate, found, kinds)

    def _run(self, load: Callable[[], Awaitable[T]]) -> tuple[T, Observed]:
        """Run a load on a loop of its own while the service is observed."""

        async def run() -> tuple[T, Observed]:
            watcher = Watcher(self._deployment)
            watching = asyncio.create_task(watcher.run())
            try:
                found = await load()
            finally:
                watching.cancel()
            return found, await watcher.end()

        return uvloop.run(run())


def call_times(port: int | None) -> dict[str, tuple[float, float]]:
    """Return the number and the seconds of all model calls of a service, by call; empty without its metrics."""
    if port is None:
        return {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    numbers = dict(re.findall(r'^vae_batch_rows_count\{call="([^"]+)"\} (\S+)$', text, re.MULTILINE))
    seconds = dict(re.findall(r'^vae_model_seconds_total\{call="([^"]+)"\} (\S+)$', text, re.MULTILINE))
    return {call: (float(numbers.get(call, 0)), float(total)) for call, total in seconds.items()}


def longest_call(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> float:
    """Return the mean seconds of the call that took longest between two scrapes.

    >>> longest_call({"score": (10, 1.0)}, {"score": (20, 3.0), "encode": (5, 0.05)})
    0.2
    """
    means = [0.0]
    for call, (number, seconds) in after.items():
        earlier = before.get(call, (0.0, 0.0))
        if number > earlier[0]:
            means.append((seconds - earlier[1]) / (number - earlier[0]))
    return max(means)
