"""Which trace a request belongs to, by the W3C's `traceparent`; and its spans, for OpenTelemetry.

Spans are made when the request is over, from the times that its context has collected: while it is served, tracing
costs a few readings of the clock. The span of a request holds one for each thing that it waited for: `parse`, then
`queue` and `compute` for each call of the model, then `serialize`.
"""

import re
import threading
import time
from typing import TYPE_CHECKING, Any

from app.api.operation import Operation
from app.api.request import Request
from app.version import VERSION
from model.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

#: W3C Trace Context, 3.2: version, trace, parent, flags; later versions may add to that.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:$|-)")
#: Seconds that a process which ends gives to spans that are not sent yet.
FLUSH = 5.0


def trace_of(request: Request) -> str | None:
    """The trace that a client says its request belongs to, as 32 hexadecimal digits; None where it says none."""
    said = request.header(b"traceparent")
    found = TRACEPARENT.match(said) if said else None
    return found[1] if found else None


class Traces:
    """Where the spans of requests go.

    Args:
        exporter: what takes them; by default it sends them by OTLP over HTTP, as the variables `OTEL_*` say.

    Raises:
        ConfigError: OpenTelemetry's packages are not installed.
    """

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigError("VAE_TRACES: OpenTelemetry is not installed; install 'vae-server[otel]'") from error
        ours = Resource({"service.name": "vae-server", "service.version": VERSION})
        resource = ours.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("vae-server", VERSION)
        self._propagator = TraceContextTextMapPropagator()
        self._within = set_span_in_context
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def tell(self, operation: Operation[Any], request: Request, name: bytes, status: int, started: float) -> None:
        """Of a request that has just ended, and began at this time of `time.perf_counter`."""
        # Neither that clock nor the one of spans tells the time of day.
        now, ended = time.monotonic(), time.time_ns()
        seconds = time.perf_counter() - started

        def at(moment: float) -> int:
            return ended - round((now - moment) * 1e9)

        headers = {key: request.header(key.encode()) or "" for key in ("traceparent", "tracestate")}
        span = self._tracer.start_span(
            f"{operation.method} {operation.path}",
            self._propagator.extract(headers),
            self._server,
            {
                "http.request.method": operation.method,
                "http.route": operation.path,
                "url.path": request.path,
                "http.response.status_code": status,
                "vae.request_id": name.decode(),
                "vae.rows": request.rows,
            },
            start_time=at(now - seconds),
        )
        if status >= 500:
            span.set_status(self._failed)
        if span.is_recording():
            inside = self._within(span)
            for timed in request.context.spans or ():
                inner = self._tracer.start_span(timed.name, inside, start_time=at(timed.start))
                if timed.call:
                    inner.set_attribute("vae.call", timed.call)
                if timed.rows:
                    inner.set_attribute("vae.batch_rows", timed.rows)
                inner.end(at(timed.end))
        span.end(ended)

    def close(self) -> None:
        """Send what is left, as far as there is time: a collector that hangs must not keep the process."""
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(FLUSH)
