"""Gives back what a request has taken, when it is over."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class CleanupMiddleware:
    """Calls what the dependencies of a request have appended to `request.state.cleanups`.

    Dependencies that yield would do the same, but FastAPI and asyncio take some 10 microseconds to close each of them.
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
            for cleanup in cleanups:
                cleanup()
