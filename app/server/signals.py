"""Process lifecycle: graceful shutdown on SIGTERM, reload on SIGHUP, and a watchdog for model calls that hang."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from app.api.state import AppState

#: Seconds between two checks for a call that hangs.
WATCHDOG_SECONDS = 0.5
log = logging.getLogger("vae")


@contextmanager
def handle_signals(state: AppState) -> Iterator[None]:
    """Handle SIGTERM and SIGHUP while the application runs.

    SIGTERM ends readiness at once, and passes to the previous handler after the `grace` setting. In between all work is
    taken and each connection is closed with its response, so that proxies and clusters can send work elsewhere. A
    second SIGTERM skips the rest of the grace.

    SIGHUP reloads the model, unless a supervisor replaces whole workers for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(signal.SIGTERM)
    grace, single_process = state.settings.grace, state.settings.workers == 1

    def drain(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, previous)
        state.draining = True
        log.info("SIGTERM: not ready any more; stopping in %g s", grace)
        loop.call_soon_threadsafe(loop.call_later, grace, signal.raise_signal, signal.SIGTERM)

    def reload(_signal: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(state.reload)

    if grace:
        signal.signal(signal.SIGTERM, drain)
    previous_hangup = signal.signal(signal.SIGHUP, reload) if single_process else None
    try:
        yield
    finally:
        if single_process:
            signal.signal(signal.SIGHUP, previous_hangup)


async def exit_when_hung(state: AppState) -> None:
    """End this process when a call of its model hangs, for a supervisor to replace it."""
    while True:
        await asyncio.sleep(WATCHDOG_SECONDS)
        if state.model.hangs:
            break
    log.critical("a call of the model has hung for %g s: this worker ends", state.settings.hang_timeout)
    state.model.engine.batcher.give_up()
    await asyncio.sleep(WATCHDOG_SECONDS)  # in which its clients get their errors
    os._exit(1)
