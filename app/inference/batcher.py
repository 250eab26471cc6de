"""Batcher: groups rows of many requests into one model call on one worker thread. Knows no HTTP and no VAE.

There is no timer. A free worker takes a batch of the queued rows in the order of `app.inference.queue`. It is woken
when the rounds of the event loop bring no more rows: under load a batch grows to all rows that are about to arrive, and
a single request waits for IDLE_ROUNDS empty rounds, some microseconds.

If a call fails, only its jobs fail. If several jobs shared it, each is computed again alone, so a bad job costs its
neighbours time but never their results.

The states of a batcher:

    idle        The queue is empty.
                  -> collecting: a job is queued.
    collecting  The event loop runs rounds that may bring more rows; the worker sleeps.
                  -> running: the batch is full, or IDLE_ROUNDS rounds brought no row.
    running     The worker computes a batch.
                  -> running: a full batch of small requests is queued, or the call finished no job and so brings no
                     rows.
                  -> collecting: less than a batch of small requests is queued. If a large request waits, for one round:
                     the finished request may go on with its next call.
                  -> idle: no row is queued.
    stopping    No job is accepted. `stop` lets the worker compute the queued jobs and ends it; after `give_up`, or if
                the worker dies, all jobs fail.

The worker knows of idle and collecting only that it waits to be woken (`_idle`).
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from app.inference.admission import Admission, QueueLimits, one_call
from app.inference.context import RequestContext, Span
from app.inference.costs import Costs, Plan
from app.inference.errors import DEADLINE_MESSAGE, BatcherStopped, CallFailed, DeadlinePassed, OutOfMemory
from app.inference.jobs import Array, ArrayJob, Arrays, BatchSlice, Job
from app.inference.queue import Queue

#: A model call: arrays with the batch first -> arrays with as many rows. Output row i depends on input row i alone.
Call = Callable[..., Arrays]
#: Observer of a finished call: name, rows, seconds.
Observe = Callable[[str, int, float], None]
#: Seconds of a call without rows and those of each row, by its name.
Measure = Callable[[str], tuple[float, float]]
#: Rounds of the event loop without a new row after which the worker starts. A client that answers a result at once
#: takes four: resolve the future, write the response, read the next request, run the handler that queues its rows.
IDLE_ROUNDS = 4
#: Seconds between two searches for jobs that are past their deadline.
DEADLINE_POLL_S = 0.1
#: Calls of one row, and as many of a slice, that measuring a call again makes.
MEASURED_CALLS = 3
log = logging.getLogger("vae")


class Batcher:
    """One worker thread and its queue, for the tasks of one event loop.

    Args:
        batch_rows: maximum number of rows in one call.
        limits: what may wait; further requests are refused.
        observe: called on the worker thread after each call.
        measure: measures a call whose cost may have been overestimated, on the worker thread.
    """

    def __init__(
        self,
        calls: dict[str, Call],
        *,
        batch_rows: int,
        limits: QueueLimits,
        observe: Observe = lambda *_: None,
        measure: Measure | None = None,
    ) -> None:
        #: The model calls, by name. The worker looks a call up each time: assign to an item to replace a call.
        self.calls = calls
        self.batch_rows = batch_rows
        self._observe = observe
        self._measure = measure
        self.costs = Costs(batch_rows)
        self._queue = Queue(self.costs)
        on_stale = None if measure is None else self._measure_if_idle
        self._admission = Admission(self._queue, limits, on_stale=on_stale)
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = True  # the worker waits to be woken
        self._collecting = False  # a round of the event loop is scheduled
        self._stopping = False
        self._working = False  # the thread runs its loop
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._in_flight: list[BatchSlice] = []
        self._call_started = math.inf  # on the clock of `time.monotonic`; inf: no call runs
        self._finished: list[Job] = []
        self._thread = threading.Thread(target=self._run_worker, name="model", daemon=True)

    def start(self) -> None:
        """Start the worker thread."""
        self._working = True
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Refuse new jobs, compute the queued ones, end the worker. Jobs left after `timeout` seconds fail."""
        with self._lock:
            self._stopping = True
            self._wake_worker()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._fail_all(BatcherStopped("the service stopped before this request was done; send it again"))

    def give_up(self) -> None:
        """Refuse new jobs and fail all others, without waiting for a call that hangs."""
        self._stopping = True
        self._fail_all(BatcherStopped("the model hangs; send the request again"))

    @property
    def alive(self) -> bool:
        """True if jobs are accepted."""
        return self._working and not self._stopping

    @property
    def busy(self) -> float:
        """Seconds since the running call began; 0 if no call runs."""
        return max(0.0, time.monotonic() - self._call_started)

    @property
    def waiting(self) -> int:
        """Number of rows that are queued and in no call yet."""
        return self._queue.rows

    @property
    def departures(self) -> int:
        """Number of finished batches and of requests that are over: until it changes, no work ahead is done."""
        return self._queue.departures

    def seconds_ahead(self, *, large: bool) -> float:
        """Estimated seconds that a new request, small or large, would wait for others."""
        with self._lock:
            return self._admission.seconds_ahead(time.monotonic(), large=large)

    @property
    def loaded(self) -> bool:
        """True if requests may be refused for others."""
        return self._admission.loaded

    def check(self, fewest: Plan, most: Plan, timeout: float) -> None:
        """Raise an error if a request would be refused, see `Admission.check`."""
        with self._lock:
            self._admission.check(fewest, most, timeout, time.monotonic())

    @contextmanager
    def admitted(self, context: RequestContext, plan: Plan) -> Iterator[None]:
        """Admit a request with all of its calls, for as long as the context lasts.

        Raises:
            TooLong, QueueFull: see `Admission.check`.
        """
        with self._lock:
            self._admission.admit(context, plan, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._leave(context)

    async def run(self, call: str, *arrays: Array, context: RequestContext | None = None) -> Arrays:
        """Compute a call on arrays of equally many rows. Return its outputs in the order of the rows.

        A request that is not admitted yet is admitted for this call alone.

        Raises:
            TooLong, QueueFull: the request was not admitted.
            DeadlinePassed: the deadline of the context passed first.
            CallFailed: the call raised on these rows.
            BatcherStopped: the worker is stopping or dead.
        """
        arguments = ArrayJob(arrays)
        await self.stream(call, arguments.rows, take=arguments.take, put=arguments.put, context=context)
        return arguments.result()

    async def stream(
        self,
        call: str,
        rows: int,
        *,
        take: Callable[[int, int], Arrays],
        put: Callable[[int, int, Arrays], None],
        context: RequestContext | None = None,
    ) -> None:
        """Compute a call on rows that are made on demand and consumed at once, by `take` and `put` of a `Job`.

        Raises:
            TooLong, QueueFull, DeadlinePassed, CallFailed, BatcherStopped: see `run`. An error of `take` or `put` is
                the cause of a CallFailed.
        """
        context = context or RequestContext()
        job, alone = Job(call, rows, take, put, context), not context.admitted
        try:
            await self._submit(job)
        except asyncio.CancelledError:
            self._drop(job)
            raise
        finally:
            del job  # the traceback of an error holds this frame, and the job holds the error
            if alone:
                with self._lock:
                    self._leave(context)

    def _submit(self, job: Job) -> "asyncio.Future[None]":
        """Queue a job; return the future that is resolved when the job is done."""
        loop = self._loop
        if loop is None or not loop.is_running():
            # Cached: in Python 3.11 get_running_loop makes a system call, a tenth of the time of a small request.
            loop = self._loop = asyncio.get_running_loop()
            self._collecting, self._deadline_timer = False, None
        job.future, job.queued_at = loop.create_future(), time.monotonic()
        if self._deadline_timer is None:
            self._deadline_timer = loop.call_later(DEADLINE_POLL_S, self._check_deadlines)
        with self._lock:
            if not self.alive:
                raise BatcherStopped("the service is stopping or its worker has died; send the request elsewhere")
            if not job.context.admitted:
                self._admission.admit(job.context, one_call(job.call, job.rows), job.queued_at)
            self._queue.put(job)
            if self._idle:
                self._collect()
        return job.future

    def _drop(self, job: Job) -> None:
        with self._lock:
            self._queue.drop(job)

    # Methods of the event loop: when the worker starts, and who is done.

    @property
    def _full(self) -> bool:
        """True if a batch of small requests is queued."""
        return self._queue.small.rows >= self.batch_rows

    def _collect(self) -> None:
        """Wake the worker at once for a full batch, else after rounds of the event loop that bring no more rows."""
        if self._full:
            self._wake_worker()
        elif self._loop and not self._collecting:
            self._collecting = True
            rounds = 1 if self._queue.large.rows else IDLE_ROUNDS
            self._loop.call_soon(self._wait_for_rows, self._queue.rows, rounds)

    def _wait_for_rows(self, rows_before: int, rounds_left: int) -> None:
        """Schedule one more round if rows were added or rounds are left; else wake the worker."""
        with self._lock:
            rows = self._queue.rows
            grown = rows > rows_before and not self._queue.large.rows
            if self._loop and self._idle and not self._full and (grown or rounds_left > 1):
                self._loop.call_soon(self._wait_for_rows, rows, IDLE_ROUNDS if grown else rounds_left - 1)
                return
            self._collecting = False
            self._wake_worker()

    def _resolve(self, jobs: list[Job]) -> None:
        """Resolve the futures of finished jobs. Their waiters may queue rows for the next batch."""
        for job in jobs:
            job.settle()
        with self._lock:
            if self._idle and self._queue.rows:
                self._collect()

    def _check_deadlines(self) -> None:
        """Fail jobs past their deadline, those in a running call too; repeat while other jobs are left."""
        now = time.monotonic()
        with self._lock:
            jobs = [*self._queue.jobs(), *(part.job for part in self._in_flight)]
            late = [job for job in jobs if job.context.deadline < now]
            for job in late:
                self._queue.drop(job)
        for job in late:
            job.error = DeadlinePassed(DEADLINE_MESSAGE)
            job.settle()
        self._deadline_timer = None
        if self._loop and len(late) < len(jobs):
            self._deadline_timer = self._loop.call_later(DEADLINE_POLL_S, self._check_deadlines)

    def _leave(self, context: RequestContext) -> None:
        """Forget a request. The lock is held."""
        self._admission.leave(context)
        self._measure_if_idle()

    def _measure_if_idle(self) -> None:
        """Have the worker measure calls whose costs are stale, while no request is there that would wait for it."""
        if self.costs.stale and self._idle and self._queue.deserted:
            self._wake_worker()

    def _wake_worker(self) -> None:
        self._idle = False
        self._wake.notify()

    # Methods of the worker thread.

    def _run_worker(self) -> None:
        try:
            while batch := self._next_batch():
                started = time.monotonic()
                self._in_flight, self._call_started = batch, started
                self._compute(batch)
                large = batch[0].job.context.large
                # An idle worker must not keep the arrays of its last batch alive.
                self._in_flight, self._call_started, batch = [], math.inf, []
                self._publish(started, large=large)
        finally:
            self._working = False
            if not self._stopping:
                log.critical("the worker thread of the model has died")
                self._fail_all(BatcherStopped("the model's worker has died; the service must be restarted"))

    def _next_batch(self) -> list[BatchSlice]:
        """Wait to be woken and take the next batch. An empty list ends the worker."""
        with self._lock:
            while True:
                while self._idle and not self._stopping:
                    self._wake.wait()
                if (batch := self._take_batch()) or self._stopping:
                    return batch
                self._idle = True
                self._post_finished()
                if self.costs.stale and self._queue.deserted:
                    self._measure_again(min(self.costs.stale))
                    if self.costs.stale:
                        self._idle = False

    def _measure_again(self, call: str) -> None:
        """Measure a call anew. Jobs that are queued meanwhile wait for it, as they do for a batch."""
        assert self._measure is not None
        cost = self.costs[call]
        self._admission.measuring = MEASURED_CALLS * (cost.seconds(1) + cost.slice_seconds)
        self._lock.release()
        self._call_started = time.monotonic()  # it may hang, as any call
        try:
            measured = self._measure(call)
        except Exception:
            log.exception("the call %s could not be measured", call)
            measured = cost.overhead, cost.per_row
        finally:
            self._call_started = math.inf
            self._lock.acquire()
        self._admission.measuring = 0.0
        self.costs.stale.discard(call)
        self.costs.measured(call, *measured, now=time.monotonic())

    def _take_batch(self) -> list[BatchSlice]:
        """Take a batch from the queue and fail late jobs.

        A function of its own, because the locals of `_next_batch` would keep the last late job alive while it waits.
        """
        batch, late = self._queue.take(time.monotonic())
        for job in late:
            self._finish(job, DeadlinePassed(DEADLINE_MESSAGE))
        return batch

    def _compute(self, batch: list[BatchSlice]) -> None:
        """Compute a batch in one call. If the call raises, compute each slice alone."""
        started = time.monotonic()
        try:
            outputs = self._run_call(batch)
        except Exception as error:
            if len(batch) == 1:
                self._finish(batch[0].job, _call_failed(error))
                return
            for part in batch:
                self._compute([part])
            return
        row = 0
        for part in batch:
            size = part.stop - part.start
            self._put(part, tuple([array[row : row + size] for array in outputs]))
            row += size
        now = time.monotonic()
        with self._lock:  # what `take` and `put` cost counts too
            self.costs.record(batch[0].job.call, row, now - started, now)

    def _run_call(self, batch: list[BatchSlice]) -> Arrays:
        name = batch[0].job.call
        started, now = time.perf_counter(), time.monotonic()
        inputs = [part.job.take(part.start, part.stop) for part in batch]
        merged = inputs[0] if len(inputs) == 1 else tuple(map(np.concatenate, zip(*inputs, strict=True)))
        outputs = self.calls[name](*merged)
        rows, seconds = len(merged[0]), time.perf_counter() - started
        for job, start, _ in batch:
            if not start:
                job.context.queued_seconds += now - job.queued_at
            job.context.computed_seconds += seconds
            if job.context.spans is not None:
                if not start:
                    job.context.add_span(Span("queue", job.queued_at, now, name))
                job.context.add_span(Span("compute", now, now + seconds, name, rows))
        self._observe(name, rows, seconds)
        return outputs

    def _put(self, part: BatchSlice, outputs: Arrays) -> None:
        """Hand the outputs of a slice to its job, which is done with its last slice."""
        job = part.job
        try:
            job.put(part.start, part.stop, outputs)
        except Exception as error:
            self._finish(job, _call_failed(error))
        else:
            if part.stop == job.rows:
                self._finish(job)

    def _finish(self, job: Job, error: Exception | None = None) -> None:
        job.error = error
        if job.remaining:
            with self._lock:
                self._queue.drop(job)
        job.done = True
        self._finished.append(job)

    def _publish(self, started: float, *, large: bool) -> None:
        """Account for a batch, post the finished jobs, and go idle until the event loop has collected more rows.

        The worker stays awake if a full batch is queued, or if no job is finished: then no waiter can add rows.
        """
        now = time.monotonic()
        with self._lock:
            self._queue.finish(now - started, now)
            self._admission.finish(now - started, now, large=large)
            self._idle = bool(self._finished) and not self._full
            self._post_finished()

    def _post_finished(self) -> None:
        """Have the event loop resolve all finished jobs in one callback; one each would cost more than a row."""
        finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            finished[0].future.get_loop().call_soon_threadsafe(self._resolve, finished)
        except RuntimeError:
            log.debug("the event loop of the finished jobs is closed")
            self._idle = False

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            for job in [*self._queue.clear(), *(part.job for part in self._in_flight)]:
                self._finish(job, error)
            self._post_finished()


def _call_failed(error: Exception) -> CallFailed:
    """Return a CallFailed, or OutOfMemory, with this exception as its cause."""
    failure = CallFailed(f"the model failed on this request: {error}")
    if isinstance(error, MemoryError):
        failure = OutOfMemory("not enough memory for this request; send fewer rows or retry later")
    failure.__cause__ = error
    return failure
