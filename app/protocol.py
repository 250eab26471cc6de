"""uvicorn's HTTP protocol, with a shorter way for the calls of the interface.

ASGI's messages and the scope they need cost more than reading, computing and answering a small request. Here a request
goes to its operation as it is, and its answer is written in one piece. Everything else about a connection, and every
request that is out of the ordinary, is uvicorn's.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.bodies import Bodies
from app.errors import STATUS
from app.frame import Frame
from app.operation import Operation
from app.request import Request
from app.watch import ClientLeft, Watch

T = TypeVar("T")
#: Headers that ask for more than an answer, or announce a body of unknown length.
UNUSUAL = frozenset({b"connection", b"expect", b"transfer-encoding", b"upgrade"})

#: Seconds for which a stopping server leaves a connection open that brings nothing.
LINGER = 0.5
GONE = STATUS[ClientLeft][0]


class Server:
    """What the connections of one server share: the headers of every answer, answers on their way out, and one timer
    for all connections that wait for a request.

    Answers are written together, when all that a call of the model has woken have theirs: a client is woken by each
    answer that finds it asleep, and what comes in one go finds it awake.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, state: ServerState, digest: bytes, keep_alive: float) -> None:
        self._loop = loop
        self._state = state
        self._digest = digest
        self._keep_alive = keep_alive
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._head = b""
        self._idle: dict[Protocol, float] = {}  # and since when, the longest first
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, protocol: "Protocol") -> "Server":
        """The one that this connection belongs to; it is kept in the state that uvicorn hands to each."""
        found: Server | None = protocol.app_state.get(cls.__qualname__)
        if found is None:
            digest, keep_alive = protocol.app.frame.service.digest, protocol.timeout_keep_alive
            found = cls(protocol.loop, protocol.server_state, digest, keep_alive)
            protocol.app_state[cls.__qualname__] = found
        return found

    @property
    def head(self) -> bytes:
        """The headers that every answer has; uvicorn makes some of them anew each second, for the date."""
        if self._headers is not self._state.default_headers:
            self._headers = self._state.default_headers
            everyone = [*self._headers, (b"x-model-digest", self._digest)]
            self._head = b"".join(b"%s: %s\r\n" % header for header in everyone)
        return self._head

    def send(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write this when the loop comes round; at once where nobody else is being served."""
        if not self._waiting:
            if len(self._state.tasks) == 1:
                transport.write(answer)
                return
            self._loop.call_soon(self._write)
        self._waiting.append((transport, answer))

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, answer in waiting:
            transport.write(answer)

    def rest(self, protocol: "Protocol") -> None:
        """Close this connection if it brings nothing for as long as one may be kept alive."""
        self._idle[protocol] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keep_alive, self._look)

    def rouse(self, protocol: "Protocol") -> None:
        """It brings something, or is gone."""
        self._idle.pop(protocol, None)

    def _look(self) -> None:
        now = self._loop.time()
        while self._idle:
            protocol, since = next(iter(self._idle.items()))
            if now - since < self._keep_alive:
                self._timer = self._loop.call_later(since + self._keep_alive - now, self._look)
                return
            self.rouse(protocol)
            protocol.timeout_keep_alive_handler()
        self._timer = None


class Protocol(HttpToolsProtocol):
    """One connection. The application is an `app.main.Application`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._frame: Frame = self.app.frame
        self._direct = self._frame.direct
        self._held: Exchange | None = None  # of which the end has yet to arrive
        self.running: Exchange | None = None
        self.shared = Server.of(self)

    def on_message_begin(self) -> None:
        # ASGI's scope can wait until it is known to be needed.
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._held = self._hold()
        if self._held is None:
            url, headers = self.url, self.headers
            super().on_message_begin()
            super().on_url(url)
            for name, value in headers:
                super().on_header(name, value)
            super().on_headers_complete()

    def _hold(self) -> "Exchange | None":
        """The request whose head is here, if it can go the shorter way."""
        path, _, query = self.url.partition(b"?")
        operation = self._direct.get((self.parser.get_method(), path))
        if operation is None or self.root_path or self.limit_concurrency is not None or b"#" in query:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined: uvicorn has it wait for its turn
        headers = dict(self.headers)
        if len(headers) != len(self.headers) or not self.parser.should_keep_alive():
            return None
        if not UNUSUAL.isdisjoint(headers) and not self._usual(headers):
            return None
        return Exchange(self, self._frame, operation, query, headers)

    def _usual(self, headers: dict[bytes, bytes]) -> bool:
        """Whether an unusual header says no more than goes without saying."""
        said = headers.get(b"connection", b"").lower(), self.parser.get_http_version()
        return said == (b"keep-alive", "1.1") and len(UNUSUAL & headers.keys()) == 1

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        elif not self._held.response_complete:
            self._held.parts.append(body)

    def on_message_complete(self) -> None:
        held, self._held = self._held, None
        if held is None:
            super().on_message_complete()
        else:
            held.complete()

    def data_received(self, data: bytes) -> None:
        self.shared.rouse(self)
        super().data_received(data)
        if self._held is not None and self._held.task is None:
            self._held.start()  # with the rest of its body still to come

    def shutdown(self) -> None:
        """The server stops. What is on its way here already must not find the door shut."""
        self._frame.service.draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER, self._shut)
        else:
            super().shutdown()

    def _shut(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def exchanged(self) -> None:
        """An exchange is over: what uvicorn does then, but for a timer of its own for each connection."""
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self.shared.rest(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.rouse(self)
        if self.running is not None:
            self.running.leave()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)


class Exchange(Request):
    """A request and its answer.

    To uvicorn it is what its own `RequestResponseCycle` is: `response_complete` says whether the connection is free for
    the next one, and `keep_alive` is taken away when the server is to stop.
    """

    __slots__ = (
        "_arrived",
        "_complete",
        "_left",
        "_started",
        "frame",
        "headers",
        "keep_alive",
        "operation",
        "parts",
        "protocol",
        "response_complete",
        "task",
    )

    def __init__(
        self, protocol: Protocol, frame: Frame, operation: Operation[Any], query: bytes, headers: dict[bytes, bytes]
    ) -> None:
        self.protocol = protocol
        self.frame = frame
        self.operation = operation
        self.method, self.path, self.query = operation.method, operation.path, query
        self.headers = headers
        self.parts: list[bytes] = []
        self.keep_alive = True
        self.response_complete = False
        self.taken = 0
        self.task: asyncio.Task[None] | None = None
        self._started = time.perf_counter()
        self._complete = self._left = False
        self._arrived: asyncio.Future[None] | None = None

    # What the connection has to say.

    def start(self) -> None:
        """Begin to answer."""
        protocol = self.protocol
        protocol.cycle = protocol.running = self  # type: ignore[assignment]
        self.task = protocol.loop.create_task(self._run())
        protocol.tasks.add(self.task)

    def complete(self) -> None:
        """The body is all here."""
        self._complete = True
        if self.task is None:
            self.start()
        elif self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def leave(self) -> None:
        """The client is gone: nothing more is done for it."""
        if self.task is not None and not self.response_complete:
            self._left = True
            self.task.cancel()

    # What the operation asks for.

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self, bodies: Bodies) -> bytes:
        announced = int(self.headers.get(b"content-length", b"0"))
        if announced > bodies.max_bytes:
            raise bodies.too_large()
        self.take(bodies, announced)
        if not self._complete:
            self._arrived = self.protocol.loop.create_future()
            entry = bodies.watch.over_body(bodies.timeout)
            try:
                await self._arrived
            except asyncio.CancelledError:
                if not self._left and entry.recalled():
                    raise bodies.too_slow() from None
                raise
            finally:
                bodies.watch.forget(entry)
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def work(self, watch: Watch, result: Awaitable[T]) -> Awaitable[T]:  # noqa: ARG002
        return result  # nobody need watch: the connection tells when the client leaves

    # The answer.

    async def _run(self) -> None:
        status = 0
        try:
            response = await self.frame.respond(self.operation, self)
            status = response.status_code
            if self.protocol.flow.write_paused:
                await self.protocol.flow.drain()
            self._write(response)
        except asyncio.CancelledError:
            if not self._left:
                raise
            status = GONE
        finally:
            self.response_complete = True
            self.protocol.tasks.discard(self.task)
            self.frame.count(self.path, self.method, self.path, status, self._started)

    def _write(self, response: Response) -> None:
        self.response_complete = True
        protocol = self.protocol
        transport = protocol.transport
        if self._left or transport.is_closing():
            return
        parts = [STATUS_LINE[response.status_code], protocol.shared.head]
        for name, value in response.raw_headers:
            parts += (name, b": ", value, b"\r\n")
        if self.keep_alive and not self.frame.service.draining:
            parts += (b"\r\n", bytes(response.body))
            protocol.shared.send(transport, b"".join(parts))
        else:
            parts += (b"connection: close\r\n\r\n", bytes(response.body))
            transport.write(b"".join(parts))
            transport.close()
        protocol.exchanged()
