"""Admission control: decide from the work ahead of a job if it may join the queue. Knows no threads, HTTP or VAE.

A request is judged once, by its first job. An admitted request is never refused halfway.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from app.inference.context import RequestContext
from app.inference.errors import QueueFull
from app.inference.queue import Job, Queue

#: Weight of all earlier calls in the moving cost of a call, after one more.
COST_DECAY = 0.9


class Cost(NamedTuple):
    """Decaying sums over recent calls. Their quotient weights each call by its rows."""

    rows: float = 0.0
    seconds: float = 0.0

    def add(self, rows: int, seconds: float) -> "Cost":
        """Return the cost with one more call."""
        return Cost(COST_DECAY * self.rows + rows, COST_DECAY * self.seconds + seconds)

    @property
    def seconds_per_row(self) -> float:
        return self.seconds / self.rows


class Admission:
    """Limits of a queue. All methods but `record` belong to the tasks of one event loop.

    Args:
        queue_rows: maximum number of rows queued before a job, its own rows included.
        queue_seconds: maximum seconds of work queued before a job that fits into one batch. At least one batch may
            always wait. Larger jobs have no limit in seconds but their deadline.
    """

    def __init__(self, queue: Queue, *, queue_rows: int, queue_seconds: float) -> None:
        self.costs: dict[str, Cost] = {}  # by call
        self.reserved: Counter[str] = Counter()  # rows of follow-up calls of admitted requests, by call
        self._queue = queue
        self._queue_rows = queue_rows
        self._queue_seconds = queue_seconds

    def record(self, call: str, rows: int, seconds: float) -> None:
        """Add the duration of a finished call to its moving cost."""
        self.costs[call] = self.costs.get(call, Cost()).add(rows, seconds)

    def admit(self, job: Job) -> None:
        """Admit a job, and its request with it. Raises as `ensure_capacity` does."""
        context = job.context
        if context.admitted:
            if job.call in context.reserved:
                self.reserved[job.call] -= context.reserved.pop(job.call)
            return
        self.ensure_capacity(job.rows, context.deadline - job.queued_at)
        context.admitted = True
        for call, rows in context.reserved.items():
            self.reserved[call] += rows

    @contextmanager
    def reserve(self, context: RequestContext, rows: Mapping[str, int]) -> Iterator[None]:
        """Reserve rows, by call, for the follow-up calls of a request, such as encode, then score.

        Reserved rows count as queued for later requests, at most one batch per call, so a large request cannot keep
        small ones out.
        """
        context.reserved = {call: min(count, self._queue.batch_rows) for call, count in rows.items()}
        try:
            yield
        finally:
            if context.admitted:
                for call, count in context.reserved.items():
                    self.reserved[call] -= count
            context.reserved = {}

    def ensure_capacity(self, rows: int = 1, seconds_left: float = math.inf) -> None:
        """Raise an error unless a job of `rows` rows may join the queue, `seconds_left` before its deadline.

        Raises:
            QueueFull: more rows or seconds of work would be queued before the job than limits or deadline allow.
        """
        waiting, reserved = self._queue.rows, sum(self.reserved.values())
        # The limit of rows is for what waits: the limits of a single request have let this job through.
        if waiting + reserved < self._queue.batch_rows and (not waiting or waiting + rows <= self._queue_rows):
            return  # most requests
        rows_before = self._queue.rows_before(rows)
        queued = sum(rows_before.values())
        costs = [(call, cost.seconds_per_row) for call, cost in list(self.costs.items())]
        seconds = sum((rows_before.get(call, 0) + self.reserved[call]) * cost for call, cost in costs)
        # Less than a batch may always wait, however slow the model is.
        max_seconds = math.inf if queued + reserved < self._queue.batch_rows else max(0.0, seconds_left)
        if rows <= self._queue.batch_rows <= queued + reserved:
            max_seconds = min(max_seconds, self._queue_seconds)
        if queued and queued + rows > self._queue_rows:
            raise QueueFull(f"queue full ({queued:,} rows)", seconds)
        if seconds > max_seconds:
            raise QueueFull(f"queue full ({seconds:.2g} s of work)", seconds - max_seconds)
