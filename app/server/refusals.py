"""Responses to requests that were refused for their heads alone, for the next requests with the same head."""

from starlette.requests import Request
from starlette.responses import Response

from app.inference.batcher import Batcher

#: Number of different heads.
MAX_REFUSALS = 256
#: Headers that each request has of its own.
UNIQUE_HEADERS = frozenset({b"x-request-id", b"traceparent", b"tracestate"})


class Refusals:
    """Responses of 429 by the heads of requests.

    Until a batch is finished or a request is over, the work ahead does not shrink, and a request like a refused one
    would be refused too. To judge each of thousands of them a second would cost the time in which others are computed.
    """

    def __init__(self) -> None:
        self._valid: tuple[Batcher, int] | None = None  # for the queue in this state
        self._responses: dict[object, Response] = {}

    def find(self, batcher: Batcher, request: Request) -> Response | None:
        """The response to a request with this head, if it is still refused."""
        if self._valid is None:
            return None
        if self._valid != (batcher, batcher.departures):
            self._forget()  # a replaced model must not stay in memory
            return None
        return self._responses.get(_head(request))

    def add(self, batcher: Batcher, departures: int, request: Request, response: Response) -> None:
        """Keep the response to a request that has been refused, whatever its body.

        Args:
            departures: those of the batcher before the request was judged.
        """
        if self._valid != (batcher, departures) or len(self._responses) >= MAX_REFUSALS:
            self._forget()
            self._valid = batcher, departures
        self._responses[_head(request)] = response

    def _forget(self) -> None:
        self._valid = None
        self._responses.clear()


def _head(request: Request) -> object:
    scope = request.scope
    headers = [header for header in request.headers.raw if header[0] not in UNIQUE_HEADERS]
    return scope["method"], scope["path"], scope["query_string"], *headers
