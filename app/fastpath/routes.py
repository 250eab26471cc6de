"""The endpoints of the interface, with their dependencies resolved by a plan that is made once.

Parameters may be annotated with `Request`, `Depends`, `Header` with an alias, and one pydantic model as `Query`;
endpoints that need more are left to FastAPI.
"""

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from fastapi import FastAPI, Request, params
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.responses import Response

from app.api.problems import to_response
from app.api.responses import BytesResponse
from app.api.routers import with_dependencies

#: Positions of the request and of its query parameters among the values of a plan.
REQUEST, QUERY = 0, 1
#: A dependency or the name of a header, and what takes its arguments from the values.
Step = tuple[Callable[..., Any] | str, Callable[[list[Any]], Any]]


class FastRoute:
    """One endpoint with its plan; TypeError where a plan cannot resolve one of its parameters."""

    def __init__(self, route: APIRoute, method: str, shared: list[params.Depends], root_path: str) -> None:
        self.path, self.method, self._endpoint = route.path, method, route.endpoint
        self.labels = route.path, method, f"{root_path}{route.path}"  # as metrics and the log name its requests
        self._query_model: type[BaseModel] | None = None
        self._steps: list[Step] = []
        self._positions: dict[Any, int] = {}
        for dependency in shared:
            self._position_of(dependency.dependency)
        self._arguments = self._arguments_of(self._endpoint)
        self.parse_query = functools.lru_cache(maxsize=64)(self._parse_query)

    def _arguments_of(self, call: Callable[..., Any]) -> Callable[[list[Any]], Any]:
        function = call if inspect.isroutine(call) else type(call).__call__
        hints = get_type_hints(function, include_extras=True)
        positions = [self._position_for(hint) for name, hint in hints.items() if name != "return"]
        if not positions or not inspect.iscoroutinefunction(function):
            raise TypeError(f"{self.path}: {call} must be asynchronous and have parameters")
        return operator.itemgetter(*(positions if len(positions) > 1 else [slice(positions[0], positions[0] + 1)]))

    def _position_for(self, hint: Any) -> int:
        if isinstance(hint, type) and issubclass(Request, hint):
            return REQUEST
        for item in get_args(hint)[1:]:
            if isinstance(item, params.Depends):
                return self._position_of(item.dependency)
            if isinstance(item, params.Header) and item.alias:
                return self._position_of(item.alias.lower())
            if isinstance(item, params.Query) and self._query_model is None:
                self._query_model = get_args(hint)[0]
                return QUERY
        raise TypeError(f"{self.path}: a plan cannot resolve {hint}")

    def _position_of(self, source: Any) -> int:
        """The position of a dependency or header, which is resolved once a request however many need it."""
        if source not in self._positions:
            arguments = operator.itemgetter(REQUEST) if isinstance(source, str) else self._arguments_of(source)
            self._steps.append((source, arguments))
            self._positions[source] = QUERY + len(self._steps)
        return self._positions[source]

    def _parse_query(self, query: bytes) -> BaseModel | None:
        """The parameters; ValueError where one is unknown, repeated or invalid: FastAPI then says which."""
        items = QueryParams(query).multi_items()
        if len(dict(items)) < len(items) or (items and self._query_model is None):
            raise ValueError("repeated or unknown parameters")
        return self._query_model.model_validate(dict(items)) if self._query_model else None

    async def respond(self, request: Request, query: BaseModel | None) -> Response:
        """The response of the endpoint, or the problem that its exception stands for."""
        values: list[Any] = [request, query]
        try:
            for step, arguments in self._steps:
                values.append(request.headers.get(step) if isinstance(step, str) else await step(*arguments(values)))
            response = await self._endpoint(*self._arguments(values))
            if isinstance(response, Response):
                return response
            return BytesResponse(response.model_dump_json().encode(), "application/json")
        except Exception as error:
            return to_response(self.method, self.path, error)


def fast_routes(app: FastAPI) -> dict[tuple[bytes, bytes], FastRoute]:
    """The endpoints that a plan can call, by method and path as the head of a request writes them."""
    routes, root_path = dict[tuple[bytes, bytes], FastRoute](), app.state.server.settings.root_path or ""
    for router, dependencies in with_dependencies(app.state.server.keys):
        plain = [r for r in router.routes if isinstance(r, APIRoute) and not (r.dependencies or r.status_code)]
        for route in plain:
            for method in route.methods or ():
                with contextlib.suppress(TypeError):
                    fast = FastRoute(route, method, dependencies, root_path)
                    routes |= {(method.encode(), path.encode()): fast for path in fast.labels[::2]}
    return routes
