"""Outcomes of requests, and the figures of one measured point."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: Codes in the place of a status.
UNANSWERED, BROKEN, NO_CONNECTION, TOO_LATE = 0, -1, -2, -3


class Outcomes:
    """Outcomes of requests as parallel lists, because the generator has some microseconds per request."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.status: list[int] = []
        self.due: list[float] = []  # on the clock of time.perf_counter
        self.delay: list[float] = []  # seconds from when it was due until it was sent
        self.seconds: list[float] = []  # from when it was due to the end of its answer
        self.retry_after: list[int] = []  # of refusals
        self.started = time.perf_counter()

    def add(self, kind: str, due: float, delay: float = 0.0, status: int = UNANSWERED) -> int:
        """Add a request; return its number."""
        self.kinds.append(kind)
        self.status.append(status)
        self.due.append(due)
        self.delay.append(delay)
        self.seconds.append(0.0)
        return len(self.status) - 1

    def end(self, number: int, status: int, retry_after: int | None = None) -> None:
        """Note the answer to a request."""
        self.status[number] = status
        self.seconds[number] = time.perf_counter() - self.due[number]
        if retry_after is not None:
            self.retry_after.append(retry_after)


@dataclass
class Observed:
    """The service during a point, observed once a second."""

    memory: list[float] = field(default_factory=list)  # MB
    ready: list[float] = field(default_factory=list)  # seconds of GET /health/ready that came to 200
    not_ready: int = 0


@dataclass
class Figures:
    """Figures of one closed or open loop, of all requests or of those of one kind. Times are in ms, rates per second.

    `elapsed` is the time from the start to the last answer with 200. Whatever was admitted is counted, and so is all
    the time that it took, so that a few large requests give the same rate as many small ones.
    """

    elapsed: float
    requests: int  # due
    sent: int
    done: int  # answered with 200 within the limit of the client
    late: int  # answered with 200 later than that
    refused: int  # 429
    too_large: int  # 413
    expired: int  # 504
    other: int  # any other status
    broken: int  # connection errors and requests without an answer
    no_connection: int
    work: float  # seconds of the service that the done requests cost
    sent_work: float  # seconds of the service that the sent requests would cost
    p50: float | None
    p99: float | None
    refusal_p50: float | None
    refusal_p99: float | None
    delay_p99: float | None
    retry_after: list[int]  # smallest and largest
    memory: list[float]  # MB before, largest, after
    ready_max: float | None
    not_ready: int

    @property
    def rate(self) -> float:
        return self.done / self.elapsed

    @property
    def work_rate(self) -> float:
        return self.work / self.elapsed

    @property
    def in_time_share(self) -> float:
        """Share of the requests for which the generator was not too slow."""
        return (self.sent + self.no_connection) / self.requests if self.requests else 1.0


def figures(
    outcomes: Outcomes,
    costs: Mapping[str, float],
    *,
    seconds: float = 0.0,
    limit: float = float("inf"),
    kind: str | None = None,
    observed: Observed | None = None,
) -> Figures:
    """Sum up the requests of a loop.

    Args:
        costs: seconds of the service per request, by kind.
        seconds: for how long requests were sent; the least value of `elapsed`.
        limit: seconds after which an answer no longer counts.
        kind: the only kind that counts; all kinds if None.
    """
    observed = observed or Observed()
    status, taken, due = np.array(outcomes.status, int), np.array(outcomes.seconds), np.array(outcomes.due)
    good = status == 200
    elapsed = max([seconds, 1e-9, *(due + taken - outcomes.started)[good].tolist()])
    kinds = np.array(outcomes.kinds, dtype=object)
    mine = np.full(len(status), True) if kind is None else kinds == kind
    delay = np.array(outcomes.delay)[mine & (status > NO_CONNECTION)]
    in_time = mine & good & (taken <= limit)
    done = int(in_time.sum())

    def count(*values: int) -> int:
        return int(np.isin(status[mine], values).sum())

    skipped, no_connection = count(NO_CONNECTION, TOO_LATE), count(NO_CONNECTION)
    named = count(200, 429, 413, 504, UNANSWERED, BROKEN)
    memory = observed.memory
    return Figures(
        elapsed=elapsed,
        requests=int(mine.sum()),
        sent=int(mine.sum()) - skipped,
        done=done,
        late=count(200) - done,
        refused=count(429),
        too_large=count(413),
        expired=count(504),
        other=int(mine.sum()) - skipped - named,
        broken=count(UNANSWERED, BROKEN),
        no_connection=no_connection,
        work=cost_of(kinds[in_time], costs),
        sent_work=cost_of(kinds[mine & (status > NO_CONNECTION)], costs),
        p50=percentile(taken[mine & good], 50),
        p99=percentile(taken[mine & good], 99),
        refusal_p50=percentile(taken[mine & (status == 429)], 50),
        refusal_p99=percentile(taken[mine & (status == 429)], 99),
        delay_p99=percentile(delay, 99),
        retry_after=[min(outcomes.retry_after), max(outcomes.retry_after)] if outcomes.retry_after else [],
        memory=[memory[0], max(memory), memory[-1]] if memory else [],
        ready_max=1e3 * max(observed.ready) if observed.ready else None,
        not_ready=observed.not_ready,
    )


def cost_of(kinds: np.ndarray, costs: Mapping[str, float]) -> float:
    """Return the seconds of the service that requests of these kinds cost."""
    return float(sum(costs.get(name, 0.0) for name in kinds))


def percentile(seconds: np.ndarray, share: float) -> float | None:
    """Return a percentile in milliseconds, or None without values."""
    return 1e3 * float(np.percentile(seconds, share)) if len(seconds) else None


def goodput_ratio(done: float, sent: float, peak: float, factor: float) -> float:
    """Return the goodput over the best that was possible.

    That is the peak; for an offered rate of at most the peak, it is what was sent, if that was less.

    Args:
        done, sent, peak: work per second.
        factor: the offered rate over that of the peak.
    """
    possible = min(sent, peak) if factor <= 1 else peak
    return done / possible if possible else 0.0
