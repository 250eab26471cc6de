"""Who may still join the queue, by what is ahead of them; knows no threads, no HTTP and no VAE.

A request is judged once, by its first job: what was let in is not sent away half done.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from app.inference.queue import Job, Queue, RequestContext

#: Of what calls have taken, the share that still counts after one more.
KEPT = 0.9


def whole_wait(seconds: float) -> int:
    """When to come again, in whole seconds, from 1 to a minute."""
    return math.ceil(min(60.0, max(1.0, seconds)))


class QueueFull(Exception):
    """Too much is waiting."""

    def __init__(self, what: str, seconds: float) -> None:
        self.retry_after = whole_wait(seconds)
        super().__init__(f"{what}; come again in {self.retry_after} s")


class Cost(NamedTuple):
    """What calls have taken lately: those of many rows, in which most rows ride, count for more."""

    rows: float = 0.0
    seconds: float = 0.0

    def after(self, rows: int, seconds: float) -> "Cost":
        """With one more call."""
        return Cost(KEPT * self.rows + rows, KEPT * self.seconds + seconds)

    @property
    def a_row(self) -> float:
        return self.seconds / self.rows


class Admission:
    """The bounds of a queue. But for `took`, all of it is for the tasks of one event loop.

    Args:
        batch_rows: the most rows in one call.
        queue_rows: the most rows that may be ahead of a job, with its own.
        queue_seconds: how long the work may take that is ahead of a job of no more than a batch; a batch may wait in
            any case. Larger jobs have a long way anyhow.
    """

    def __init__(self, queue: Queue, *, batch_rows: int, queue_rows: int, queue_seconds: float) -> None:
        self.costs: dict[str, Cost] = {}
        self._queue = queue
        self._batch_rows = batch_rows
        self._queue_rows = queue_rows
        self._queue_seconds = queue_seconds
        self._promised: Counter[str] = Counter()

    def took(self, call: str, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        self.costs[call] = self.costs.get(call, Cost()).after(rows, seconds)

    def admit(self, job: Job) -> None:
        """Let a job into the queue, or not; raises as `check` does."""
        context = job.context
        if context.admitted:
            if job.call in context.promised:
                self._promised[job.call] -= context.promised.pop(job.call)
            return
        self.check(job.rows, context.deadline - job.since)
        context.admitted = True
        for call, rows in context.promised.items():
            self._promised[call] += rows

    @contextmanager
    def promised(self, context: RequestContext, rows: Mapping[str, int]) -> Iterator[None]:
        """In here a request has its jobs, of which the first is followed by those of these calls: who comes after it
        has to wait for them too. No more of each counts than a batch: what is larger keeps no small one out.
        """
        context.promised = {call: min(count, self._batch_rows) for call, count in rows.items()}
        try:
            yield
        finally:
            if context.admitted:
                for call, count in context.promised.items():
                    self._promised[call] -= count
            context.promised = {}

    def check(self, rows: int = 1, patience: float = math.inf) -> None:
        """Refuse what there is no room for, and what would be late anyhow.

        Args:
            rows: of a job.
            patience: seconds that it has.

        Raises:
            QueueFull: more rows, or more work, would be ahead of it than may be, or than it has time for.
        """
        # A job that finds nobody waiting is taken whatever its size: its own limits have let it through.
        if not self._queue.rows:
            return
        ahead = self._queue.ahead(rows)
        waiting, to_come = sum(ahead.values()), sum(self._promised.values())
        if not waiting + to_come:
            return
        costs = [(call, cost.a_row) for call, cost in list(self.costs.items())]
        seconds = sum((ahead.get(call, 0) + self._promised[call]) * cost for call, cost in costs)
        # A batch may wait however slow the model is.
        most = math.inf if waiting + to_come < self._batch_rows else max(0.0, patience)
        if rows <= self._batch_rows <= waiting + to_come:
            most = min(most, self._queue_seconds)
        if waiting + rows > self._queue_rows:
            raise QueueFull(f"{waiting:,} rows are waiting for the model", seconds)
        if seconds > most:
            raise QueueFull(f"{seconds:.2g} s of work are waiting for the model", seconds - most)
