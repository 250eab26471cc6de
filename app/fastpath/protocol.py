"""uvicorn's HTTP protocol, with a shorter way for the calls of the interface, and bounds that it leaves open.

ASGI's messages and the scope they need cost more than reading, computing and answering a small request. Here a request
goes to its operation as it is, and its answer is written in one piece. Every request that is out of the ordinary goes
uvicorn's way. On either, the head of a request is bounded in size and time, and so is what is sent ahead of answers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.fastpath.exchange import Exchange
from app.middleware.frame import SAFE, Frame

#: Headers that ask for more than an answer, or announce a body of unknown length.
UNUSUAL = frozenset({b"connection", b"expect", b"transfer-encoding", b"upgrade"})
#: Digits of a length that is certain to be a number, and small enough for one.
DIGITS = 18
#: Seconds from the opening of a connection, or the first byte of a head, until the head must be here.
HEAD_SECONDS = 10.0
#: Bytes that a head may have, where it does not arrive in one piece.
HEAD_BYTES = 1 << 16
#: Requests that may be sent ahead of answers, and the bytes of the body of one of them.
AHEAD, AHEAD_BYTES = 32, 1 << 18
#: Seconds for which a stopping server leaves a connection open that brings nothing.
LINGER = 0.5


class Lapse:
    """One timer for all connections of a server that may be silent for so long.

    Args:
        seconds: from when one enters.
        over: called with those that are still here then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, over: "Callable[[Protocol], None]") -> None:
        self._loop = loop
        self._seconds = seconds
        self._over = over
        self._since: dict[Protocol, float] = {}  # the longest first
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, protocol: "Protocol") -> None:
        """From now on; where it is here already, still from when it entered."""
        self._since.setdefault(protocol, self._loop.time())
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def leave(self, protocol: "Protocol") -> None:
        """It brings something, or is gone."""
        self._since.pop(protocol, None)

    def _look(self) -> None:
        now = self._loop.time()
        while self._since:
            protocol, since = next(iter(self._since.items()))
            if now < since + self._seconds:
                self._timer = self._loop.call_later(since + self._seconds - now, self._look)
                return
            self.leave(protocol)
            self._over(protocol)
        self._timer = None


class Server:
    """What the connections of one server share: the headers of every answer, answers on their way out, and timers.

    Answers are written together, when all that a call of the model has woken have theirs: a client is woken by each
    answer that finds it asleep, and what comes in one go finds it awake.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, state: ServerState, keep_alive: float) -> None:
        self.idle = Lapse(loop, keep_alive, HttpToolsProtocol.timeout_keep_alive_handler)
        self.heads = Lapse(loop, HEAD_SECONDS, Protocol.head_too_slow)
        self._loop = loop
        self._state = state
        self._leaving: list[tuple[asyncio.Transport, bytes]] = []
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._head = b""

    @classmethod
    def of(cls, protocol: "Protocol") -> "Server":
        """The one that this connection belongs to; it is kept in the state that uvicorn hands to each."""
        found: Server | None = protocol.app_state.get(cls.__qualname__)
        if found is None:
            found = cls(protocol.loop, protocol.server_state, protocol.timeout_keep_alive)
            protocol.app_state[cls.__qualname__] = found
        return found

    @property
    def head(self) -> bytes:
        """The headers that every answer has; uvicorn makes some of them anew each second, for the date."""
        if self._headers is not self._state.default_headers:
            self._headers = self._state.default_headers
            everyone = [*self._headers, *SAFE]
            self._head = b"".join(b"%s: %s\r\n" % header for header in everyone)
        return self._head

    def send(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write this when the loop comes round; at once where nobody else is being served."""
        if not self._leaving:
            if len(self._state.tasks) == 1:
                transport.write(answer)
                return
            self._loop.call_soon(self.flush)
        self._leaving.append((transport, answer))

    def flush(self) -> None:
        """Write what waits for it."""
        leaving, self._leaving = self._leaving, []
        for transport, answer in leaving:
            transport.write(answer)


class Refused(Exception):
    """Raised in a callback of the parser, which ends the connection."""


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
        self.frame: Frame = self.app.frame
        self.shared = Server.of(self)
        # Where uvicorn is to have more in mind than a connection, everything goes its way.
        self._direct = {} if self.root_path or self.limit_concurrency is not None else self.frame.direct
        self._unusual = UNUSUAL | {b"origin"} if self.frame.origins else UNUSUAL
        self._held: Exchange | None = None  # of which the end has yet to arrive
        self._running: Exchange | RequestResponseCycle | None = None
        self._head = 0  # bytes of an unfinished head
        self._in_head = False

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.shared.heads.enter(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self.shared.heads.enter(self)
            self._head += len(data)
            if self._head > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")
        elif self._held is not None and self._held.task is None:
            self._start(self._held)  # with the rest of its body still to come

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.idle.leave(self)
        self.shared.heads.leave(self)
        running, self._running, self._held = self._running, None, None
        if isinstance(running, Exchange):
            running.leave()
        elif running is not None and not running.response_complete:
            # uvicorn tells the newest only, which a client that sends ahead is not waiting for.
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)

    def head_too_slow(self) -> None:
        """It did not arrive in time: nobody knows what was to come."""
        if not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.shared.flush()  # what was asked for before
        super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops. What is on its way here already must not find the door shut."""
        self.shared.flush()
        self.frame.process.draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER, self._shut)
        else:
            super().shutdown()

    def _shut(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    # What the parser has found.

    def on_message_begin(self) -> None:
        # ASGI's scope can wait until it is known to be needed.
        self.url = b""
        self.headers = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        self.shared.idle.leave(self)
        self.shared.heads.leave(self)
        if len(self.pipeline) >= AHEAD:
            raise Refused
        self._held = self._hold()
        if self._held is None:
            url, headers = self.url, self.headers
            super().on_message_begin()
            super().on_url(url)
            for name, value in headers:
                super().on_header(name, value)
            super().on_headers_complete()

    def _hold(self) -> Exchange | None:
        """The request whose head is here, if it can go the shorter way."""
        path, _, query = self.url.partition(b"?")
        operation = self._direct.get((self.parser.get_method(), path))
        if operation is None or b"#" in query:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # sent ahead: uvicorn has it wait for its turn
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        if len(headers) != len(self.headers) or len(length) > DIGITS or not length.isdigit():
            return None
        if not (self.parser.should_keep_alive() and (self._unusual.isdisjoint(headers) or self._usual(headers))):
            return None
        return Exchange(self, operation, query, headers, int(length))

    def _usual(self, headers: dict[bytes, bytes]) -> bool:
        """Whether an unusual header says no more than goes without saying."""
        said = headers.get(b"connection", b"").lower(), self.parser.get_http_version()
        return said == (b"keep-alive", "1.1") and len(self._unusual & headers.keys()) == 1

    def on_body(self, body: bytes) -> None:
        if self._held is not None:
            self._held.feed(body)
            return
        super().on_body(body)
        if self.cycle.response_complete:
            self.shared.idle.enter(self)  # it was answered early, and has not for ever for the rest
        if self.pipeline and len(self.cycle.body) > AHEAD_BYTES:
            raise Refused

    def on_message_complete(self) -> None:
        held, self._held = self._held, None
        if held is None:
            super().on_message_complete()
            return
        held.complete()
        if held.task is None:
            self._start(held)

    # Answering.

    def _start(self, exchange: Exchange) -> None:
        self.cycle = self._running = exchange  # type: ignore[assignment]
        exchange.task = self.loop.create_task(exchange.run())
        self.tasks.add(exchange.task)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # enough is here

    def exchanged(self) -> None:
        """An exchange is over: what uvicorn does then, but for a timer of its own for each connection."""
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
            return
        self._running = None
        self.server_state.total_requests += 1
        self.shared.idle.enter(self)
