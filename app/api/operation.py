"""One call of the interface: what serves it and what documents it, in one value."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError
from starlette import requests
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.routing import Route

from app.api.keys import Access
from app.api.request import Request, Streamed
from app.api.schemas import Answer, Query
from app.api.state import Service
from app.codecs.errors import ErrorLocation, Invalid

Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True)
class Operation(Generic[Q]):
    """A method and a path, its parameters, body and answer, and the function that does it.

    It becomes a plain Starlette route: FastAPI's own handling of bodies costs several times as much.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    description: str
    query: type[Q]
    run: Callable[[Request, Service, Q], Awaitable[Response]]
    answer: type[Answer] | None
    body: Literal["inputs", "latents"] | None = None
    forms: tuple[str, ...] = ("json",)
    tag: str = "model"
    access: Access = "users"
    deadline: bool = False  # whether it has one, which X-Request-Timeout may bring nearer
    kept: bool = False  # whether clients may keep the answer, and ask by its ETag whether it is still the same
    problems: tuple[int, ...] = ()  # statuses of errors that others of its tag do not have

    def route(self) -> Route:
        """The route that serves it."""
        return Route(self.path, self.respond, methods=[self.method], name=self.path)

    async def respond(self, request: requests.Request) -> Response:
        """Serve one request that came by the application's table of routes."""
        return await self.serve(Streamed(request.scope, request.receive), request.app.state.service)

    async def serve(self, request: Request, service: Service) -> Response:
        """Answer a request.

        Raises:
            Refusal, and what the model's work raises: see `app.api.problems`.
        """
        service.requests += 1
        try:
            if service.keys.guards(self.access):
                service.keys.check(self.access, request.header(b"authorization") or "")
            return await self.run(request, service, parse(self.query, request.query))
        finally:
            service.requests -= 1
            if request.taken or service.retired:
                service.leave(request)


def parse(kind: type[Q], query: bytes) -> Q:
    """The parameters of an address.

    Raises:
        Invalid: one that is unknown, given twice, or out of range, each named.
    """
    read = _read_once if len(query) <= SHORT else _read
    return read(kind, query)  # type: ignore[return-value]


def _read(kind: type[Query], query: bytes) -> Query:
    items = QueryParams(query).multi_items()
    twice = [name for name, count in Counter(name for name, _ in items).items() if count > 1]
    if twice:
        raise Invalid.at(f"query.{twice[0]:.60}", "is given more than once; give it once")
    try:
        return kind.model_validate(dict(items))
    except ValidationError as error:
        places = [_place(item, kind) for item in error.errors(include_url=False)]
        raise Invalid("; ".join(f"{place.place}: {place.detail}" for place in places), *places) from error


#: Most requests ask for the same, and queries are frozen: they can share what was read from as few bytes as these.
SHORT = 128
_read_once = functools.lru_cache(maxsize=256)(_read)


def _place(item: Any, kind: type[Query]) -> ErrorLocation:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return ErrorLocation(
            f"query.{name:.60}", f"is not known here; known are {known}" if known else "is not known here"
        )
    return ErrorLocation(f"query.{name:.60}", f"{item['msg']} (given: {item['input']!s:.60})")
