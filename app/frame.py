"""Around every request: the model's digest on the answer, a metric, a log line, and the last resort for errors."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.metrics import Metrics
from app.operation import Operation

access = logging.getLogger("vae.access")
log = logging.getLogger("vae")


class Frame:
    """Around an ASGI application, for HTTP, and a shortcut into it: what the calls of the interface need is a look into
    a table, and FastAPI's own way to a route costs as much as all the rest of a small request.

    Args:
        operations: by path. They are counted by name, and all other paths as one, lest strangers fill memory.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, operations: Mapping[str, Operation[Any]]) -> None:
        self.app = app
        self.metrics = metrics
        self.operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        digest = scope["app"].state.service.digest
        status = 0

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-model-digest", digest)]
            await send(message)

        operation = self.operations.get(scope["path"])
        try:
            if operation and operation.method == scope["method"] and not scope.get("root_path"):
                await self._respond(operation, scope, receive, framed)
            else:
                await self.app(scope, receive, framed)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise  # the answer is under way: all that is left is to cut it off
            failed = errors.problem(500, "Internal error", "the service failed on this request; its log has the cause")
            await failed(scope, receive, framed)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.request(operation.path if operation else "other", scope["method"], status, seconds)
            if access.isEnabledFor(logging.INFO):
                access.info("%s %s %d %.1f ms", scope["method"], scope["path"], status, seconds * 1e3)

    async def _respond(self, operation: Operation[Any], scope: Scope, receive: Receive, send: Send) -> None:
        """As the operation's route in the application does, with the same answers to the same errors."""
        request = Request(scope, receive)
        try:
            response = await operation.respond(request)
        except errors.KNOWN as error:
            response = errors.answer(request, error)
        await response(scope, receive, send)
