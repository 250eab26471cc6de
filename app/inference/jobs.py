"""Jobs: the rows of one request for one model call. Knows no threads, HTTP or VAE."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.inference.context import RequestContext

Array = NDArray[Any]
Arrays = tuple[Array, ...]


@dataclass(eq=False, slots=True)
class Job:
    """Rows of one request for one model call.

    `take(start, stop)` returns the arguments of the call for these rows; `put(start, stop, outputs)` receives the
    outputs. Both run on the worker thread, slice by slice and in order.
    """

    call: str
    rows: int
    take: Callable[[int, int], Arrays]
    put: Callable[[int, int, Arrays], None]
    context: RequestContext
    queued_at: float = 0.0  # on the clock of `time.monotonic`
    rows_taken: int = 0  # rows that are, or were, in a call
    done: bool = False  # computed, failed, late or dropped
    error: Exception | None = None
    future: "asyncio.Future[None]" = field(init=False)

    @property
    def remaining(self) -> int:
        """Number of rows that are in no call yet."""
        return self.rows - self.rows_taken

    def settle(self) -> None:
        """Resolve the future, unless its waiter was cancelled. Call it on the event loop of the future."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)


class ArrayJob:
    """Arrays as the `take` and `put` of a job. Arrays are sliced and concatenated only if the job was cut."""

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
        """Outputs of all rows, in order."""
        parts = self.parts
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class BatchSlice(NamedTuple):
    """Rows of one job in one batch."""

    job: Job
    start: int
    stop: int
