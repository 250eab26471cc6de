"""Test doubles for the worker of a batcher: calls that can be held, and a batcher that runs them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from app.inference.admission import QueueLimits
from app.inference.batcher import Batcher, Call
from app.inference.jobs import Array, Arrays

#: A row with this value makes `double` fail.
POISON = -1


def double(x: Array) -> Arrays:
    """Double the rows; raise a ValueError if one of them is POISON."""
    if (x == POISON).any():
        raise ValueError("poison")
    return (x * 2,)


class GatedCall:
    """A call that waits while its gate is closed, and that records its batches.

    Attributes:
        release: the gate; open while it is set.
        entered: set as soon as a call waits at the gate.
        batches: first column of every batch, in the order of the calls.
    """

    def __init__(self, call: Call = double, *, closed: bool = False) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.batches: list[list[float]] = []
        self._call = call
        if not closed:
            self.release.set()

    def __call__(self, *arrays: Array) -> Arrays:
        self.batches.append(arrays[0].reshape(len(arrays[0]), -1)[:, 0].tolist())
        self.entered.set()
        assert self.release.wait(20)
        return self._call(*arrays)


@contextmanager
def running_batcher(call: Callable[..., Arrays], **options: Any) -> Iterator[Batcher]:
    """A started batcher, stopped at the end. Its calls are `double`, which is this call, and `negate`."""
    options = {"batch_rows": 4, "limits": QueueLimits(100), **options}
    batcher = Batcher({"double": call, "negate": lambda x: (-x,)}, **options)
    for name in batcher.calls:
        batcher.costs.measured(name, 0.0, 1e-3)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.stop(5)


def column(*values: float) -> np.ndarray[Any, Any]:
    """Rows of one value each."""
    return np.array(values, np.float32)[:, None]


async def occupy(batcher: Batcher, gate: GatedCall, *values: float) -> "asyncio.Task[Arrays]":
    """Close the gate and wait until a call with these rows is held there, so that all later jobs are queued."""
    gate.release.clear()
    gate.entered.clear()
    task = asyncio.create_task(batcher.run("double", column(*values)))
    await asyncio.to_thread(gate.entered.wait, 10)
    return task
