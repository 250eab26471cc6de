"""uvicorn's HTTP protocol with a shortcut to the endpoints for plain requests."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.fastpath.request import FastHeaders, FastRequest
from app.fastpath.routes import fast_routes
from app.server.limits import LimitedProtocol, SharedTimeout
from app.server.refusals import Refusals
from app.server.writer import ResponseWriter

#: Headers that ask for more than a response, announce a body of unknown length, or belong to CORS.
SPECIAL_HEADERS = frozenset({b"expect", b"transfer-encoding", b"upgrade", b"origin"})
#: Bytes of a body, and seconds from its first part to its last, up to which a request is held for the shortcut.
MAX_BODY_BYTES, MAX_BODY_SECONDS = 1 << 17, 0.1


class FastProtocol(LimitedProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "fast" not in self.app_state:  # which all connections share
            bodies = SharedTimeout(self.loop, MAX_BODY_SECONDS, FastProtocol.hand_over)
            writer = ResponseWriter(self.loop)
            self.app_state["fast"] = writer, Refusals(writer), bodies, fast_routes(self.app)
        self._responses, self.refusals, self._bodies, routes = self.app_state["fast"]
        # Tracing, and what uvicorn itself does to requests, need the ASGI path.
        standard = self.state.settings.traces or self.root_path or self.limit_concurrency is not None
        self._routes = {} if standard else routes
        self._max_body_bytes = min(MAX_BODY_BYTES, self.state.settings.max_body_bytes)
        self._received = b""  # all bytes since the last request, as long as they are parsed
        self._pending: FastRequest | None = None  # whose body is not complete yet
        self._body: list[bytes] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.hand_over()
        if isinstance(self._running, FastRequest):
            self._running.leave()
        if isinstance(self.cycle, FastRequest):
            self.cycle = None
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._responses.flush()  # the responses of earlier requests go first
        super().send_400_response(msg)

    def receive(self, data: bytes) -> None:
        cycle = self.cycle
        complete = cycle is None or (cycle.response_complete and not cycle.more_body)
        between = complete and not self._in_head and self._pending is None
        if between and self.refusals.answer(self, data):
            return
        self._received = data if between else b""
        super().receive(data)
        self._received = b""
        if self._pending is not None:
            self._bodies.enter(self)  # the rest of its body is to follow

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []  # the ASGI scope is made only where it turns out to be needed
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._end_head()
        self._pending = self._try_fast_path()
        if self._pending is None:
            self._replay_head()

    def _try_fast_path(self) -> FastRequest | None:
        """The request whose head is complete, if nothing about it is special."""
        path, _, query = self.url.partition(b"?")
        route = self._routes.get((self.parser.get_method(), path))
        pipelined = self.cycle is not None and not self.cycle.response_complete  # uvicorn has it wait for its turn
        if route is None or pipelined or b"#" in query or self.parser.get_http_version() != "1.1":
            return None
        headers = dict(self.headers)
        connection, length = headers.get(b"connection", b"keep-alive"), headers.get(b"content-length", b"0")
        plain = len(headers) == len(self.headers) and SPECIAL_HEADERS.isdisjoint(headers)
        try:
            if not plain or connection.lower() != b"keep-alive" or int(length) > self._max_body_bytes:
                return None
            return FastRequest(self, route, query, route.parse_query(query), FastHeaders(self.headers, headers))
        except ValueError:
            return None

    def on_body(self, body: bytes) -> None:
        if self._pending is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request, self._pending = self._pending, None
        if request is None:
            super().on_message_complete()
            return
        self._bodies.leave(self)
        body, self._body = b"".join(self._body), []
        self.cycle = self._running = request  # type: ignore[assignment]
        request.start(body, self._received)

    def hand_over(self) -> None:
        """Leave a request whose body is slow to uvicorn, as far as it has arrived."""
        self._bodies.leave(self)
        if self._pending is not None:
            self._pending = None
            self._replay_head()
            body, self._body = b"".join(self._body), []
            super().on_body(body)

    def _replay_head(self) -> None:
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.on_url(url)
        for name, value in headers:
            HttpToolsProtocol.on_header(self, name, value)
        HttpToolsProtocol.on_headers_complete(self)

    def finish(self, response: bytes, *, close: bool) -> None:
        """Write a response, and free the connection for its next request."""
        self._responses.write(self.transport, response, alone=close or len(self.tasks) == 1)
        if close:
            self.transport.close()
        self.on_response_complete()
