"""What befalls a process of the service: it is told to stop, or to load its model anew; or its model hangs."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.api.state import Process
from app.middleware.frame import Frame
from model.errors import VAEError

#: Seconds between two looks at whether the model hangs.
LOOK = 0.5
log = logging.getLogger("vae")


@contextmanager
def signals(process: Process) -> Iterator[None]:
    """Have SIGTERM end readiness first, and whatever it did before follow after the service's `grace`; and SIGHUP load
    the model anew, where there is no supervisor to replace whole workers for that.

    In the time of grace all work is taken, and each connection closed with its answer: who watches readiness, a proxy
    or a cluster, can send work elsewhere. A second SIGTERM leaves out the rest of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    then = signal.getsignal(signal.SIGTERM)
    grace, alone = process.settings.grace, process.settings.workers == 1

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, then)
        process.draining = True
        log.info("told to stop: not ready any more, and gone in %g s", grace)
        loop.call_soon_threadsafe(loop.call_later, grace, signal.raise_signal, signal.SIGTERM)

    def renew(_signal: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(_renew(process))))

    tasks = set[asyncio.Task[None]]()
    if grace:
        signal.signal(signal.SIGTERM, stop)
    before = signal.signal(signal.SIGHUP, renew) if alone else None
    try:
        yield
    finally:
        if alone:
            signal.signal(signal.SIGHUP, before)


async def _renew(process: Process) -> None:
    assert process.reload is not None
    try:
        await process.reload()
    except VAEError as error:
        log.error("the model was not loaded anew, and the old one is served on: %s", error)
    except Exception:
        log.exception("the model was not loaded anew, and the old one is served on")


async def end_when_stuck(frame: Frame) -> None:
    """End this process when its model hangs, for one that has somebody to replace it."""
    while True:
        await asyncio.sleep(LOOK)
        if frame.service.stuck:
            break
    log.critical("a call of the model has hung for %g s: this worker ends", frame.process.settings.hang_timeout)
    frame.service.engine.batcher.give_up()
    await asyncio.sleep(LOOK)  # in which its clients are told
    os._exit(1)
