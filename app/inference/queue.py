"""The rows that wait for the model, and which of them ride in the next call; knows no threads, no HTTP and no VAE.

Jobs that want the same call ride together, those of the call that has waited longest first. A job larger than a batch
is cut into slices, and jobs that have had no turn yet come before its next one, so that a small job waits for the call
that runs and no other. Every step costs what it moves, however many wait.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = tuple[Array, ...]
#: Jobs that may be dropped before the queue is looked through for them.
MANY = 256
#: Times that are taken down of one request.
MAX_SPANS = 128


class Span(NamedTuple):
    """A time in which a request waited for something, on the clock of `time.monotonic`."""

    phase: str  # parse, queue, compute or serialize
    began: float
    ended: float
    call: str = ""  # of the model, where it is that
    rows: int = 0  # of all that rode in it


@dataclass(slots=True)
class RequestContext:
    """What a request may take, and what it has taken; all of its jobs carry it."""

    deadline: float = math.inf  # on the clock of `time.monotonic`
    waited: float = 0.0  # seconds in the queue, from a job's arrival to its first call
    computed: float = 0.0  # seconds of calls that its rows rode in
    admitted: bool = False  # by its first job: what was let in is not sent away half done
    promised: dict[str, int] = field(default_factory=dict)  # rows of calls that are still to come
    spans: list[Span] | None = None  # where somebody wants to know

    def add_span(self, span: Span) -> None:
        """Take down a time, for whoever wants to know; of a request of very many calls the first are enough."""
        if self.spans is not None and len(self.spans) < MAX_SPANS:
            self.spans.append(span)


@dataclass(eq=False, slots=True)
class Job:
    """Rows for one call. `take` makes the rows of a slice when their turn has come; `put` gets what they became."""

    call: str
    rows: int
    take: Callable[[int, int], Arrays]
    put: Callable[[int, int, Arrays], None]
    context: RequestContext
    since: float = 0.0  # it waits, on the same clock
    done: int = 0  # rows that have been put into a call
    over: bool = False
    turn: int = 0
    error: Exception | None = None
    future: "asyncio.Future[None]" = field(init=False)

    @property
    def left(self) -> int:
        """Rows that are in no call yet."""
        return self.rows - self.done

    def settle(self) -> None:
        """Wake the waiter, on its event loop; it may be gone."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)


class Whole:
    """Arrays that are cut into slices only where they have to be."""

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
        parts = self.parts
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class Piece(NamedTuple):
    """The rows of one job that ride in one call."""

    job: Job
    start: int
    stop: int


def _gone(*_: Any) -> Any:
    raise AssertionError("a job that was dropped is computed")


class _Line:
    """The jobs that want one call: those that have had no turn yet, and those with slices left, each in order."""

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        self.begun: deque[Job] = deque()
        self.fresh_rows = self.begun_rows = 0  # of those that are not over

    @property
    def turn(self) -> int:
        """When the first of its jobs took its place."""
        return min(jobs[0].turn for jobs in (self.fresh, self.begun) if jobs)


class Queue:
    """Jobs in the order in which they are to be computed.

    Args:
        batch_rows: the most rows in one call.
    """

    def __init__(self, batch_rows: int) -> None:
        self.rows = 0  # of all jobs, in no call yet
        self._batch_rows = batch_rows
        self._lines: dict[str, _Line] = {}
        self._dropped = 0  # since all of them were looked through for those that are over
        self._turns = count()

    def put(self, job: Job) -> None:
        """At the end."""
        job.turn = next(self._turns)
        line = self._lines.setdefault(job.call, _Line())
        line.fresh.append(job)
        line.fresh_rows += job.rows
        self.rows += job.rows

    def ahead(self, rows: int) -> dict[str, int]:
        """Of what waits, that which a new job of so many rows would have to wait for: rows by call.

        One that may ride in a single call waits for those that have had no turn, and for as many rows of others in
        between; a larger one for everybody.
        """
        one = rows <= self._batch_rows
        return {
            call: line.fresh_rows + (min(line.fresh_rows, line.begun_rows) if one else line.begun_rows)
            for call, line in self._lines.items()
        }

    def drop(self, job: Job) -> None:
        """No more of this job is to be computed."""
        if self._end(job):
            # It keeps its place until its turn comes; but not too many of them, however long that takes.
            self._dropped += 1
            if self._dropped > max(MANY, self.rows):
                self._sweep()

    def _end(self, job: Job) -> bool:
        """The same for a job that loses its place at once; whether it had one."""
        if job.over:
            return False
        job.over = True
        if not job.left:
            return False
        self.rows -= job.left
        line = self._lines[job.call]
        if job.done:
            line.begun_rows -= job.left
        else:
            line.fresh_rows -= job.left
            job.take = job.put = _gone  # and with them its arrays
        return True

    def _sweep(self) -> None:
        self._dropped = 0
        for line in self._lines.values():
            line.fresh, line.begun = (deque(job for job in jobs if not job.over) for jobs in (line.fresh, line.begun))

    def take(self, now: float) -> tuple[list[Piece], list[Job]]:
        """The next batch, and jobs that were found to be past their deadline and are not computed.

        Where jobs with and without a turn wait for the same call, half of the rows are for each, or where there is
        only one, every other: neither keeps the other out for longer than the batch that runs.
        """
        late: list[Job] = []
        for line in self._lines.values():
            for jobs in (line.fresh, line.begun):
                while jobs and self._dead(jobs[0], now, late):
                    jobs.popleft()
        waiting = [line for line in self._lines.values() if line.fresh or line.begun]
        if not waiting:
            return [], late
        line = min(waiting, key=lambda line: line.turn) if len(waiting) > 1 else waiting[0]
        room = self._batch_rows
        half = room // 2 or int(not line.fresh or (bool(line.begun) and line.begun[0].turn < line.fresh[0].turn))
        kept = 0
        for job in line.begun:
            kept += 0 if job.over else job.left
            if kept >= half:
                kept = half
                break
        pieces = list(self._cut(line.fresh, room - kept, now, late))
        fresh = sum([stop - start for _, start, stop in pieces])
        begun = list(self._cut(line.begun, room - fresh, now, late))
        left = sum([piece.job.left for piece in pieces])
        line.fresh_rows -= fresh + left
        line.begun_rows += left - sum([stop - start for _, start, stop in begun])
        pieces += begun
        for piece in pieces:
            job = piece.job
            if job.left:
                job.turn = next(self._turns)
                line.begun.append(job)
        return pieces, late

    def _cut(self, jobs: deque[Job], room: int, now: float, late: list[Job]) -> Iterator[Piece]:
        """As many rows as there is room for, of one job after the other, which lose their place."""
        while jobs and room:
            job = jobs.popleft()
            if self._dead(job, now, late):
                continue
            start = job.done
            job.done = stop = min(job.rows, start + room)
            room -= stop - start
            self.rows -= stop - start
            yield Piece(job, start, stop)

    def _dead(self, job: Job, now: float, late: list[Job]) -> bool:
        if not job.over and job.context.deadline < now:
            self._end(job)
            late.append(job)
        return job.over

    def jobs(self) -> list[Job]:
        """Every job with rows that wait."""
        return [job for line in self._lines.values() for job in (*line.fresh, *line.begun) if not job.over]

    def clear(self) -> list[Job]:
        """Every job with rows that wait, which none does afterwards."""
        jobs = self.jobs()
        for job in jobs:
            self.drop(job)
        self._lines.clear()
        return jobs
