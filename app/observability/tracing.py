"""OpenTelemetry: FastAPI makes the span of each request; this adds the provider, and spans of its phases.

Inside the span of a request: `parse`, then `queue` and `compute` for each call of the model, then `serialize`. Their
times are collected in the `RequestContext`, so that tracing costs a few readings of the clock while the request runs.
"""

import re
import threading
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.inference.context import RequestContext
from model.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

#: W3C Trace Context, 3.2: version, trace, parent, flags; later versions may add to that.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:$|-)")
#: Seconds that a stopping process gives to spans that are not sent yet.
FLUSH_SECONDS = 5.0


def trace_id(traceparent: bytes | None) -> str | None:
    """The trace that a request belongs to, as 32 hexadecimal digits; None without a valid header."""
    match = TRACEPARENT.match(traceparent.decode("latin-1")) if traceparent else None
    return match[1] if match else None


def tracer_provider(exporter: "SpanExporter | None" = None) -> "TracerProvider":
    """The provider of this service's spans.

    Args:
        exporter: what receives them; by default they go by OTLP over HTTP, as the variables `OTEL_*` say.

    Raises:
        ConfigError: OpenTelemetry's packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError("VAE_TRACES: OpenTelemetry is not installed; install 'vae-server[otel]'") from error
    defaults = Resource({"service.name": "vae-server", "service.version": __version__})
    provider = TracerProvider(resource=defaults.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    return provider


def shut_down(provider: "TracerProvider") -> None:
    """Send what is left, within FLUSH_SECONDS: a collector that hangs must not keep the process."""
    sender = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    sender.start()
    sender.join(FLUSH_SECONDS)


class TraceDetailsMiddleware:
    """Adds the id and the rows of a request to its span, and a span for each thing that it waited for."""

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        self.app = app
        self.tracer = provider.get_tracer("vae-server", __version__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_spans(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(scope)
            await send(message)

        await self.app(scope, receive, send_with_spans if scope["type"] == "http" else send)

    def _add(self, scope: Scope) -> None:
        from opentelemetry import trace

        span = trace.get_current_span()
        if not span.is_recording():
            return
        context: RequestContext | None = scope["state"].get("context")
        span.set_attribute("vae.request_id", scope["state"]["request_id"].decode())
        span.set_attribute("vae.rows", context.rows if context else 0)
        offset = time.time_ns() - time.monotonic_ns()
        for part in (context and context.spans) or ():
            inner = self.tracer.start_span(part.name, start_time=offset + round(part.start * 1e9))
            if part.call:
                inner.set_attribute("vae.call", part.call)
            if part.rows:
                inner.set_attribute("vae.batch_rows", part.rows)
            inner.end(offset + round(part.end * 1e9))
