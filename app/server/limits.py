"""uvicorn's HTTP protocol with limits that it leaves open: on the head of a request, and on requests sent ahead."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.problems import STATUS
from app.api.state import AppState
from app.inference.errors import QueueFull
from app.server.parser import RequestParser

#: Seconds from the opening of a connection, or from the first byte of a head, until the head must be complete.
MAX_HEAD_SECONDS = 10.0
#: Bytes of a head that follow the first piece of it to arrive.
MAX_HEAD_BYTES = 1 << 16
#: Requests that a client may send ahead of responses, and the bytes of the body of one of them.
MAX_PIPELINED, MAX_PIPELINED_BYTES = 32, 1 << 18
#: Seconds for which a stopping server leaves idle connections open, so that requests already in flight on the network
#: are still answered.
CLOSE_DELAY_SECONDS = 0.5
OVERLOADED = STATUS[QueueFull][0]
#: Seconds for up to which a request waits if its client sends it that soon after a response of 429: clients
#: that retry at once wait, instead of being refused thousands of times a second.
REFUSAL_PAUSE_SECONDS = 0.1
#: Bytes that are kept of such a connection before it is no longer read.
MAX_HELD_BYTES = 1 << 16
log = logging.getLogger("vae")


class TooManyPipelined(Exception):
    """The client is too far ahead of its responses. Raised in a callback of the parser, which ends the connection."""


class SharedTimeout:
    """One timer for a timeout that many connections have: idle ones, and those with a head or a body under way.

    Args:
        seconds: from `enter` to the timeout.
        expire: called with each connection whose time is up; its errors are logged.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[Any], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expire = expire
        self._since: dict[object, float] = {}  # in the order of entry
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, connection: object) -> None:
        """Start the time of a connection; one that has entered already keeps its start."""
        self._since.setdefault(connection, self._loop.time())
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)

    def restart(self, connection: object) -> float:
        """Start the time of a connection anew. Return the time on the clock of the loop."""
        self._since.pop(connection, None)
        now = self._since[connection] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)
        return now

    def leave(self, connection: object) -> None:
        """Stop the time of a connection."""
        self._since.pop(connection, None)

    def _check(self) -> None:
        now = self._loop.time()
        while self._since:
            connection, since = next(iter(self._since.items()))
            if now < since + self._seconds:
                self._timer = self._loop.call_later(since + self._seconds - now, self._check)
                return
            self.leave(connection)
            try:
                self._expire(connection)
            except Exception:
                log.exception("the timeout of a connection failed")
        self._timer = None


class HeldConnections:
    """Connections whose client sent more right after a refusal: they are read again all at the same moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._held: dict[LimitedProtocol, bytes] = {}

    @property
    def size(self) -> int:
        """Number of bytes that are kept."""
        return sum(map(len, self._held.values()))

    def hold(self, connection: "LimitedProtocol", data: bytes) -> None:
        """Keep what has arrived for REFUSAL_PAUSE_SECONDS at most, and do not read much more."""
        if not self._held:
            self._loop.call_later(REFUSAL_PAUSE_SECONDS, self._release)
        held = self._held[connection] = self._held.get(connection, b"") + data
        if len(held) > MAX_HELD_BYTES:  # to stop reading takes longer than a refusal
            connection.flow.pause_reading()

    def _release(self) -> None:
        held, self._held = self._held, {}
        for connection, data in held.items():
            if not connection.transport.is_closing():
                connection.refused_until = 0.0
                try:
                    connection.flow.resume_reading()
                    connection.data_received(data)
                except Exception:
                    log.exception("what a connection sent after a refusal could not be read")
                    connection.transport.close()


class ConnectionTimers:
    """The timers that the connections of one server share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_alive: float) -> None:
        self.idle = SharedTimeout(loop, keep_alive, HttpToolsProtocol.timeout_keep_alive_handler)
        self.heads = SharedTimeout(loop, MAX_HEAD_SECONDS, HttpToolsProtocol.timeout_keep_alive_handler)
        self.held = HeldConnections(loop)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. The application is made by `app.main.create_app`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.app: Any  # uvicorn's type has no state
        self.state: AppState = self.app.state.server
        timers = app_state.get("timers")
        if timers is None:
            timers = app_state["timers"] = ConnectionTimers(self.loop, self.timeout_keep_alive)
        self.timers: ConnectionTimers = timers
        self._running: Any = None  # the request whose response is due next
        self._head_bytes = 0
        self._in_head = False
        self.refused_until = 0.0  # on the clock of the loop; 0: the last request was not refused
        self.parser = RequestParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timers.heads.enter(self)

    def data_received(self, data: bytes) -> None:
        if self.refused_until:
            if self.loop.time() < self.refused_until:
                self.timers.held.hold(self, data)
                return
            self.refused_until = 0.0
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Parse what has arrived."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head:
            self.timers.idle.leave(self)
            self.timers.heads.enter(self)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.timers.idle.leave(self)
        self.timers.heads.leave(self)
        running, self._running = self._running, None
        if isinstance(running, RequestResponseCycle) and not running.response_complete:
            # uvicorn tells the newest request only, which is not the one whose response a pipelining client awaits.
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Stop: finish the request in progress; leave an idle connection open for CLOSE_DELAY_SECONDS."""
        self.state.draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(CLOSE_DELAY_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _end_head(self) -> None:
        """Stop the timers of the head, and refuse a client that is too far ahead of its responses."""
        self._in_head, self._head_bytes = False, 0
        self.timers.idle.leave(self)
        self.timers.heads.leave(self)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooManyPipelined

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            # The response was sent before the body was complete: the client cannot trickle the rest indefinitely.
            self.timers.idle.enter(self)
        if self.pipeline and len(self.cycle.body) > MAX_PIPELINED_BYTES:
            raise TooManyPipelined

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:  # as uvicorn does, with the timer that all connections share
            running, self._running = self._running, None
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            if running is not None and running.scope["state"].get("status") == OVERLOADED:
                self.refused_until = self.loop.time() + REFUSAL_PAUSE_SECONDS
            if not self._in_head:
                self.timers.idle.enter(self)
        if self.pipeline:
            self.flow.pause_reading()  # enough has arrived

    def end_refusal(self) -> None:
        """Free the connection after a request that was refused without being parsed."""
        self.timers.heads.leave(self)
        now = self.timers.idle.restart(self)
        self.server_state.total_requests += 1
        self.refused_until = now + REFUSAL_PAUSE_SECONDS
