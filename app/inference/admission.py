"""Admission control: decide from the work ahead of a request if it can end in time. Knows no threads, HTTP or VAE.

A request is judged once, before its first call, by the calls that it plans. An admitted request is never refused
halfway, and ends before its deadline as long as calls take at most a quarter longer than estimated.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from app.inference.context import RequestContext
from app.inference.costs import Plan, PlannedCall, Size
from app.inference.errors import DEADLINE_MESSAGE, DeadlinePassed, QueueFull, TooLong, in_words
from app.inference.lane import MARGIN
from app.inference.queue import MAX_LARGE_SHARE, MIN_LARGE_SHARE, Queue

#: Seconds over which the demand of small requests is averaged: what was asked for so long ago counts a third.
DEMAND_SECONDS = 5.0
#: Seconds after which a request is judged by costs that are measured again.
UNMEASURED_SECONDS = 1.0
#: Number of plans whose size is cached.
MAX_SIZES = 1024


@dataclass(frozen=True)
class QueueLimits:
    """Limits of a queue."""

    rows: int  # of small requests that are queued
    seconds: float = math.inf  # that a small request may wait for others
    large_seconds: float = math.inf  # that a large request may wait for others
    others: bool = False  # True if other workers take requests too


class Admission:
    """Decides on requests. Its methods are called with the lock of the queue held.

    Args:
        on_stale: called after a refusal if calls are to be measured again; None if nobody can measure them.
    """

    def __init__(self, queue: Queue, limits: QueueLimits, on_stale: Callable[[], None] | None = None) -> None:
        self.queue = queue
        self._on_stale = on_stale
        self._limits = limits
        queue.small.max_wait = limits.seconds
        self._demand, self._demand_updated = 0.0, 0.0
        #: Seconds that the worker spends, at no request, to measure a call again; 0 most of the time.
        self.measuring = 0.0
        self._sizes: dict[Plan, Size] = {}  # by the costs of this version
        self._costs_version = -1

    @property
    def loaded(self) -> bool:
        """True if requests may have to be refused because of what is queued. Most of the time it is False."""
        small, limits = self.queue.small, self._limits
        if self.measuring:
            return True
        return self.queue.large_active or 8 * small.shared_seconds > limits.seconds or 8 * small.rows > limits.rows

    def admit(self, context: RequestContext, plan: Plan, now: float) -> None:
        """Admit a request with all of its calls. Raises as `check` does, and DeadlinePassed."""
        size = self.measure(plan)
        share = self._judge(plan, size, context.timeout, context.deadline - now, now)
        context.large = size.large
        self.queue.enter(context, size, now, share)

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
            if len(self._sizes) >= MAX_SIZES:
                self._sizes.clear()
            size = self._sizes[plan] = costs.size(plan)
        return size

    def seconds_ahead(self, now: float, *, large: bool) -> float:
        """Estimated seconds that a new request would wait for others."""
        queue = self.queue
        if large:
            return queue.small.shared_seconds + queue.large.seconds / self._available_share(now)
        return self._wait_of_small(queue.large_share)

    def _wait_of_small(self, large_share: float) -> float:
        """Estimated seconds that a small request waits for others, if large ones have this share."""
        queue, small = self.queue, self.queue.small
        work = small.shared_seconds + small.partial_seconds
        if not queue.large_active:
            return work
        return work / (1 - large_share) + queue.costs.slice_seconds + queue.overdue(large_share)

    def _judge(self, plan: Plan, size: Size, timeout: float, left: float, now: float) -> float:
        """Return the share that a large request needs. Raises as `check` does."""
        small = self.queue.small
        rows, seconds = small.rows + size.rows, MARGIN * (small.seconds + size.seconds)
        if not (size.large or self.loaded) and rows <= self._limits.rows and seconds <= left:
            return 0.0  # most requests
        try:
            self._ensure_possible(size, timeout)
            if left < 0:
                raise DeadlinePassed(DEADLINE_MESSAGE)
            left -= MARGIN * self.measuring
            if size.large:
                return self._judge_large(size.seconds, left, now)
            self._judge_small(size, left)
        except (QueueFull, TooLong) as refusal:
            if isinstance(refusal, QueueFull) and not size.large:
                self._add_demand(size.seconds, now)
            if self._on_stale is None:
                raise
            unmeasured = self.queue.costs.doubt(plan, now)
            if self.queue.costs.stale:
                self._on_stale()
            if unmeasured and isinstance(refusal, TooLong):
                # Without a new measurement, what was slow once, as at a busy start, would be refused for good.
                reason = "the time that this request takes is being measured again"
                raise QueueFull("unmeasured", reason, UNMEASURED_SECONDS) from refusal
            raise
        return 0.0

    def _ensure_possible(self, size: Size, timeout: float) -> None:
        """Raise TooLong unless a request could end before its deadline if no other large one were there."""
        needed = MARGIN * size.seconds
        if size.large:
            needed = needed / MAX_LARGE_SHARE + timeout - self.queue.large.time_left(timeout)
        if needed > timeout:
            raise TooLong(needed, timeout)

    def _judge_small(self, size: Size, left: float) -> None:
        queue, limits = self.queue, self._limits
        lane, share = queue.small, queue.small_share
        if lane.rows and lane.rows + size.rows > limits.rows:
            raise QueueFull("queue_rows", f"{lane.rows:,} rows are queued", lane.shared_seconds)
        ahead = MARGIN * self._wait_of_small(queue.large_share)
        # One request may always wait for a slice, however slow the model is.
        overdue = MARGIN * queue.overdue(queue.large_share)
        if ahead > max(limits.seconds, MARGIN * size.slice_seconds) and (
            lane.requests or overdue > MARGIN * queue.costs.slice_seconds
        ):
            raise QueueFull("queue_seconds", f"the work ahead takes {in_words(ahead)} s", ahead - limits.seconds)
        needed = MARGIN * (lane.seconds + size.seconds) / share + overdue
        if needed > left:
            raise QueueFull("deadline", f"with the work ahead this request takes {in_words(needed)} s", needed - left)
        if queue.large_active and needed > lane.time_left(left):
            wait = queue.large.seconds / queue.large_share
            raise QueueFull("deadline", "a large request may take the time that this one has", wait)

    def _judge_large(self, seconds: float, left: float, now: float) -> float:
        queue, limits = self.queue, self._limits
        lane, small = queue.large, queue.small
        available = self._available_share(now)
        ahead = MARGIN * lane.seconds / available
        if ahead > limits.large_seconds:
            wait = ahead - limits.large_seconds
            raise QueueFull(
                "large_queue_seconds",
                f"the large requests ahead take {in_words(ahead)} s",
                wait,
                elsewhere=limits.others,
            )
        before = MARGIN * small.seconds  # what was promised to small requests
        left = lane.time_left(left) - before
        work = MARGIN * (lane.seconds + seconds)
        if work > available * left:
            needed = work / available
            raise QueueFull(
                "deadline",
                f"with the work ahead this request takes {in_words(needed)} s",
                needed - left,
                elsewhere=limits.others,
            )
        share = work / left
        if queue.large_active and share > queue.large_share:
            self._ensure_small(share, now)
        return share

    def _ensure_small(self, share: float, now: float) -> None:
        """Raise QueueFull if small requests could not keep their limits where large ones have this share."""
        small, limits = self.queue.small, self._limits
        if small.oldest is None:
            return
        spare = limits.seconds - (now - small.oldest.admitted_at) - MARGIN * self._wait_of_small(share)
        works = MARGIN * (small.seconds / (1 - share) + self.queue.overdue(share))
        spare = min(spare, small.time_left(small.earliest_deadline(now) - now) - works)
        if spare < 0:
            raise QueueFull(
                "share", "small requests need the time that this request would take", -spare, elsewhere=limits.others
            )

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
