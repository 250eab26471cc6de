"""Queue of jobs, and the choice of rows for the next model call. Knows no threads, no HTTP and no VAE.

Jobs that want the same call share a batch; the call whose first job has waited longest goes first. A job larger than a
batch is cut into slices. New jobs, which have no row in a batch yet, go before the next slice of partial jobs, so a
small job waits for the running call only. The cost of every operation is proportional to the number of jobs it moves,
not to the number of jobs that are queued.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.inference.context import RequestContext

Array = NDArray[Any]
Arrays = tuple[Array, ...]
#: Number of dropped jobs that keep their place; beyond it, and beyond the number of queued rows, all are removed.
MAX_DROPPED_JOBS = 256


@dataclass(eq=False, slots=True)
class Job:
    """Rows of one request for one model call.

    `take(start, stop)` returns the arguments of the call for these rows; `put(start, stop, outputs)` receives the
    outputs. Both run on the worker thread, slice by slice and in order.
    """

    call: str
    rows: int
    take: Callable[[int, int], Arrays]
    put: Callable[[int, int, Arrays], None]
    context: RequestContext
    queued_at: float = 0.0  # on the clock of `time.monotonic`
    rows_taken: int = 0  # rows that are, or were, in a call
    done: bool = False  # computed, failed, late or dropped
    sequence: int = 0  # place in the queue
    error: Exception | None = None
    future: "asyncio.Future[None]" = field(init=False)

    @property
    def remaining(self) -> int:
        """Number of rows that are in no call yet."""
        return self.rows - self.rows_taken

    def settle(self) -> None:
        """Resolve the future, unless its waiter was cancelled. Call it on the event loop of the future."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)


class ArrayJob:
    """Arrays as the `take` and `put` of a job. Arrays are sliced and concatenated only if the job was cut."""

    __slots__ = ("arrays", "parts", "rows")

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.rows = len(arrays[0])
        self.parts: list[Arrays] = []

    def take(self, start: int, stop: int) -> Arrays:
        return self.arrays if stop - start == self.rows else tuple(array[start:stop] for array in self.arrays)

    def put(self, _start: int, _stop: int, outputs: Arrays) -> None:
        self.parts.append(outputs)

    def result(self) -> Arrays:
        """Outputs of all rows, in order."""
        parts = self.parts
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class BatchSlice(NamedTuple):
    """Rows of one job in one batch."""

    job: Job
    start: int
    stop: int


class CallQueue:
    """Jobs that wait for one call: new jobs and partial jobs, each in the order of their sequence numbers."""

    def __init__(self) -> None:
        self.new: deque[Job] = deque()
        self.partial: deque[Job] = deque()
        self.new_rows = self.partial_rows = 0  # rows of jobs that are not done

    @property
    def sequence(self) -> int:
        """Lowest sequence number of its jobs."""
        return min(jobs[0].sequence for jobs in (self.new, self.partial) if jobs)


class Queue:
    """Jobs in the order in which they are computed."""

    def __init__(self, batch_rows: int) -> None:
        self.rows = 0  # that are queued and in no call yet
        self.batch_rows = batch_rows  # maximum number of rows in one call
        self._calls: dict[str, CallQueue] = {}
        self._dropped = 0  # jobs dropped since all dropped jobs were removed
        self._sequence = count()

    def put(self, job: Job) -> None:
        """Append a job to the queue of its call."""
        job.sequence = next(self._sequence)
        queue = self._calls.setdefault(job.call, CallQueue())
        queue.new.append(job)
        queue.new_rows += job.rows
        self.rows += job.rows

    def rows_before(self, rows: int) -> dict[str, int]:
        """Count the queued rows that are computed before a new job of `rows` rows, by call.

        A job that fits into one batch waits for the new jobs, and for at most as many rows of partial jobs. A larger
        job waits for all rows.
        """
        fits = rows <= self.batch_rows
        return {
            call: queue.new_rows + (min(queue.new_rows, queue.partial_rows) if fits else queue.partial_rows)
            for call, queue in self._calls.items()
        }

    def drop(self, job: Job) -> None:
        """Mark a job done, so that none of its remaining rows is computed."""
        if self._mark_done(job):
            # Removal from the middle of a deque is slow, so the job keeps its place until it comes first, or until
            # too many dropped jobs have gathered.
            self._dropped += 1
            if self._dropped > max(MAX_DROPPED_JOBS, self.rows):
                self._dropped = 0
                for queue in self._calls.values():
                    queue.new = deque(job for job in queue.new if not job.done)
                    queue.partial = deque(job for job in queue.partial if not job.done)

    def _mark_done(self, job: Job) -> bool:
        """Mark a job done and subtract its remaining rows. Return True if it still had rows queued."""
        if job.done:
            return False
        job.done = True
        if not job.remaining:
            return False
        self.rows -= job.remaining
        queue = self._calls[job.call]
        if job.rows_taken:
            queue.partial_rows -= job.remaining
        else:
            queue.new_rows -= job.remaining
            del job.take, job.put  # releases the arrays
        return True

    def take(self, now: float) -> tuple[list[BatchSlice], list[Job]]:
        """Remove the next batch, all of one call, and the jobs whose deadline is before `now` (`time.monotonic`).

        If new and partial jobs wait for the same call, each kind gets half of the rows; if a batch has one row, they
        alternate. So neither kind delays the other by more than the running batch.
        """
        late: list[Job] = []
        for queue in self._calls.values():
            for jobs in (queue.new, queue.partial):
                while jobs and self._is_done(jobs[0], now, late):
                    jobs.popleft()
        waiting = [queue for queue in self._calls.values() if queue.new or queue.partial]
        if not waiting:
            return [], late
        queue = min(waiting, key=lambda queue: queue.sequence) if len(waiting) > 1 else waiting[0]
        new, partial = queue.new, queue.partial
        # Rows reserved for partial jobs: half of the batch, or fewer if fewer are queued. A batch of one row goes to
        # the job with the lower sequence number.
        half = self.batch_rows // 2 or int(not new or (bool(partial) and partial[0].sequence < new[0].sequence))
        reserved = 0
        for job in partial:
            reserved += 0 if job.done else job.remaining
            if reserved >= half:
                reserved = half
                break
        slices = list(self._cut(new, self.batch_rows - reserved, now, late))
        new_taken = sum([stop - start for _, start, stop in slices])
        partial_slices = list(self._cut(partial, self.batch_rows - new_taken, now, late))
        remaining = sum([part.job.remaining for part in slices])
        queue.new_rows -= new_taken + remaining
        queue.partial_rows += remaining - sum([stop - start for _, start, stop in partial_slices])
        slices += partial_slices
        for part in slices:
            if part.job.remaining:
                part.job.sequence = next(self._sequence)
                partial.append(part.job)
        return slices, late

    def _cut(self, jobs: deque[Job], capacity: int, now: float, late: list[Job]) -> Iterator[BatchSlice]:
        """Remove jobs from the front and yield a slice of each, up to `capacity` rows in all."""
        while jobs and capacity:
            job = jobs.popleft()
            if self._is_done(job, now, late):
                continue
            start = job.rows_taken
            job.rows_taken = stop = min(job.rows, start + capacity)
            capacity -= stop - start
            self.rows -= stop - start
            yield BatchSlice(job, start, stop)

    def _is_done(self, job: Job, now: float, late: list[Job]) -> bool:
        """Return True if a job is done. A job past its deadline is marked done and appended to `late`."""
        if not job.done and job.context.deadline < now:
            self._mark_done(job)
            late.append(job)
        return job.done

    def jobs(self) -> list[Job]:
        """All jobs with queued rows."""
        return [job for queue in self._calls.values() for job in (*queue.new, *queue.partial) if not job.done]

    def clear(self) -> list[Job]:
        """Drop all jobs. Return those that had queued rows."""
        jobs = self.jobs()
        for job in jobs:
            self.drop(job)
        self._calls.clear()
        return jobs
