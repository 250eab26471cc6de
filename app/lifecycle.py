"""How a process of the service ends: in two steps where it is told to, and at once where its model hangs."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.service import Service

#: Seconds between two looks at whether the model hangs.
LOOK = 0.5
log = logging.getLogger("vae")


@contextmanager
def two_steps(service: Service) -> Iterator[None]:
    """Have SIGTERM end readiness first, and whatever it did before follow after the service's `grace`.

    In between all work is taken, and each connection closed with its answer: who watches readiness, a proxy or a
    cluster, has time to send work elsewhere. A second SIGTERM leaves out the rest of the time.
    """
    grace = service.settings.grace
    if not grace or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    then = signal.getsignal(signal.SIGTERM)

    def first(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, then)
        service.draining = True
        log.info("told to stop: not ready any more, and gone in %g s", grace)
        loop.call_soon_threadsafe(loop.call_later, grace, signal.raise_signal, signal.SIGTERM)

    signal.signal(signal.SIGTERM, first)
    yield


async def end_when_stuck(service: Service) -> None:
    """End this process when the model hangs, for one that has somebody to replace it."""
    while True:
        await asyncio.sleep(LOOK)
        if service.stuck:
            break
    log.critical("a call of the model has hung for %g s: this worker ends", service.settings.hang_timeout)
    service.engine.batcher.give_up()
    await asyncio.sleep(LOOK)  # in which its clients are told
    os._exit(1)
