"""Around every request: the model's digest on the answer, a metric, a log line, and the last resort for errors."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems as errors
from app.api.operation import Operation
from app.api.request import Request, Streamed, name_of
from app.api.state import Process, Service
from app.observability.tracing import Traces, trace_of

access = logging.getLogger("vae.access")
log = logging.getLogger("vae")


Headers = list[tuple[bytes, bytes]]
DIGEST = b"x-model-digest"
#: On every answer: a browser must not take it for anything else than it says.
SAFE = ((b"x-content-type-options", b"nosniff"),)


#: On pages: they run what this service sends and nothing else, and stand in no other page. Swagger UI's has a script
#: in it.
PAGE = (
    b"default-src 'none'; script-src 'self'%s; style-src 'self'%s; img-src 'self' data: blob:; font-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STRICT, LOOSE = PAGE % (b"", b""), PAGE % (b" 'unsafe-inline'", b" 'unsafe-inline'")


class Frame:
    """Around an ASGI application, for HTTP, and a shortcut into it: what the calls of the interface need is a look into
    a table, and FastAPI's own way to a route costs as much as all the rest of a small request.

    Args:
        operations: by path. They are counted by name, and all other paths as one, lest strangers fill memory.
    """

    #: Set when the model is loaded, before there are requests.
    service: Service
    #: Whether pages of other origins are answered, by what stands before this.
    origins = False
    #: What is to know of requests to the model, where there is tracing.
    traces: Traces | None = None

    def __init__(self, app: ASGIApp, *, process: Process, operations: Mapping[str, Operation[Any]]) -> None:
        self.app = app
        self.process = process
        self.operations = operations
        #: The same by method and path, as they are written in the head of a request.
        self.direct = {(found.method.encode(), path.encode()): found for path, found in operations.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method, path = scope["method"], scope["path"]
        name = name_of(next((value for key, value in scope["headers"] if key == b"x-request-id"), None))
        status = 0

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._ours(path, message["headers"], name)]
            await send(message)

        operation = self.operations.get(path)
        request = None
        try:
            if operation and operation.method == method and not scope.get("root_path"):
                request = Streamed(scope, receive)
                response = await self.respond(operation, request)
                await response(scope, receive, framed)
            else:
                await self._pass_on(scope, receive, framed)
        finally:
            self.count(operation.path if operation else "other", method, path, status, started, name, request)

    def _ours(self, path: str, headers: Headers, name: bytes) -> Headers:
        """What goes with the headers of an answer."""
        ours = [(b"x-request-id", name), *SAFE]
        if not any(key == DIGEST for key, _ in headers):
            ours.append((DIGEST, self.service.digest))
        if self.process.draining:
            ours.append((b"connection", b"close"))
        if any(key == b"content-type" and value.startswith(b"text/html") for key, value in headers):
            ours += [
                (b"content-security-policy", LOOSE if path.endswith("/docs") else STRICT),
                (b"referrer-policy", b"no-referrer"),
                (b"x-frame-options", b"DENY"),
            ]
        return ours

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
        service = self.service  # the one that all of this request is for, whatever takes its place
        if self.traces is not None:
            request.context.spans = []
        try:
            response = await operation.serve(request, service)
        except errors.KNOWN as error:
            response = errors.answer(request.method, request.path, error)
        except Exception:
            response = _failed(request.method, request.path)
        response.raw_headers.append((DIGEST, service.digest))
        return response

    def count(
        self, route: str, method: str, path: str, status: int, started: float, name: bytes, request: Request | None
    ) -> None:
        """Of a request that is over, a metric and a log line.

        Args:
            request: where it is one of the interface's calls.
        """
        seconds = time.perf_counter() - started
        self.process.metrics.request(route, method, status, seconds)
        if self.traces is not None and request is not None:
            self.traces.tell(self.operations[route], request, name, status, started)
        if not access.isEnabledFor(logging.INFO):
            return
        took = {"milliseconds": round(seconds * 1e3, 2)}
        if request is not None and request.rows:
            context = request.context
            took |= {"rows": request.rows, "queued": round(context.queued_seconds * 1e3, 2)}
            took["computed"] = round(context.computed_seconds * 1e3, 2)
        trace = trace_of(request) if request is not None else None
        fields = {"id": name.decode(), "method": method, "path": path, "route": route, "status": status, **took}
        said = " ".join(f"{key}={value}" for key, value in took.items()) + f" id={fields['id']}"
        if trace:
            fields["trace"] = trace
            said += f" trace={trace}"
        access.info("%s %s %d %s", method, path, status, said, extra={"fields": fields})


def _failed(method: str, path: str) -> Response:
    """Of the exception that is being handled."""
    log.exception("%s %s failed", method, path)
    return errors.problem(500, "Internal error", "the service failed on this request; its log has the cause")
