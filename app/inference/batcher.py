"""Groups rows of many requests into one call on one worker thread; knows no HTTP and no VAE.

There is no timer. Whatever is queued when the worker comes free rides together, up to `batch_rows`, in the order that
`app.inference.queue` keeps. Before it sets out, the event loop goes round for as long as that brings more rows: under
load a batch grows to all that is there to come, and a lonely request waits for no more than a few empty rounds, some
microseconds. A failing call fails its own jobs only; when several shared it, each is tried alone, so that a bad
neighbour costs a good job time, never its answer.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from app.inference.admission import Admission
from app.inference.queue import Array, Arrays, Job, Piece, Queue, RequestContext, Span, Whole

#: Takes arrays with the batch first, returns arrays with as many rows, row i of the one made from row i of the other.
Call = Callable[..., Arrays]
Observe = Callable[[str, int, float], None]
#: Rounds of the event loop without a new row after which the worker sets out: one reads what a socket has received, the
#: next runs the handler that queues it; and before them, one runs those whose rows are done, the next writes what they
#: answer, upon which clients send more.
PATIENCE = 4
#: Seconds between two looks for jobs that are past their deadline.
LOOK = 0.1
LATE = "the model did not get to this request in time; ask for less or come again"
log = logging.getLogger("vae")


class DeadlinePassed(Exception):
    """The job was not done by its deadline, and what was left of it was not computed."""


class CallFailed(Exception):
    """The call raised on this job's rows; its exception is the cause."""


class OutOfMemory(CallFailed):
    """There was not enough memory for it."""


class BatcherStopped(Exception):
    """The worker is stopping or dead."""


class Batcher:
    """One worker thread and its queue, for the tasks of one event loop.

    Args:
        calls: what can be run, by name.
        batch_rows: the most rows in one call.
        queue_rows, queue_seconds: see `Admission`.
        observe: called on the worker's thread after each call with its name, rows and seconds.
    """

    def __init__(
        self,
        calls: Mapping[str, Call],
        *,
        batch_rows: int,
        queue_rows: int,
        queue_seconds: float = math.inf,
        observe: Observe = lambda *_: None,
    ) -> None:
        self._calls = calls
        self._batch_rows = batch_rows
        self._observe = observe
        self._queue = Queue(batch_rows)
        #: Who is let into it.
        self.admission = Admission(
            self._queue, batch_rows=batch_rows, queue_rows=queue_rows, queue_seconds=queue_seconds
        )
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether the worker waits to be sent out, and whether the loop is on its rounds before it does so.
        self._resting = True
        self._gathering = False
        self._looking: asyncio.TimerHandle | None = None
        self._working = False
        self._stopping = False
        self._flying: list[Piece] = []
        self._since = math.inf  # they have been so
        self._finished: list[Job] = []
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        self._working = True
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take no more jobs, finish those queued, end the worker; whatever is left after `timeout` s fails."""
        with self._lock:
            self._stopping = True
            self._send_out()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._fail_all(BatcherStopped("the service stopped before this request was done; send it again"))

    def give_up(self) -> None:
        """Take no more jobs and fail all there are: the worker hangs."""
        self._stopping = True
        self._fail_all(BatcherStopped("the model hangs; send the request again"))

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and done."""
        return self._working and not self._stopping

    @property
    def busy(self) -> float:
        """For how many seconds the call that runs has run; 0 where none does."""
        return max(0.0, time.monotonic() - self._since)

    @property
    def waiting(self) -> int:
        """Rows that are queued and not yet in a call."""
        return self._queue.rows

    async def run(self, call: str, *arrays: Array, context: RequestContext | None = None) -> Arrays:
        """Put arrays of equally many rows through a call, and return what they became, in order.

        Args:
            call: its name.
            arrays: the arguments, batch first.
            context: its deadline, and what it has taken.

        Raises:
            QueueFull, DeadlinePassed, CallFailed, BatcherStopped: see there.
        """
        whole = Whole(arrays)
        job = Job(call, whole.rows, whole.take, whole.put, context or RequestContext())
        try:
            await self._enter(job)
        except asyncio.CancelledError:
            self._leave(job)
            raise
        finally:
            del job  # an error's traceback holds this frame, and the job holds the error
        return whole.result()

    async def stream(
        self,
        call: str,
        rows: int,
        *,
        take: Callable[[int, int], Arrays],
        put: Callable[[int, int, Arrays], None],
        context: RequestContext | None = None,
    ) -> None:
        """The same for rows that are made on demand and consumed at once, in slices and in order.

        `take(start, stop)` and `put(start, stop, outputs)` run on the worker's thread. Raises as `run` does.
        """
        job = Job(call, rows, take, put, context or RequestContext())
        try:
            await self._enter(job)
        except asyncio.CancelledError:
            self._leave(job)
            raise
        finally:
            del job

    def _enter(self, job: Job) -> "asyncio.Future[None]":
        loop = self._loop
        if loop is None or not loop.is_running():
            # Once: Python 3.11 asks the system for it, which takes a tenth of a small request.
            loop = self._loop = asyncio.get_running_loop()
            self._gathering, self._looking = False, None
        job.future, job.since = loop.create_future(), time.monotonic()
        if self._looking is None:
            self._looking = loop.call_later(LOOK, self._look)
        with self._lock:
            if not self.alive:
                raise BatcherStopped("the service is stopping or its worker has died; send the request elsewhere")
            self.admission.admit(job)
            self._queue.put(job)
            if self._resting:
                self._gather()
        return job.future

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._queue.drop(job)

    # On the event loop: when the worker sets out.

    def _gather(self) -> None:
        """Send the worker out, at once with a full batch, else when the queue no longer grows."""
        if self._queue.rows >= self._batch_rows:
            self._send_out()
        elif self._loop and not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._go_round, self._queue.rows, PATIENCE)

    def _go_round(self, before: int, patience: int) -> None:
        with self._lock:
            now = self._queue.rows
            if self._loop and self._resting and now < self._batch_rows and (now > before or patience > 1):
                self._loop.call_soon(self._go_round, now, PATIENCE if now > before else patience - 1)
                return
            self._gathering = False
            self._send_out()

    def _land(self, jobs: list[Job]) -> None:
        """Wake those whose jobs are done: what they do next may bring more rows for the next batch."""
        for job in jobs:
            job.settle()
        with self._lock:
            if self._resting and self._queue.rows:
                self._gather()

    def _look(self) -> None:
        """Fail jobs that are past their deadline, though their call may hang, and look again while there are any."""
        now = time.monotonic()
        with self._lock:
            jobs = [*self._queue.jobs(), *(piece.job for piece in self._flying)]
            late = [job for job in jobs if job.context.deadline < now]
            for job in late:
                self._queue.drop(job)
        for job in late:
            job.error = DeadlinePassed(LATE)
            job.settle()
        self._looking = self._loop.call_later(LOOK, self._look) if self._loop and len(late) < len(jobs) else None

    def _send_out(self) -> None:
        self._resting = False
        self._wake.notify()

    # On the worker's thread.

    def _work(self) -> None:
        try:
            while pieces := self._take():
                self._flying, self._since = pieces, time.monotonic()
                self._compute(pieces)
                self._flying, self._since, pieces = [], math.inf, []  # nothing is held on to while there is no more
                self._hand_over()
        finally:
            self._working = False
            if not self._stopping:
                log.critical("the model's worker thread has died")
                self._fail_all(BatcherStopped("the model's worker has died; the service must be restarted"))

    def _take(self) -> list[Piece]:
        """Wait to be sent out and take the next batch.

        Returns: nothing where the worker is to end.
        """
        with self._lock:
            while True:
                while self._resting and not self._stopping:
                    self._wake.wait()
                if (pieces := self._next()) or self._stopping:
                    return pieces
                self._resting = True
                self._deliver()

    def _next(self) -> list[Piece]:
        """The next batch, without what is late. (Not part of the wait, which would hold on to the last of those.)"""
        pieces, late = self._queue.take(time.monotonic())
        for job in late:
            self._finish(job, DeadlinePassed(LATE))
        return pieces

    def _compute(self, pieces: list[Piece]) -> None:
        try:
            outputs = self._call(pieces)
        except Exception as error:
            if len(pieces) == 1:
                self._finish(pieces[0].job, _caused(error))
                return
            for piece in pieces:
                self._compute([piece])
            return
        row = 0
        for piece in pieces:
            size = piece.stop - piece.start
            self._put(piece, tuple([array[row : row + size] for array in outputs]))
            row += size

    def _call(self, pieces: list[Piece]) -> Arrays:
        name = pieces[0].job.call
        started, now = time.perf_counter(), time.monotonic()
        inputs = [piece.job.take(piece.start, piece.stop) for piece in pieces]
        merged = inputs[0] if len(inputs) == 1 else tuple(map(np.concatenate, zip(*inputs, strict=True)))
        outputs = self._calls[name](*merged)
        rows, seconds = len(merged[0]), time.perf_counter() - started
        self.admission.took(name, rows, seconds)
        for job, start, _ in pieces:
            if not start:
                job.context.waited += now - job.since
            job.context.computed += seconds
            if job.context.spans is not None:
                if not start:
                    job.context.add_span(Span("queue", job.since, now, name))
                job.context.add_span(Span("compute", now, now + seconds, name, rows))
        self._observe(name, rows, seconds)
        return outputs

    def _put(self, piece: Piece, outputs: Arrays) -> None:
        job = piece.job
        try:
            job.put(piece.start, piece.stop, outputs)
        except Exception as error:
            self._finish(job, _caused(error))
            return
        if piece.stop == job.rows:
            self._finish(job)

    def _finish(self, job: Job, error: Exception | None = None) -> None:
        job.error = error
        if job.left:
            with self._lock:
                self._queue.drop(job)
        job.over = True
        self._finished.append(job)

    def _hand_over(self) -> None:
        """Let the loop wake who is done, and rest until it has looked for more; unless a full batch waits already, or
        nobody was done, so that the loop has nothing to bring.
        """
        with self._lock:
            self._resting = bool(self._finished) and self._queue.rows < self._batch_rows
            self._deliver()

    def _deliver(self) -> None:
        """One call of the loop for all finished jobs: a wake-up of its own for each would cost more than a row."""
        finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            finished[0].future.get_loop().call_soon_threadsafe(self._land, finished)
        except RuntimeError:
            log.debug("the event loop of finished jobs is closed")
            self._resting = False

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            for job in [*self._queue.clear(), *(piece.job for piece in self._flying)]:
                self._finish(job, error)
            self._deliver()


def _caused(error: Exception) -> CallFailed:
    failed = CallFailed(f"the model failed on this request: {error}")
    if isinstance(error, MemoryError):
        failed = OutOfMemory("there was no memory left for this request; send less at once, or come again")
    failed.__cause__ = error
    return failed
