"""A request as the calls of the interface see it, whichever way it came, and the plainest of responses."""

import asyncio
import itertools
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TypeVar

from starlette import requests
from starlette.responses import Response
from starlette.types import Receive, Scope

from app.api.bodies import Bodies, read_body
from app.api.watch import ClientLeft, Watch
from app.inference.context import RequestContext

T = TypeVar("T")


#: What a client may call its request: it goes into answers and logs.
NAME = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
#: Names of those that have none: this process's own, and a number.
_prefix, _numbers = secrets.token_hex(6).encode(), itertools.count(1)


def name_of(given: bytes | None) -> bytes:
    """What to call a request: as the client does in `X-Request-ID`, or by a name that no other has."""
    if given and NAME.fullmatch(given):
        return given
    return b"%s-%x" % (_prefix, next(_numbers))


class Request(ABC):
    """A method, a path and a query, with the headers and the body."""

    __slots__ = ("context", "method", "path", "query", "rows", "taken")

    method: str
    path: str
    query: bytes
    context: RequestContext  # its deadline is set when all of it is here
    rows: int  # that it brings or asks for
    taken: int  # bytes of the room for bodies, to be freed when the request is over

    def take(self, bodies: Bodies, size: int) -> None:
        """Take room for so many bytes of the body; raises as `Room.take` does."""
        self.taken += bodies.room.take(size)

    @abstractmethod
    def header(self, name: bytes) -> str | None:
        """All values of a header, whose name is in small letters, joined by commas; None where there is none."""

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
        self.taken = self.rows = 0
        self.context = RequestContext()

    def header(self, name: bytes) -> str | None:
        values = [value.decode("latin-1") for key, value in self._request.scope["headers"] if key == name]
        return ", ".join(values) if values else None

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
