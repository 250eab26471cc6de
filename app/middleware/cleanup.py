"""Gives back what a request has taken, when it is over."""

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("vae")


def run_cleanups(cleanups: list[Callable[[], None]]) -> None:
    """Call the functions, the last first. One that raises is logged, and the others are still called."""
    while cleanups:
        try:
            cleanups.pop()()
        except Exception:
            log.exception("a cleanup of a request failed")


class CleanupMiddleware:
    """Calls what the dependencies of a request have appended to `request.state.cleanups`.

    Dependencies that yield would do the same, but asyncio tracks each asynchronous generator, which takes longer than
    the function itself (docs/LOG.md).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cleanups: list[Callable[[], None]] = []
        scope.setdefault("state", {})["cleanups"] = cleanups
        try:
            await self.app(scope, receive, send)
        finally:
            run_cleanups(cleanups)
