"""A lane of the queue: requests of one size, small or large, in the order in which they were admitted.

A lane counts the work that its requests will still bring, over all of their calls, and holds the jobs that are queued.
The oldest request goes first. Rows that it leaves free in a batch are filled from the next requests for the same call,
as long as that makes no older request late. Knows no threads, HTTP or VAE.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator

from app.inference.context import RequestContext
from app.inference.costs import Costs, Size
from app.inference.jobs import BatchSlice, Job

#: Factor on all estimates: a call may take a quarter longer than estimated before a promise is broken.
MARGIN = 1.25
#: Slices of the other lane that may run beyond its share: one is running, and a share is kept to within one.
INTERRUPTIONS = 2
#: Number of older requests whose deadlines are checked before a younger one fills a batch.
MAX_OLDER_REQUESTS = 512
#: Number of dropped jobs that keep their place; beyond it, and beyond the number of queued rows, all are removed.
MAX_DROPPED_JOBS = 256


class Lane:
    """Requests that are admitted and not over, and their queued jobs."""

    def __init__(self, costs: Costs) -> None:
        self.max_wait = math.inf  # seconds that a request may wait for others
        self.rows = 0  # that are queued and in no call yet
        self.seconds = 0.0  # estimated work of the requests, each computed alone; the running batch included
        self.shared_seconds = 0.0  # estimated work where rows of several requests share calls
        self.requests: dict[int, RequestContext] = {}  # by order
        self.pending: defaultdict[str, int] = defaultdict(int)  # rows that are queued or still to come, by call
        self._costs = costs
        self._jobs: dict[str, list[tuple[int, int, Job]]] = {}  # by call: heaps of (order of the request, index, job)
        self._earliest = math.inf  # no request that is not late has an earlier deadline
        self._running = 0.0, 0.0  # seconds and shared seconds of the running batch
        self._dropped = 0  # jobs dropped since all dropped jobs were removed
        self._index = 0

    # Requests.

    def enter(self, context: RequestContext, size: Size) -> None:
        """Count the work of a request, whose `order` is set."""
        context.planned, context.prices = size.planned.copy(), size.prices
        context.seconds, context.shared_seconds = size.seconds, size.shared_seconds
        for call, rows in size.planned.items():
            self.pending[call] += rows
        self.seconds += context.seconds
        self.shared_seconds += context.shared_seconds
        context.start_by = context.admitted_at + self.max_wait + MARGIN * self._costs.slice_seconds
        self.requests[context.order] = context
        self._earliest = min(self._earliest, context.deadline)

    def leave(self, context: RequestContext) -> None:
        """Forget a request; what it has in the running batch counts until that is finished."""
        if self.requests.pop(context.order, None) is None:
            return
        for call, rows in context.planned.items():
            if rows:
                self.pending[call] -= rows
        self._spend(context.seconds, context.shared_seconds)
        context.order, context.planned, context.prices = -1, {}, {}
        context.seconds = context.shared_seconds = 0.0

    def _spend(self, seconds: float, shared: float) -> None:
        self.seconds -= seconds
        self.shared_seconds -= shared
        if not self.requests and not any(self._running):
            self.seconds = self.shared_seconds = 0.0  # without the rounding errors of the sums
            self._earliest = math.inf

    @property
    def oldest(self) -> RequestContext | None:
        """The request that was admitted first."""
        return next(iter(self.requests.values()), None)

    @property
    def partial_seconds(self) -> float:
        """Estimated seconds that partly filled calls add to `shared_seconds`: one overhead of each pending call."""
        return sum([self._costs[call].seconds(0) for call, rows in self.pending.items() if rows])

    def earliest_deadline(self, now: float) -> float:
        """Earliest deadline of a request that is not late; inf if there is none."""
        deadlines = [context.deadline for context in self.requests.values() if context.deadline >= now]
        self._earliest = min(deadlines, default=math.inf)
        return self._earliest

    def can_spend(self, seconds: float, now: float) -> bool:
        """Return True if every request that is not late has this much time left before its deadline."""
        left = self.time_left(self._earliest - now)
        if left < seconds:  # the earliest deadline may have been that of a request that is over
            left = self.time_left(self.earliest_deadline(now) - now)
        return left >= seconds

    def slacks(self, now: float, share: float) -> Iterator[tuple[int, float]]:
        """Order of each request and the seconds that it can still be delayed, from the oldest to the youngest.

        Args:
            share: of the worker's time that the lane has.
        """
        seconds, shared = self._running
        for context in self.requests.values():
            wait = context.start_by - now - MARGIN * shared / share
            seconds += context.seconds
            shared += context.shared_seconds
            if context.deadline >= now:
                yield context.order, min(wait, self.time_left(context.deadline - now) - MARGIN * seconds / share)

    def time_left(self, seconds: float) -> float:
        """Seconds until a deadline, less what the other lane may take before its share evens out."""
        return seconds - INTERRUPTIONS * MARGIN * self._costs.slice_seconds

    # Jobs.

    def put(self, job: Job) -> None:
        """Queue a job of a request that has entered."""
        self._index += 1
        heapq.heappush(self._jobs.setdefault(job.call, []), (job.context.order, self._index, job))
        self.rows += job.rows

    def head(self, now: float, late: list[Job]) -> str | None:
        """The call that is next: that of the oldest request with a queued job. Late jobs are removed to `late`."""
        first: tuple[int, int, Job] | None = None
        for jobs in self._jobs.values():
            while jobs and self._is_done(jobs[0][2], now, late):
                heapq.heappop(jobs)
            if jobs and (first is None or jobs[0] < first):
                first = jobs[0]
        return first[2].call if first else None

    def take(self, call: str, now: float, share: float, late: list[Job]) -> list[BatchSlice]:
        """Remove a batch of this call: at most a slice, of the oldest requests that wait for it."""
        cost, jobs = self._costs[call], self._jobs[call]
        capacity, row_seconds = cost.slice_rows, cost.per_row * cost.scale
        slices: list[BatchSlice] = []
        fill = Fill(self, now, share)
        estimated = shared = 0.0
        while jobs and capacity:
            order, _, job = jobs[0]
            context, start = job.context, job.rows_taken
            if (job.done or context.deadline < now) and self._is_done(job, now, late):
                heapq.heappop(jobs)
                continue
            rows = min(job.rows - start, capacity)
            if slices and not (fill.free or fill.allows(order, rows * row_seconds)):
                break
            job.rows_taken = stop = start + rows
            capacity -= rows
            slices.append(BatchSlice(job, start, stop))
            if stop == job.rows:
                heapq.heappop(jobs)
            seconds, shared_seconds = self._begin(context, call, rows)
            estimated += seconds
            shared += shared_seconds
        self.rows -= cost.slice_rows - capacity
        self._running = estimated, shared
        return slices

    def _begin(self, context: RequestContext, call: str, rows: int) -> tuple[float, float]:
        """Move rows from what a request has planned to the running batch. Return their estimated seconds."""
        context.start_by = math.inf
        left = context.planned.get(call, 0)
        if not left:
            return 0.0, 0.0
        planned = min(rows, left)
        context.planned[call] = left - planned
        self.pending[call] -= planned
        price, shared_price = context.prices[call]
        seconds, shared = planned * price, planned * shared_price
        context.seconds -= seconds
        context.shared_seconds -= shared
        return seconds, shared

    def finish(self) -> None:
        """Subtract the estimated work of the running batch, which is finished."""
        running, self._running = self._running, (0.0, 0.0)
        self._spend(*running)

    def drop(self, job: Job) -> None:
        """Mark a job done, so that none of its remaining rows is computed."""
        if self._mark_done(job):
            # Removal from the middle of a heap is slow, so the job keeps its place until it comes first, or until too
            # many dropped jobs have gathered.
            self._dropped += 1
            if self._dropped > max(MAX_DROPPED_JOBS, self.rows):
                self._dropped = 0
                for call, jobs in self._jobs.items():
                    self._jobs[call] = [entry for entry in jobs if not entry[2].done]
                    heapq.heapify(self._jobs[call])

    def _mark_done(self, job: Job) -> bool:
        """Mark a job done and subtract its remaining rows. Return True if it still had rows queued."""
        if job.done:
            return False
        job.done = True
        if not job.remaining:
            return False
        self.rows -= job.remaining
        if not job.rows_taken:
            del job.take, job.put  # releases the arrays
        return True

    def _is_done(self, job: Job, now: float, late: list[Job]) -> bool:
        """Return True if a job is done. A job past its deadline is marked done and appended to `late`."""
        if not job.done and job.context.deadline < now:
            self._mark_done(job)
            late.append(job)
        return job.done

    def jobs(self) -> list[Job]:
        """All jobs with queued rows."""
        return [job for jobs in self._jobs.values() for _, _, job in jobs if not job.done]


class Fill:
    """How much the rows of younger requests may delay the older ones in one batch."""

    def __init__(self, lane: Lane, now: float, share: float) -> None:
        self._share = share
        self._seconds = 0.0  # that the filling rows take
        #: True if every request can wait for all others, as most of the time.
        self.free = lane.can_spend(MARGIN * lane.seconds / share, now) and (
            lane.oldest is None or lane.oldest.admitted_at + lane.max_wait - now >= MARGIN * lane.shared_seconds / share
        )
        self._slacks = lane.slacks(now, share)
        self._next: tuple[int, float] | None = None
        self._least = math.inf  # slack of the requests so far
        self._older = 0

    def allows(self, order: int, seconds: float) -> bool:
        """Add the rows of a request, which take this long, unless an older request could be late because of them."""
        if self.free:
            return True
        self._seconds += seconds
        while self._older < MAX_OLDER_REQUESTS:
            self._next = self._next or next(self._slacks, None)
            if self._next is None or self._next[0] >= order:
                return self._least >= MARGIN * self._seconds / self._share
            self._least = min(self._least, self._next[1])
            self._next = None
            self._older += 1
        return False
