"""Refusals of requests for their heads alone, for the next requests with the same head."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.inference.batcher import Batcher
from app.inference.errors import QueueFull, TooLong
from app.middleware.access_log import record_request
from app.middleware.request_state import HEADER, choose_request_id
from app.server.limits import OVERLOADED, LimitedProtocol
from app.server.writer import ResponseWriter, start_of_response

#: Number of different heads, and bytes of one of them.
MAX_HEADS, MAX_HEAD_BYTES = 256, 1 << 12
#: Seconds for which a refusal is sent: it names the work that was ahead when it was made.
MAX_SECONDS = 1.0
END_OF_HEAD = b"\r\n\r\n"
#: Headers that each request has of its own.
OWN_HEADERS = re.compile(rb"(?i)\r\n(x-request-id|traceparent|tracestate):[ \t]*([^\r\n]*)(?=\r\n|$)")


@dataclass(slots=True)
class Refusal:
    """A response of 429 to every request with the same head."""

    response: bytes  # from after its request id to its end
    body_size: int  # bytes of the body of such a request
    labels: tuple[str, str, str]  # route, method and path of the request, for the metrics and the log
    judge: Callable[[], None]  # raises QueueFull if such a request would be refused now
    retry_after: int  # seconds that the response names
    departures: int  # those of the batcher when such a request was judged last
    made: float = field(default_factory=time.monotonic)

    def holds(self, departures: int) -> bool:
        """Return True if such a request still gets this response. It is judged again if the queue has moved."""
        if time.monotonic() > self.made + MAX_SECONDS:
            return False
        if departures != self.departures:
            try:
                self.judge()
            except (QueueFull, TooLong) as error:
                if not isinstance(error, QueueFull) or error.retry_after != self.retry_after:
                    return False
                self.departures = departures
            else:
                return False
        return True


class Refusals:
    """Refusals by the bytes of the head of a request, without the headers that each request has of its own.

    Until a batch is finished or a request is over, the work ahead does not shrink, and a request like a refused one
    would be refused too. To parse and judge each of thousands of them would cost the time in which others are computed;
    so they are judged once each time that the queue moves, and not parsed.
    """

    def __init__(self, responses: ResponseWriter) -> None:
        self._responses = responses
        self._batcher: Batcher | None = None
        self._refusals: dict[bytes, Refusal] = {}

    def answer(self, connection: LimitedProtocol, data: bytes) -> bool:
        """Refuse a request without parsing it, if one with the same head was refused and would be now.

        Args:
            connection: has no unfinished request.
            data: what it has received.

        Returns:
            False if the data must be parsed. They must unless they are exactly one request, with its body.
        """
        state = connection.state
        if not self._refusals or state.draining or connection.flow.write_paused:
            return False
        batcher = state.model.engine.batcher
        if self._batcher is not batcher or not batcher.loaded:
            self._forget()  # a replaced model must not stay in memory
            return False
        start, end = time.perf_counter(), data.find(END_OF_HEAD)
        key, own = data[:end], dict[bytes, bytes]()
        if key not in self._refusals and 0 < end <= MAX_HEAD_BYTES:
            key, own = _split(key)
        refusal = self._refusals.get(key)
        if refusal is None or end + len(END_OF_HEAD) + refusal.body_size != len(data):
            return False
        if not refusal.holds(batcher.departures):
            return False
        request_id = choose_request_id(own.get(HEADER))
        response = b"".join((*start_of_response(OVERLOADED, connection.server_state, request_id), refusal.response))
        self._responses.write(connection.transport, response, alone=True)
        connection.end_refusal()
        seconds, fields, parent = time.perf_counter() - start, {"request_id": request_id}, own.get(b"traceparent")
        record_request(state.metrics, *refusal.labels, OVERLOADED, seconds, fields, parent)
        return True

    def add(self, batcher: Batcher, head: bytes, refusal: Refusal) -> None:
        """Keep the refusal of a request by this batcher, whatever its body.

        Args:
            head: as it arrived, without the empty line that ends it.
        """
        if self._batcher is not batcher or len(self._refusals) >= MAX_HEADS:
            self._forget()
            self._batcher = batcher
        if len(head) <= MAX_HEAD_BYTES:
            self._refusals[_split(head)[0]] = refusal

    def _forget(self) -> None:
        self._batcher = None
        self._refusals.clear()


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A head without the request's own headers, and these by their lower-case names.

    >>> _split(b"GET /sample HTTP/1.1\\r\\nX-Request-ID: a1\\r\\nHost: h")
    (b'GET /sample HTTP/1.1\\r\\nHost: h', {b'x-request-id': b'a1'})
    """
    own = {name.lower(): value.rstrip(b" \t") for name, value in OWN_HEADERS.findall(head)}
    return (OWN_HEADERS.sub(b"", head) if own else head), own
