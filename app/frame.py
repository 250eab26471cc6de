"""Around every request: the model's digest on the answer, a metric, a log line, and the last resort for errors."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from app.metrics import Metrics

access = logging.getLogger("vae.access")
log = logging.getLogger("vae")


class Frame:
    """ASGI middleware. `paths` are those counted by name; all others are counted as one, lest strangers fill memory."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        digest = scope["app"].state.service.engine.checkpoint.digest.encode()
        status = 0

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-model-digest", digest)]
            await send(message)

        try:
            await self.app(scope, receive, framed)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise  # the answer is under way: all that is left is to cut it off
            failed = problem(500, "Internal error", "the service failed on this request; its log has the cause")
            await failed(scope, receive, framed)
        finally:
            seconds = time.perf_counter() - started
            route = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.request(route, scope["method"], status, seconds)
            access.info("%s %s %d %.1f ms", scope["method"], scope["path"], status, seconds * 1e3)
