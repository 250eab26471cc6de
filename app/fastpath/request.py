"""A complete request that goes past ASGI, and its response."""

import asyncio
import functools
import time
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from app.api.errors import STOPPED, ClientLeft, Unavailable
from app.api.problems import STATUS, to_response
from app.fastpath.routes import FastRoute
from app.middleware.access_log import record_request
from app.middleware.request_state import choose_request_id, run_cleanups
from app.middleware.response_headers import DIGEST
from app.server.refusals import END_OF_HEAD, Refusal
from app.server.writer import start_of_response

CLIENT_LEFT = STATUS[ClientLeft][0]
RAW_NAME = functools.cache(lambda name: name.lower().encode("latin-1"))


class FastHeaders(Headers):
    """Headers of which each is given once, looked up in a dictionary."""

    def __init__(self, raw: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes]) -> None:
        self._list, self.by_name = raw, by_name

    def get(self, key: str, default: Any = None) -> Any:
        value = self.by_name.get(RAW_NAME(key))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return RAW_NAME(key) in self.by_name


class FastRequest(Request):
    """A request as endpoints see it; to uvicorn it is what its own `RequestResponseCycle` is."""

    def __init__(
        self, protocol: Any, route: FastRoute, query: bytes, params: BaseModel | None, headers: FastHeaders
    ) -> None:
        self._started = time.perf_counter()
        request_id = choose_request_id(headers.by_name.get(b"x-request-id"))
        self.own: dict[str, Any] = {"request_id": request_id, "cleanups": []}
        scope = {"method": route.method, "path": route.path, "query_string": query}
        super().__init__({"type": "http", "app": protocol.app, "state": self.own, **scope})
        self._headers, self._raw_headers = headers, headers.by_name
        self._protocol, self._route, self._params = protocol, route, params
        self.keep_alive, self.response_complete, self.more_body, self._left = True, False, False, False

    def start(self, body: bytes, received: bytes) -> None:
        """Answer the request, whose body is complete; `received` are its bytes, if they came at once."""
        self.scope["vae.body"] = body
        protocol = self._protocol
        if protocol.state.model.engine.batcher.loaded:
            head, _, rest = received.partition(END_OF_HEAD)
            if len(rest) == len(body):
                self.own["head"] = head
        self.task: asyncio.Task[None] = protocol.loop.create_task(self._run())
        protocol.tasks.add(self.task)

    def leave(self) -> None:
        """Cancel the work of a client that closed its connection."""
        if not self.response_complete:
            self._left = True
            self._protocol.tasks.discard(self.task)  # cancelled before its first step, it never runs
            self.task.cancel()

    async def _run(self) -> None:
        protocol, path, method = self._protocol, self._route.path, self._route.method
        status = CLIENT_LEFT
        try:
            response = await self._route.respond(self, self._params)
            status = response.status_code
            if protocol.flow.write_paused:
                await protocol.flow.drain()
            self._write(response)
        except asyncio.CancelledError:
            if not self._left:  # the server stops, and has no more time for the request
                self.keep_alive, status = False, 503
                self._write(to_response(method, path, Unavailable(STOPPED)))
                raise
        finally:
            protocol.tasks.discard(self.task)
            self._end(status)

    def _end(self, status: int) -> None:
        protocol = self._protocol
        if not self.response_complete:
            protocol.transport.close()  # nothing else would end a client's wait
        self.response_complete, own = True, self.own
        self.scope, self.own = {}, {}  # an idle connection must hold neither a body nor a model
        run_cleanups(own["cleanups"])
        seconds, parent = time.perf_counter() - self._started, self._raw_headers.get(b"traceparent")
        record_request(protocol.state.metrics, *self._route.labels, status, seconds, own, parent)

    def _write(self, response: Response) -> None:
        protocol = self._protocol
        if self._left or protocol.transport.is_closing():
            return
        status, end = response.status_code, list[bytes]()
        for name, value in ((DIGEST, self.own.get("model", protocol.state.model).digest), *response.raw_headers):
            end += (name, b": ", value, b"\r\n")
        closing = "connection" in response.headers
        keep_alive = self.keep_alive and not (closing or protocol.state.draining)
        end += (b"\r\n" if keep_alive or closing else b"connection: close\r\n\r\n", bytes(response.body))
        if keep_alive and "refused" in self.own and "head" in self.own:
            refusal = Refusal(b"".join(end), len(self.scope["vae.body"]), self._route.labels, *self.own["refused"])
            protocol.refusals.add(self.own["model"].engine.batcher, self.own["head"], refusal)
        start = start_of_response(status, protocol.server_state, self.own["request_id"])
        self.response_complete, self.own["status"] = True, status
        protocol.finish(b"".join((*start, *end)), close=not keep_alive)
