"""Admission control: decide from the work ahead of a request if it can end in time. Knows no threads, HTTP or VAE.

A request is judged once, before its first call, by the calls that it plans. An admitted request is never refused
halfway, and ends before its deadline as long as calls take at most a quarter longer than estimated.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

from app.inference.context import RequestContext
from app.inference.costs import Plan, PlannedCall
from app.inference.errors import DEADLINE_MESSAGE, DeadlinePassed, QueueFull, TooLong
from app.inference.lane import MARGIN
from app.inference.queue import MAX_LARGE_SHARE, MIN_LARGE_SHARE, Queue

#: Seconds over which the demand of small requests is averaged: what was asked for so long ago counts a third.
DEMAND_SECONDS = 5.0


@dataclass(frozen=True)
class QueueLimits:
    """Limits of a queue."""

    rows: int  # of small requests that are queued
    seconds: float = math.inf  # that a small request may wait for others
    large_seconds: float = math.inf  # that a large request may wait for others


class Size(NamedTuple):
    """Estimated work of a request."""

    rows: int  # of its calls, the greatest number
    seconds: float
    large: bool  # more than a batch of work


class Admission:
    """Decides on requests. Its methods are called with the lock of the queue held."""

    def __init__(self, queue: Queue, limits: QueueLimits) -> None:
        self.queue = queue
        self._limits = limits
        self._demand, self._demand_updated = 0.0, 0.0
        self._sizes: dict[Plan, Size] = {}  # by the costs of this version
        self._costs_version = -1

    @property
    def loaded(self) -> bool:
        """True if requests may be refused for others: before that, it is not worth looking at an unread one."""
        small, limits = self.queue.small, self._limits
        return self.queue.large_active or 4 * small.shared_seconds > limits.seconds or 4 * small.rows > limits.rows

    def admit(self, context: RequestContext, plan: Plan, now: float) -> None:
        """Admit a request with all of its calls. Raises as `check` does, and DeadlinePassed."""
        if context.deadline < now:
            raise DeadlinePassed(DEADLINE_MESSAGE)
        size = self.measure(plan)
        share = self._judge(plan, size, context.timeout, context.deadline - now, now)
        context.large = size.large
        self.queue.enter(context, plan, now, share)

    def leave(self, context: RequestContext) -> None:
        """Forget a request that is over, in whatever way."""
        self.queue.leave(context)

    def check(self, fewest: Plan, most: Plan, timeout: float, now: float) -> None:
        """Raise an error if a request would be refused, however many rows its unread body turns out to have.

        Args:
            fewest, most: the calls that it plans if it has as few, and as many, rows as possible.
            timeout: seconds from when the body has arrived to the deadline.

        Raises:
            TooLong: it could not end before its deadline even if no other request were there.
            QueueFull: too much work is ahead of it.
        """
        size = self.measure(fewest)
        if size.large == self.measure(most).large:
            self._judge(fewest, size, timeout, timeout, now)

    def measure(self, plan: Plan) -> Size:
        """Estimate the work of a request."""
        costs = self.queue.costs
        if self._costs_version != costs.version:
            self._costs_version = costs.version
            self._sizes.clear()
        size = self._sizes.get(plan)
        if size is None:
            size = self._sizes[plan] = self._measure(plan)
        return size

    def _measure(self, plan: Plan) -> Size:
        costs, seconds, batch, rows = self.queue.costs, 0.0, {}, 0
        for call in plan:
            cost = costs[call.call]
            seconds += cost.price(call.rows) * call.times
            batch[call.call] = cost.slice_seconds
            rows = max(rows, call.rows)
        # A tolerance for the rounding errors of the sums.
        return Size(rows, seconds, seconds > sum(batch.values()) * (1 + 1e-9))

    def seconds_ahead(self, now: float, *, large: bool) -> float:
        """Estimated seconds that a new request would wait for others."""
        queue = self.queue
        small = queue.small.shared_seconds + queue.small.partial_seconds
        if large:
            return small + queue.large.seconds / self._available_share(now)
        return small / queue.small_share + (queue.costs.slice_seconds if queue.large_active else 0.0)

    def _judge(self, plan: Plan, size: Size, timeout: float, left: float, now: float) -> float:
        """Return the share that a large request needs. Raises as `check` does."""
        try:
            if size.large:
                return self._judge_large(size.seconds, timeout, left, now)
            self._judge_small(size, timeout, left)
        except (QueueFull, TooLong):
            if not size.large:
                self._add_demand(size.seconds, now)
            self.queue.costs.relax(plan, now)
            raise
        return 0.0

    def _judge_small(self, size: Size, timeout: float, left: float) -> None:
        queue, limits = self.queue, self._limits
        lane, share = queue.small, queue.small_share
        if (alone := MARGIN * size.seconds) > timeout:
            raise TooLong(alone, timeout)
        if lane.rows and lane.rows + size.rows > limits.rows:
            raise QueueFull("queue_rows", f"{lane.rows:,} rows are queued", lane.shared_seconds)
        interruption = MARGIN * queue.costs.slice_seconds if queue.large_active else 0.0
        if lane.requests:
            ahead = MARGIN * (lane.shared_seconds + lane.partial_seconds) / share + interruption
            if ahead > limits.seconds:
                raise QueueFull("queue_seconds", f"the work ahead takes {ahead:.2g} s", ahead - limits.seconds)
        needed = MARGIN * (lane.seconds + size.seconds) / share
        if queue.large_active:
            left = lane.time_left(left)
        if needed > left:
            raise QueueFull("deadline", f"with the work ahead this request takes {needed:.2g} s", needed - left)

    def _judge_large(self, seconds: float, timeout: float, left: float, now: float) -> float:
        queue, limits = self.queue, self._limits
        lane, small = queue.large, queue.small
        alone = MARGIN * seconds / MAX_LARGE_SHARE
        if alone > lane.time_left(timeout):
            raise TooLong(alone + timeout - lane.time_left(timeout), timeout)
        available = self._available_share(now)
        ahead = MARGIN * lane.seconds / available
        if ahead > limits.large_seconds:
            wait = ahead - limits.large_seconds
            raise QueueFull("large_queue_seconds", f"the large requests ahead take {ahead:.2g} s", wait)
        before = MARGIN * small.seconds  # what was promised to small requests
        left = lane.time_left(left) - before
        work = MARGIN * (lane.seconds + seconds)
        if work > available * left:
            needed = work / available
            raise QueueFull("deadline", f"with the work ahead this request takes {needed:.2g} s", needed - left)
        share = work / left
        if queue.large_active and share > queue.large_share:
            self._ensure_small(share, now)
        return share

    def _ensure_small(self, share: float, now: float) -> None:
        """Raise QueueFull if small requests could not keep their limits where large ones have this share."""
        small, limits = self.queue.small, self._limits
        if small.oldest is None:
            return
        interruption = MARGIN * self.queue.costs.slice_seconds
        waits = MARGIN * (small.shared_seconds + small.partial_seconds) / (1 - share) + interruption
        spare = limits.seconds - (now - small.oldest.admitted_at) - waits
        works = MARGIN * small.seconds / (1 - share)
        spare = min(spare, small.time_left(small.earliest_deadline(now) - now) - works)
        if spare < 0:
            raise QueueFull("share", "small requests need the time that this request would take", -spare)

    def finish(self, seconds: float, now: float, *, large: bool) -> None:
        """Count the seconds of a batch that has been computed."""
        if not large:
            self._add_demand(seconds, now)

    def _add_demand(self, seconds: float, now: float) -> None:
        self._demand = self._demand * math.exp((self._demand_updated - now) / DEMAND_SECONDS) + seconds
        self._demand_updated = now

    def _available_share(self, now: float) -> float:
        """Share of the worker that large requests may be guaranteed beside the small ones of late."""
        demand = self._demand * math.exp((self._demand_updated - now) / DEMAND_SECONDS) / DEMAND_SECONDS
        return max(MIN_LARGE_SHARE, min(MAX_LARGE_SHARE, 1 - MARGIN * demand))


@functools.lru_cache(maxsize=1024)
def one_call(call: str, rows: int) -> Plan:
    """The plan of a request that makes one call."""
    return (PlannedCall(call, rows),)
