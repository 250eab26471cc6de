"""Groups rows of many requests into one call on one worker thread; knows no HTTP and no VAE.

There is no timer. Whatever is queued when the worker comes free rides together, up to `batch_rows`: a lonely request
waits for nobody, and under load batches grow by themselves. A job larger than that is cut into slices, each going to
the end of the queue after it, so that small jobs are not stuck behind it. A failing call fails its own jobs only; when
several shared it, each is tried alone, so that a bad neighbour costs a good job time, never its answer.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = tuple[Array, ...]
#: Takes arrays with the batch first, returns arrays with as many rows, row i of the one made from row i of the other.
Call = Callable[..., Arrays]
Observe = Callable[[str, int, float], None]
log = logging.getLogger("vae")


class QueueFull(Exception):
    """Too many rows are waiting; `retry_after` is in seconds, from the rate at which they are drained."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} rows are waiting for the model; come again in {retry_after} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The job was not done by its deadline, and what was left of it was not computed."""


class CallFailed(Exception):
    """The call raised on this job's rows; its exception is the cause."""


class BatcherStopped(Exception):
    """The worker is stopping or dead."""


@dataclass(eq=False)
class _Job:
    """Rows for one call. `take` makes the rows of a slice when their turn has come; `put` gets what they became."""

    call: str
    rows: int
    take: Callable[[int, int], Arrays]
    put: Callable[[int, int, Arrays], None]
    future: "asyncio.Future[None]"
    loop: asyncio.AbstractEventLoop
    deadline: float
    done: int = 0
    over: bool = False

    def finish(self, error: Exception | None = None) -> None:
        """Wake the waiter, from the worker's thread; it may be gone, and so may its loop."""
        self.over = True
        try:
            self.loop.call_soon_threadsafe(_settle, self.future, error)
        except RuntimeError:
            log.debug("the event loop of a finished job is closed")


def _settle(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


@dataclass(frozen=True)
class _Piece:
    """The rows of one job that ride in one call."""

    job: _Job
    start: int
    stop: int


@dataclass
class _Rate:
    """Rows a second that the worker gets done, as a running average over calls."""

    value: float = field(default=0.0)

    def add(self, rows: int, seconds: float) -> None:
        now = rows / max(seconds, 1e-6)
        self.value = now if self.value == 0 else 0.9 * self.value + 0.1 * now


class Batcher:
    """One worker thread and its queue.

    Args:
        calls: what can be run, by name.
        batch_rows: the most rows in one call.
        queue_rows: the most rows that may wait; a job that would make it more is refused.
        observe: called on the worker's thread after each call with its name, rows and seconds.
    """

    def __init__(
        self, calls: Mapping[str, Call], *, batch_rows: int, queue_rows: int, observe: Observe = lambda *_: None
    ) -> None:
        self._calls = calls
        self._batch_rows = batch_rows
        self._queue_rows = queue_rows
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._stopping = False
        self._flying: list[_Piece] = []
        self._rate = _Rate()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take no more jobs, finish those queued, end the worker; whatever is left after `timeout` s fails."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._fail_all(BatcherStopped("the service stopped before this request was done; send it again"))

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and done."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Rows that are queued and not yet in a call."""
        with self._ready:
            return sum(job.rows - job.done for job in self._jobs)

    async def run(self, call: str, *arrays: Array, deadline: float = math.inf) -> Arrays:
        """Put arrays of equally many rows through a call, and return what they became, in order.

        Args:
            call: its name.
            arrays: the arguments, batch first.
            deadline: on the clock of `time.monotonic`.

        Raises:
            QueueFull, DeadlinePassed, CallFailed, BatcherStopped: see there.
        """
        parts: list[Arrays] = []
        await self.stream(
            call,
            len(arrays[0]),
            take=lambda start, stop: tuple(array[start:stop] for array in arrays),
            put=lambda _start, _stop, outputs: parts.append(outputs),
            deadline=deadline,
        )
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    async def stream(
        self,
        call: str,
        rows: int,
        *,
        take: Callable[[int, int], Arrays],
        put: Callable[[int, int, Arrays], None],
        deadline: float = math.inf,
    ) -> None:
        """The same for rows that are made on demand and consumed at once, in slices and in order.

        `take(start, stop)` and `put(start, stop, outputs)` run on the worker's thread. Raises as `run` does.
        """
        loop = asyncio.get_running_loop()
        job = _Job(call, rows, take, put, loop.create_future(), loop, deadline)
        with self._ready:
            if not self.alive:
                raise BatcherStopped("the service is stopping or its worker has died; send the request elsewhere")
            waiting = sum(other.rows - other.done for other in self._jobs)
            # A job that finds nobody waiting is taken whatever its size: its own limits have let it through.
            if self._jobs and waiting + rows > self._queue_rows:
                raise QueueFull(waiting, math.ceil(min(60.0, max(1.0, waiting / max(self._rate.value, 1.0)))))
            self._jobs.append(job)
            self._ready.notify()
        await job.future

    def _work(self) -> None:
        try:
            while pieces := self._gather():
                self._flying = pieces
                self._compute(pieces)
                self._flying = []
        finally:
            if not self._stopping:
                log.critical("the model's worker thread has died")
                self._fail_all(BatcherStopped("the model's worker has died; the service must be restarted"))

    def _gather(self) -> list[_Piece]:
        """Wait for work and take the next batch: the first job's call, and all in the queue that want the same."""
        with self._ready:
            while True:
                self._drop_dead()
                if self._jobs:
                    break
                if self._stopping:
                    return []
                self._ready.wait()
            call, room = self._jobs[0].call, self._batch_rows
            pieces: list[_Piece] = []
            stay: deque[_Job] = deque()
            again: deque[_Job] = deque()
            for job in self._jobs:
                if job.call != call or room == 0:
                    stay.append(job)
                    continue
                stop = min(job.rows, job.done + room)
                pieces.append(_Piece(job, job.done, stop))
                room -= stop - job.done
                job.done = stop
                if stop < job.rows:
                    again.append(job)
            self._jobs = stay + again
            return pieces

    def _drop_dead(self) -> None:
        """Forget jobs whose waiter has left, and fail those past their deadline: neither is worth a call."""
        now = time.monotonic()
        for job in [job for job in self._jobs if job.over or job.future.cancelled() or job.deadline < now]:
            self._jobs.remove(job)
            if not job.over:
                job.finish(DeadlinePassed("the model did not get to this request in time; ask for less or come again"))

    def _compute(self, pieces: list[_Piece]) -> None:
        try:
            outputs = self._call(pieces)
        except Exception as error:
            if len(pieces) == 1:
                pieces[0].job.finish(_caused(error))
                return
            for piece in pieces:
                self._compute([piece])
            return
        row = 0
        for piece in pieces:
            size = piece.stop - piece.start
            self._deliver(piece, tuple(array[row : row + size] for array in outputs))
            row += size

    def _call(self, pieces: list[_Piece]) -> Arrays:
        name = pieces[0].job.call
        started = time.perf_counter()
        inputs = [piece.job.take(piece.start, piece.stop) for piece in pieces]
        merged = (
            inputs[0] if len(inputs) == 1 else tuple(np.concatenate(column) for column in zip(*inputs, strict=True))
        )
        outputs = self._calls[name](*merged)
        rows, seconds = len(merged[0]), time.perf_counter() - started
        self._rate.add(rows, seconds)
        self._observe(name, rows, seconds)
        return outputs

    def _deliver(self, piece: _Piece, outputs: Arrays) -> None:
        job = piece.job
        try:
            job.put(piece.start, piece.stop, outputs)
        except Exception as error:
            job.finish(_caused(error))
            return
        if piece.stop == job.rows:
            job.finish()

    def _fail_all(self, error: Exception) -> None:
        with self._ready:
            jobs, self._jobs = [*self._jobs, *(piece.job for piece in self._flying)], deque()
        for job in jobs:
            job.finish(error)


def _caused(error: Exception) -> CallFailed:
    failed = CallFailed(f"the model failed on this request: {error}")
    failed.__cause__ = error
    return failed
