"""A request as the calls of the interface see it, whichever way it came, and the plainest of responses."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TypeVar

from starlette import requests
from starlette.responses import Response
from starlette.types import Receive, Scope

from app.bodies import Bodies, read_body
from app.watch import ClientLeft, Watch

T = TypeVar("T")


class Request(ABC):
    """A method, a path and a query, with the headers and the body."""

    __slots__ = ("deadline", "method", "path", "query", "taken")

    method: str
    path: str
    query: bytes
    deadline: float  # on the clock of `time.monotonic`; set by the service, when all of it is here
    taken: int  # bytes of the room for bodies, to be freed when the request is over

    def take(self, bodies: Bodies, size: int) -> None:
        """Take room for so many bytes of the body; raises as `Room.take` does."""
        self.taken += bodies.room.take(size)

    @abstractmethod
    def header(self, name: bytes) -> str:
        """All values of a header, whose name is in small letters, joined by commas; empty where there is none."""

    @abstractmethod
    async def body(self, bodies: Bodies) -> bytes:
        """All bytes of the body.

        Raises:
            TooLarge, BodyTooSlow, Crowded: see `Bodies`.
            ClientLeft: it did, before its body was here.
        """

    @abstractmethod
    def work(self, watch: Watch, result: Awaitable[T]) -> Awaitable[T]:
        """What the model makes of the request once it is read; no more is done for a client that leaves."""


class Streamed(Request):
    """Over ASGI: the body comes in messages, and whether the client is still there has to be asked."""

    __slots__ = ("_request",)

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method, self.path, self.query = scope["method"], scope["path"], scope["query_string"]
        self._request = requests.Request(scope, receive)
        self.taken = 0

    def header(self, name: bytes) -> str:
        return ", ".join(value.decode("latin-1") for key, value in self._request.scope["headers"] if key == name)

    async def body(self, bodies: Bodies) -> bytes:
        return await read_body(self._request, bodies, lambda size: self.take(bodies, size))

    async def work(self, watch: Watch, result: Awaitable[T]) -> T:
        entry = watch.over_client(self._request)
        try:
            return await result
        except asyncio.CancelledError:
            if not entry.recalled():
                raise
            raise ClientLeft("the client left before its answer was ready") from None
        finally:
            watch.forget(entry)


class Plain(Response):
    """A body of one media type: what starlette's own finds out about cookies and charsets, small answers wait for."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self.status_code = 200
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode("latin-1"))]
