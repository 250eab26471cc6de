"""Errors of inference, free of HTTP.

InferenceError
├── QueueFull        too much work is queued; carries `retry_after`
├── TooLong          the request would pass its deadline even alone
├── DeadlinePassed   the job was not done by its deadline
├── CallFailed       the model call raised on the rows of this job
│   └── OutOfMemory  the model call ran out of memory
└── BatcherStopped   the worker is stopping or dead
"""

import math
from typing import Literal


def in_words(seconds: float) -> str:
    """Seconds with two significant digits.

    >>> in_words(0.123), in_words(61.7), in_words(240)
    ('0.12', '62', '240')
    """
    return f"{seconds:.2g}" if seconds < 100 else f"{seconds:.0f}"


def whole_wait(seconds: float) -> int:
    """Round a wait up to whole seconds, from 1 to 60."""
    return math.ceil(min(60.0, max(1.0, seconds)))


class InferenceError(Exception):
    """Base of all errors that inference raises."""


#: Limits that a refused request would exceed.
Bound = Literal["queue_rows", "queue_seconds", "large_queue_seconds", "deadline", "share", "unmeasured"]


class QueueFull(InferenceError):
    """The request cannot be done in time, or not within the limits of the queue, for an estimated number of seconds.

    `elsewhere` is True if another worker may have time for it sooner.
    """

    def __init__(self, bound: Bound, reason: str, seconds: float, *, elsewhere: bool = False) -> None:
        self.bound = bound
        self.elsewhere = elsewhere
        self.retry_after = whole_wait(seconds)
        super().__init__(f"queue full: {reason}; retry after {self.retry_after} s")


class TooLong(InferenceError):
    """The request could not be done before its deadline even if no other large request were there."""

    def __init__(self, seconds: float, timeout: float) -> None:
        super().__init__(
            f"the request may take up to an estimated {in_words(seconds)} s even without others, and it has "
            f"{timeout:g} s; send fewer rows or samples, or allow more time (X-Request-Timeout, at most VAE_DEADLINE)"
        )


DEADLINE_MESSAGE = "the request was not computed in time; send fewer rows or retry later"


class DeadlinePassed(InferenceError):
    """The job was not done by its deadline; its remaining rows were not computed."""


class CallFailed(InferenceError):
    """The model call raised on the rows of this job; the exception of the call is the cause."""


class OutOfMemory(CallFailed):
    """The model call ran out of memory."""


class BatcherStopped(InferenceError):
    """The worker is stopping or dead."""
