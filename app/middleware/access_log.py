"""Counts each request and writes its log line."""

import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import root_path_of
from app.inference.context import RequestContext
from app.observability.metrics import Metrics
from app.observability.tracing import trace_id

access = logging.getLogger("vae.access")


def record_request(
    metrics: Metrics,
    route: str,
    method: str,
    path: str,
    status: int,
    seconds: float,
    state: Mapping[str, Any],
    traceparent: bytes | None,
) -> None:
    """Count a request that is over, and log it.

    Args:
        route: the path as the metrics label it.
        seconds: from the head of the request to the end of its response.
        state: of the request: its `request_id`, and `context` where it was one of the model.
        traceparent: the header of that name.
    """
    metrics.request(route, method, status, seconds)
    if not access.isEnabledFor(logging.INFO):
        return
    timings = {"milliseconds": round(seconds * 1e3, 2)}
    context: RequestContext | None = state.get("context")
    if context is not None and context.rows:
        timings["rows"] = context.rows
        timings["queued"] = round(context.queued_seconds * 1e3, 2)
        timings["computed"] = round(context.computed_seconds * 1e3, 2)
    request_id = state["request_id"].decode()
    fields = {"id": request_id, "method": method, "path": path, "route": route, "status": status, **timings}
    text = " ".join(f"{key}={value}" for key, value in timings.items()) + f" id={request_id}"
    if trace := trace_id(traceparent):
        fields["trace"] = trace
        text += f" trace={trace}"
    access.info("%s %s %d %s", method, path, status, text, extra={"fields": fields})


class AccessLogMiddleware:
    """Metrics and the access log.

    Args:
        routes: the paths that metrics label; unknown paths share the label `other`, so that clients cannot create
            label values without bound.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def send_with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = scope["state"]["status"] = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_with_status)
        finally:
            path = scope["path"].removeprefix(root_path_of(scope))
            route = path if path in self.routes else "other"
            parent = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
            seconds = time.perf_counter() - start
            record_request(self.metrics, route, scope["method"], scope["path"], status, seconds, scope["state"], parent)
