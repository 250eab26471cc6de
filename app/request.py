"""A request as the calls of the interface see it, whichever way it came, and the plainest of responses."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TypeVar

from starlette import requests
from starlette.responses import Response
from starlette.types import Receive, Scope

from app.bodies import read_body
from app.watch import ClientLeft, Watch

T = TypeVar("T")


class Request(ABC):
    """A method, a path and a query, with the headers and the body."""

    __slots__ = ("method", "path", "query")

    method: str
    path: str
    query: bytes

    @abstractmethod
    def header(self, name: bytes) -> str:
        """All values of a header, whose name is in small letters, joined by commas; empty where there is none."""

    @abstractmethod
    async def body(self, watch: Watch, *, max_bytes: int, timeout: float) -> bytes:
        """All bytes of the body.

        Args:
            watch: sees to the time.
            max_bytes: more are refused.
            timeout: seconds until the last byte must be here.

        Raises:
            TooLarge, BodyTooSlow: see above.
            Malformed: the client left before its body was here.
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

    def header(self, name: bytes) -> str:
        return ", ".join(value.decode("latin-1") for key, value in self._request.scope["headers"] if key == name)

    async def body(self, watch: Watch, *, max_bytes: int, timeout: float) -> bytes:
        return await read_body(self._request, watch, max_bytes=max_bytes, timeout=timeout)

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
