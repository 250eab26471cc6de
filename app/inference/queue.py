"""Queue of admitted requests in two lanes, and the choice of rows for the next model call.

Small requests wait for small ones, and for one slice of a large request at a time. Large requests are computed one
after the other, on the time that small ones leave and on a share of the worker that is guaranteed: at least a quarter,
and more while an admitted request needs it to meet its deadline. Knows no threads, HTTP or VAE.
"""

from itertools import count

from app.inference.context import RequestContext
from app.inference.costs import SLICE_SECONDS, Costs, Size
from app.inference.jobs import BatchSlice, Job
from app.inference.lane import MARGIN, Lane

#: Least and greatest share of the worker's time that large requests are guaranteed while small ones wait.
MIN_LARGE_SHARE, MAX_LARGE_SHARE = 0.25, 0.9


class Queue:
    """Admitted requests and their jobs. The times are those of one clock that the caller reads."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.small, self.large = Lane(costs), Lane(costs)
        #: Share of the worker's time that large requests have while small ones wait.
        self.large_share = MIN_LARGE_SHARE
        self.departures = 0  # finished batches, and requests that are over
        self._small_seconds = 0.0  # that small requests may take before the next slice of a large one; below 0: a debt
        self._running: Lane | None = None  # the lane of the batch that is computed
        self._share_updated = 0.0
        self._orders = count()

    @property
    def rows(self) -> int:
        """Number of rows that are queued and in no call yet."""
        return self.small.rows + self.large.rows

    @property
    def deserted(self) -> bool:
        """True if no request is admitted."""
        return not (self.small.requests or self.large.requests)

    @property
    def large_active(self) -> bool:
        """True if a large request is admitted, or its last slice is still computed."""
        return bool(self.large.requests) or self._running is self.large

    @property
    def small_share(self) -> float:
        """Share of the worker's time that small requests have now."""
        return 1 - self.large_share if self.large_active else 1.0

    def overdue(self, share: float) -> float:
        """Seconds that large requests may take first if this is their share: small ones have had more than theirs."""
        return max(0.0, -self._small_seconds) * share / (1 - share) if self.large_active else 0.0

    def lane_of(self, context: RequestContext) -> Lane:
        """The lane of an admitted request."""
        return self.large if context.large else self.small

    def enter(self, context: RequestContext, size: Size, now: float, share: float = 0.0) -> None:
        """Count an admitted request, large or small as its context says.

        Args:
            share: that large requests need from now on.
        """
        context.order, context.admitted_at = next(self._orders), now
        self.costs.use(size.planned)
        if context.large:
            if not self.large_active:  # small requests were promised to wait for each other only
                self._small_seconds = MARGIN * self.small.seconds
                self.large_share = MIN_LARGE_SHARE
            self.large_share = max(self.large_share, share)
        self.lane_of(context).enter(context, size)

    def leave(self, context: RequestContext) -> None:
        """Forget a request that is over; nothing happens to one that was not admitted."""
        if context.admitted:
            self.lane_of(context).leave(context)
            self.departures += 1

    def put(self, job: Job) -> None:
        """Queue a job of an admitted request."""
        self.lane_of(job.context).put(job)

    def take(self, now: float) -> tuple[list[BatchSlice], list[Job]]:
        """Remove the next batch, all of one call, and the jobs whose deadline is before `now`."""
        late: list[Job] = []
        small_call, large_call = self.small.head(now, late), self.large.head(now, late)
        if small_call and (not large_call or self._small_seconds > 0):
            self._running, call, share = self.small, small_call, self.small_share
        elif large_call:
            self._running, call, share = self.large, large_call, self.large_share
        else:
            return [], late
        return self._running.take(call, now, share, late), late

    def finish(self, seconds: float, now: float) -> None:
        """Account for the batch that was taken last, which took `seconds`."""
        lane, self._running = self._running, None
        if lane is None:
            return
        lane.finish()
        self.departures += 1
        if lane is self.large:
            ratio = (1 - self.large_share) / self.large_share
            self._small_seconds = min(self._small_seconds, 0.0) + seconds * ratio
            if now >= self._share_updated + SLICE_SECONDS:
                self._share_updated = now
                self._lower_large_share(now)
        elif self.large.requests:
            self._small_seconds -= seconds
        else:
            self._small_seconds = 0.0

    def _lower_large_share(self, now: float) -> None:
        """Give back what large requests no longer need to meet their deadlines."""
        if self.large_share > MIN_LARGE_SHARE:
            self.large_share = max(MIN_LARGE_SHARE, min(self.large_share, self._needed_share(now)))

    def _needed_share(self, now: float) -> float:
        seconds = needed = 0.0
        for context in self.large.requests.values():
            seconds += context.seconds
            left = self.large.time_left(context.deadline - now)
            if context.deadline >= now:
                needed = max(needed, MARGIN * seconds / left if left > 0 else 1.0)
        return needed

    def drop(self, job: Job) -> None:
        """Mark a job done, so that none of its remaining rows is computed."""
        self.lane_of(job.context).drop(job)

    def jobs(self) -> list[Job]:
        """All jobs with queued rows."""
        return [*self.small.jobs(), *self.large.jobs()]

    def clear(self) -> list[Job]:
        """Drop all jobs. Return those that had queued rows."""
        jobs = self.jobs()
        for job in jobs:
            self.drop(job)
        return jobs
