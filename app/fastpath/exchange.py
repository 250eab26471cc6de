"""A request that goes the shorter way, and its answer."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.api import problems as errors
from app.api.bodies import SMALL, Bodies
from app.api.operation import Operation
from app.api.request import Request, name_of
from app.api.watch import ClientLeft, Watch
from app.inference.context import RequestContext

if TYPE_CHECKING:
    from app.fastpath.protocol import Protocol

T = TypeVar("T")
GONE = errors.STATUS[ClientLeft][0]
STOPPED = "the service stopped before this request was done; send it again"


class Exchange(Request):
    """To uvicorn it is what its own `RequestResponseCycle` is: `response_complete` says whether the connection is free
    for the next request, and `keep_alive` is taken away when the server is to stop.
    """

    __slots__ = (
        "_arrived",
        "_complete",
        "_headers",
        "_left",
        "_length",
        "_name",
        "_operation",
        "_parts",
        "_protocol",
        "_size",
        "_started",
        "_wanted",
        "keep_alive",
        "response_complete",
        "task",
    )

    def __init__(
        self, protocol: "Protocol", operation: Operation[Any], query: bytes, headers: dict[bytes, bytes], length: int
    ) -> None:
        self.method, self.path, self.query = operation.method, operation.path, query
        self.taken = self.rows = 0
        self.context = RequestContext()
        self.keep_alive = True
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None
        self._protocol = protocol
        self._operation = operation
        self._headers = headers
        self._name = name_of(headers.get(b"x-request-id"))
        self._length = length
        self._parts: list[bytes] = []
        self._size = 0
        # Whether what arrives of the body is kept.
        self._wanted = operation.body is not None and length <= protocol.frame.process.bodies.max_bytes
        self._started = time.perf_counter()
        self._complete = self._left = False
        self._arrived: asyncio.Future[None] | None = None

    # What the connection has to say.

    def feed(self, part: bytes) -> None:
        """Some of the body."""
        if not self._wanted:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size <= max(SMALL, self.taken):
            return
        try:
            self.take(self._protocol.frame.process.bodies, max(self._size - self.taken, SMALL + 1))
        except errors.Crowded as error:
            self._let_go()
            self._settle(error)

    def complete(self) -> None:
        """The body is all here."""
        self._complete = True
        self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if self._arrived is None:
            if error:
                self._arrived = self._protocol.loop.create_future()
                self._arrived.set_exception(error)
        elif not self._arrived.done():
            if error:
                self._arrived.set_exception(error)
            else:
                self._arrived.set_result(None)

    def _let_go(self) -> None:
        """Of what is here of the body, and of what is still to come."""
        self._wanted = False
        self._parts = []

    def leave(self) -> None:
        """The client is gone: nothing more is done for it."""
        if self.task is not None and not self.response_complete:
            self._left = True
            self.task.cancel()

    # What the operation asks for.

    def header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, bodies: Bodies) -> bytes:
        if self._length > bodies.max_bytes:
            raise bodies.too_large()
        if self._arrived is not None or not self._complete:
            await self._arrival(bodies)
        parts = self._parts
        self._let_go()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _arrival(self, bodies: Bodies) -> None:
        if self._arrived is None:
            self._arrived = self._protocol.loop.create_future()
        entry = bodies.watch.over_body(bodies.timeout)
        try:
            await self._arrived
        except asyncio.CancelledError:
            if not self._left and entry.recalled():
                raise bodies.too_slow() from None
            raise
        finally:
            bodies.watch.forget(entry)

    def work(self, watch: Watch, result: Awaitable[T]) -> Awaitable[T]:  # noqa: ARG002
        return result  # nobody need watch: the connection tells when the client leaves

    # The answer.

    async def run(self) -> None:
        """Give it."""
        protocol = self._protocol
        status = 0
        try:
            response = await protocol.frame.respond(self._operation, self)
            status = response.status_code
            self._let_go()
            if protocol.flow.write_paused:
                await protocol.flow.drain()
            self._write(response)
        except asyncio.CancelledError:
            status = GONE
            if not self._left:  # the server has no more time for it
                self.keep_alive = False
                status = 503
                self._write(errors.problem(503, "Unavailable", STOPPED))
                raise
        finally:
            self.response_complete = True
            protocol.tasks.discard(self.task)
            protocol.frame.count(self.path, self.method, self.path, status, self._started, self._name, self)

    def _write(self, response: Response) -> None:
        self.response_complete = True
        protocol = self._protocol
        transport = protocol.transport
        if self._left or transport.is_closing():
            return
        parts = [STATUS_LINE[response.status_code], protocol.shared.head]
        parts += (b"x-request-id: ", self._name, b"\r\n")
        for name, value in response.raw_headers:
            parts += (name, b": ", value, b"\r\n")
        if self.keep_alive and not protocol.frame.process.draining:
            parts += (b"\r\n", bytes(response.body))
            protocol.shared.send(transport, b"".join(parts))
        else:
            parts += (b"connection: close\r\n\r\n", bytes(response.body))
            transport.write(b"".join(parts))
            transport.close()
        protocol.exchanged()
