"""Refusals of requests for their heads alone, for the next requests with the same head."""

import re
import time
from typing import NamedTuple

from app.inference.batcher import Batcher
from app.middleware.access_log import record_request
from app.middleware.request_state import HEADER, choose_request_id
from app.server.limits import OVERLOADED, LimitedProtocol
from app.server.writer import ResponseWriter, start_of_response

#: Number of different heads, and bytes of one of them.
MAX_HEADS, MAX_HEAD_BYTES = 256, 1 << 12
END_OF_HEAD = b"\r\n\r\n"
#: Headers that each request has of its own.
OWN_HEADERS = re.compile(rb"(?i)\r\n(x-request-id|traceparent|tracestate):[ \t]*([^\r\n]*)(?=\r\n|$)")


class Refusal(NamedTuple):
    """A response of 429 to every request with the same head."""

    response: bytes  # from after its request id to its end
    body_size: int  # bytes of the body of such a request
    labels: tuple[str, str, str]  # route, method and path of the request, for the metrics and the log


class Refusals:
    """Refusals by the bytes of the head of a request, without the headers that each request has of its own.

    Until a batch is finished or a request is over, the work ahead does not shrink, and a request like a refused one
    would be refused too. To parse and judge each of thousands of them would cost the time in which others are computed.
    """

    def __init__(self, responses: ResponseWriter) -> None:
        self._responses = responses
        self._valid: tuple[Batcher, int] | None = None  # for the queue in this state
        self._refusals: dict[bytes, Refusal] = {}

    def answer(self, connection: LimitedProtocol, data: bytes) -> bool:
        """Refuse a request without parsing it, if one with the same head was refused and nothing has changed since.

        Args:
            connection: has no unfinished request.
            data: what it has received.

        Returns:
            False if the data must be parsed. They must unless they are exactly one request, with its body.
        """
        state = connection.state
        if self._valid is None or state.draining or connection.flow.write_paused:
            return False
        batcher = state.model.engine.batcher
        if self._valid != (batcher, batcher.departures):
            self._forget()  # a replaced model must not stay in memory
            return False
        start, end = time.perf_counter(), data.find(END_OF_HEAD)
        refusal, own = self._refusals.get(data[:end]), dict[bytes, bytes]()
        if refusal is None and 0 < end <= MAX_HEAD_BYTES:
            key, own = _split(data[:end])
            refusal = self._refusals.get(key) if own else None
        if refusal is None or end + len(END_OF_HEAD) + refusal.body_size != len(data):
            return False
        request_id = choose_request_id(own.get(HEADER))
        response = b"".join((*start_of_response(OVERLOADED, connection.server_state, request_id), refusal.response))
        self._responses.write(connection.transport, response, alone=True)
        connection.end_refusal()
        seconds, fields, parent = time.perf_counter() - start, {"request_id": request_id}, own.get(b"traceparent")
        record_request(state.metrics, *refusal.labels, OVERLOADED, seconds, fields, parent)
        return True

    def add(self, batcher: Batcher, departures: int, head: bytes, refusal: Refusal) -> None:
        """Keep the refusal of a request, whatever its body.

        Args:
            departures: those of the batcher before the request was judged.
            head: as it arrived, without the empty line that ends it.
        """
        if self._valid != (batcher, departures) or len(self._refusals) >= MAX_HEADS:
            self._forget()
            self._valid = batcher, departures
        if len(head) <= MAX_HEAD_BYTES:
            self._refusals[_split(head)[0]] = refusal

    def _forget(self) -> None:
        self._valid = None
        self._refusals.clear()


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A head without the request's own headers, and these by their lower-case names.

    >>> _split(b"GET /sample HTTP/1.1\\r\\nX-Request-ID: a1\\r\\nHost: h")
    (b'GET /sample HTTP/1.1\\r\\nHost: h', {b'x-request-id': b'a1'})
    """
    own = {name.lower(): value.rstrip(b" \t") for name, value in OWN_HEADERS.findall(head)}
    return (OWN_HEADERS.sub(b"", head) if own else head), own
