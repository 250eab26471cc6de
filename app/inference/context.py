"""Limits and timings of one request, shared by all of its jobs."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

#: Maximum number of spans recorded for one request.
MAX_SPANS = 128


class Span(NamedTuple):
    """A timed phase of a request. Times are seconds on the clock of `time.monotonic`."""

    name: str  # parse, queue, compute or serialize
    start: float
    end: float
    call: str = ""  # name of the model call, for queue and compute
    rows: int = 0  # rows of the whole batch, for compute


@dataclass(slots=True)
class RequestContext:
    """Deadline of a request, and the time that it has spent so far."""

    timeout: float = math.inf  # seconds from when the request is complete to its deadline
    deadline: float = math.inf  # on the clock of `time.monotonic`
    rows: int = 0  # that the request brings, or asks for
    queued_seconds: float = 0.0  # in the queue, from the arrival of each job to its first call
    computed_seconds: float = 0.0  # in calls that computed rows of this request
    order: int = -1  # place among all admitted requests; below 0: not admitted
    large: bool = False  # more than a batch of work
    admitted_at: float = 0.0  # on the clock of `time.monotonic`
    start_by: float = math.inf  # when its first call is to begin at the latest; inf once it has begun
    planned: dict[str, int] = field(default_factory=dict)  # rows that are in no call yet, by call
    prices: dict[str, tuple[float, float]] = field(default_factory=dict)  # seconds and shared seconds of a row, by call
    seconds: float = 0.0  # estimated work of the planned rows, computed alone
    shared_seconds: float = 0.0  # estimated work where other requests share the calls
    spans: list[Span] | None = None  # None: do not record spans

    @property
    def admitted(self) -> bool:
        """True if the request is admitted: it is never refused halfway."""
        return self.order >= 0

    def add_span(self, span: Span) -> None:
        """Record a span if spans are wanted; those beyond the first MAX_SPANS are discarded."""
        if self.spans is not None and len(self.spans) < MAX_SPANS:
            self.spans.append(span)
