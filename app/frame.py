"""Around every request: the model's digest on the answer, a metric, a log line, and the last resort for errors."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.metrics import Metrics
from app.operation import Operation, parse
from app.request import Request, Streamed
from app.service import Service

access = logging.getLogger("vae.access")
log = logging.getLogger("vae")


class Frame:
    """Around an ASGI application, for HTTP, and a shortcut into it: what the calls of the interface need is a look into
    a table, and FastAPI's own way to a route costs as much as all the rest of a small request.

    Args:
        operations: by path. They are counted by name, and all other paths as one, lest strangers fill memory.
    """

    #: Set when the model is loaded, before there are requests.
    service: Service

    def __init__(self, app: ASGIApp, *, metrics: Metrics, operations: Mapping[str, Operation[Any]]) -> None:
        self.app = app
        self.metrics = metrics
        self.operations = operations
        #: The same by method and path, as they are written in the head of a request.
        self.direct = {(found.method.encode(), path.encode()): found for path, found in operations.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method, path = scope["method"], scope["path"]
        status = 0

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-model-digest", self.service.digest)]
                if self.service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        operation = self.operations.get(path)
        try:
            if operation and operation.method == method and not scope.get("root_path"):
                response = await self.respond(operation, Streamed(scope, receive))
                await response(scope, receive, framed)
            else:
                await self._pass_on(scope, receive, framed)
        finally:
            self.count(operation.path if operation else "other", method, path, status, started)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To the application, for whatever is no call of the interface."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            failed = _failed(scope["method"], scope["path"])
            if begun:
                raise  # the answer is under way: all that is left is to cut it off
            await failed(scope, receive, send)

    async def respond(self, operation: Operation[Any], request: Request) -> Response:
        """What the operation answers, or the answer to its error: as its route in the application would."""
        try:
            return await operation.run(request, self.service, parse(operation.query, request.query))
        except errors.KNOWN as error:
            return errors.answer(request.method, request.path, error)
        except Exception:
            return _failed(request.method, request.path)
        finally:
            if request.taken:
                self.service.bodies.room.free(request.taken)

    def count(self, route: str, method: str, path: str, status: int, started: float) -> None:
        """Of a request that is over, a metric and a log line."""
        seconds = time.perf_counter() - started
        self.metrics.request(route, method, status, seconds)
        if access.isEnabledFor(logging.INFO):
            access.info("%s %s %d %.1f ms", method, path, status, seconds * 1e3)


def _failed(method: str, path: str) -> Response:
    """Of the exception that is being handled."""
    log.exception("%s %s failed", method, path)
    return errors.problem(500, "Internal error", "the service failed on this request; its log has the cause")
