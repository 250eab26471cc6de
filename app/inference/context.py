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

    deadline: float = math.inf  # on the clock of `time.monotonic`
    queued_seconds: float = 0.0  # in the queue, from the arrival of each job to its first call
    computed_seconds: float = 0.0  # in calls that computed rows of this request
    admitted: bool = False  # set by the first job: an admitted request is never refused halfway
    reserved: dict[str, int] = field(default_factory=dict)  # rows of follow-up calls, by call
    spans: list[Span] | None = None  # None: do not record spans

    def add_span(self, span: Span) -> None:
        """Record a span if spans are wanted; those beyond the first MAX_SPANS are discarded."""
        if self.spans is not None and len(self.spans) < MAX_SPANS:
            self.spans.append(span)
