"""The queue and its admission in virtual time: the classes of the service, driven by a clock that jumps."""

import functools
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from app.inference.admission import Admission, QueueLimits
from app.inference.context import RequestContext
from app.inference.costs import Costs, PlannedCall
from app.inference.errors import QueueFull, TooLong
from app.inference.jobs import BatchSlice, Job
from app.inference.queue import Queue


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, what it asks for, and when its client leaves."""

    time: float
    plan: tuple[PlannedCall, ...]
    timeout: float = 60.0
    leaves: float | None = None  # seconds after its arrival


@dataclass(eq=False)
class Request:
    """A request with its state and, in the end, its outcome."""

    arrival: Arrival
    context: RequestContext
    outcome: str = ""  # done, late, left, full, too long
    error: QueueFull | TooLong | None = None
    price: float = 0.0  # estimated seconds alone
    prices: dict[tuple[str, int], float] = field(default_factory=dict)  # the same of each call with its rows
    admitted: float = 0.0
    ended: float = 0.0
    started: float = math.inf  # of the first batch with its rows
    rows: int = 0  # computed
    calls: "deque[PlannedCall]" = field(default_factory=deque)
    job: Job | None = None

    @property
    def seconds_left(self) -> float:
        """Estimated seconds of the calls that are not done, the current one included."""
        calls = [(call, rows) for call, rows, _ in self.calls]
        current = [(self.job.call, self.job.rows)] if self.job else []
        return sum(self.prices[call] for call in calls + current)

    @property
    def planned_rows(self) -> int:
        """Rows of all of its calls."""
        return sum(rows * times for _, rows, times in self.arrival.plan)


@dataclass(frozen=True)
class Batch:
    """A batch that has been computed."""

    start: float
    slices: list[BatchSlice]
    requests: list[Request]  # that were admitted and not over when it began, in order of admission


class Simulation:
    """One worker.

    Args:
        costs: overhead and seconds per row of each call, as the warm-up measured them.
        duration: seconds that a call takes, by those that it was estimated to take.
        learn: adapt the estimates to the durations, as the service does.
        on_refused: called with the simulation and each refused request, before anything else happens.
    """

    def __init__(
        self,
        costs: dict[str, tuple[float, float]],
        limits: QueueLimits,
        *,
        batch_rows: int = 64,
        duration: Callable[[float], float] = lambda estimated: estimated,
        learn: bool = False,
        on_refused: "Callable[[Simulation, Request], None]" = lambda *_: None,
    ) -> None:
        self.costs = Costs(batch_rows)
        for name, cost in costs.items():
            self.costs.measured(name, *cost)
        self.costs.use(costs)  # as a service that has been in use for a while
        self.limits = limits
        self.queue = Queue(self.costs)
        self.admission = Admission(self.queue, limits)
        self.now = 0.0
        self.requests: list[Request] = []
        self.batches: list[Batch] = []
        self.open: dict[int, Request] = {}  # admitted and not over, by the identity of the context
        self.longest = 0.0  # seconds of the longest batch
        self._base = costs
        self._duration, self._learn, self._on_refused = duration, learn, on_refused
        self._running: Batch | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._index = count()

    def run(self, arrivals: Iterable[Arrival]) -> None:
        """Let all requests arrive, and compute until nothing is left to do."""
        for arrival in arrivals:
            self._at(arrival.time, functools.partial(self._arrive, arrival))
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if not self._events or self._events[0][0] > self.now:
                self._work()

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._index), event))

    def _arrive(self, arrival: Arrival) -> None:
        context = RequestContext(timeout=arrival.timeout, deadline=self.now + arrival.timeout)
        request = Request(arrival, context)
        request.price = self.admission.measure(arrival.plan).seconds
        request.prices = {(call, rows): self.costs[call].price(rows) for call, rows, _ in arrival.plan}
        self.requests.append(request)
        try:
            self.admission.admit(context, arrival.plan, self.now)
        except (QueueFull, TooLong) as error:
            request.outcome, request.error = "full" if isinstance(error, QueueFull) else "too long", error
            self._on_refused(self, request)
            return
        request.admitted = self.now
        self.open[id(context)] = request
        request.calls.extend(PlannedCall(c, rows) for c, rows, times in arrival.plan for _ in range(times))
        self._next_call(request)
        if arrival.leaves is not None:
            self._at(self.now + arrival.leaves, lambda: self._leave(request))

    def _next_call(self, request: Request) -> None:
        call, rows, _ = request.calls.popleft()
        request.job = Job(call, rows, lambda *_: (), lambda *_: None, request.context, self.now)
        self.queue.put(request.job)

    def _leave(self, request: Request) -> None:
        if not request.outcome:
            assert request.job is not None
            self.queue.drop(request.job)
            self._end(request, "left")

    def _end(self, request: Request, outcome: str) -> None:
        assert not request.outcome, "a request ended twice"
        request.outcome, request.ended = outcome, self.now
        self.admission.leave(request.context)
        del self.open[id(request.context)]

    def _work(self) -> None:
        """Begin a batch if the worker is free."""
        if self._running is not None:
            return
        slices, late = self.queue.take(self.now)
        for job in late:
            self._end(self.open[id(job.context)], "late")
        if not slices:
            assert not self.open, "the worker is idle while admitted requests wait"
            return
        self._running = Batch(self.now, slices, list(self.open.values()))
        self.batches.append(self._running)
        rows, call = sum(stop - start for _, start, stop in slices), slices[0].job.call
        assert {part.job.call for part in slices} == {call}
        overhead, per_row = self._base[call]
        seconds = self._duration(overhead + rows * per_row)
        self.longest = max(self.longest, seconds)
        for part in slices:
            request = self.open[id(part.job.context)]
            request.rows += part.stop - part.start
            request.started = min(request.started, self.now)
        self._at(self.now + seconds, lambda: self._finish(call, rows, seconds))

    def _finish(self, call: str, rows: int, seconds: float) -> None:
        batch, self._running = self._running, None
        assert batch is not None
        if self._learn:
            self.costs.record(call, rows, seconds, self.now)
        self.queue.finish(seconds, self.now)
        self.admission.finish(seconds, self.now, large=batch.slices[0].job.context.large)
        for job, _, stop in batch.slices:
            request = self.open.get(id(job.context))
            if request is None or request.job is not job or stop < job.rows:
                continue
            job.done = True
            if self.now > request.context.deadline:
                self._end(request, "late")
            elif request.calls:
                self._next_call(request)
            else:
                self._end(request, "done")
