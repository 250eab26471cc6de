"""Errors of inference, free of HTTP.

InferenceError
├── QueueFull        too much work is queued; carries `retry_after`
├── DeadlinePassed   the job was not done by its deadline
├── CallFailed       the model call raised on the rows of this job
│   └── OutOfMemory  the model call ran out of memory
└── BatcherStopped   the worker is stopping or dead
"""

import math


def whole_wait(seconds: float) -> int:
    """Round a wait up to whole seconds, from 1 to 60."""
    return math.ceil(min(60.0, max(1.0, seconds)))


class InferenceError(Exception):
    """Base of all errors that inference raises."""


class QueueFull(InferenceError):
    """The queue has no room for the job for an estimated number of seconds, or the job cannot be done in time."""

    def __init__(self, reason: str, seconds: float) -> None:
        self.retry_after = whole_wait(seconds)
        super().__init__(f"{reason}; retry after {self.retry_after} s")


class DeadlinePassed(InferenceError):
    """The job was not done by its deadline; its remaining rows were not computed."""


class CallFailed(InferenceError):
    """The model call raised on the rows of this job; the exception of the call is the cause."""


class OutOfMemory(CallFailed):
    """The model call ran out of memory."""


class BatcherStopped(InferenceError):
    """The worker is stopping or dead."""
