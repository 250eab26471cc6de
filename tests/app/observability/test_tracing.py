"""Trace context of requests, and their spans as a collector receives them."""

import http.server
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from app.inference import context
from app.inference.context import MAX_SPANS, RequestContext
from app.main import create_app
from app.observability.tracing import shut_down, trace_id, tracer_provider
from app.settings import Settings
from model.errors import ConfigError
from tests.support.services import HeldModel, Running, body, head, read, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (SAMPLED, TRACE),
        (f"00-{TRACE}-{PARENT}-00", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-of-a-later-version", TRACE),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-01x", None),
        ("", None),
        (None, None),
    ],
)
def test_the_trace_of_a_request(header: str | None, trace: str | None) -> None:
    assert trace_id(header.encode() if header else None) == trace


def test_log_lines_hold_the_trace_id(running: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    service = running()
    with service.connect() as connection, caplog.at_level(logging.INFO, "vae.access"):
        for headers in ([f"traceparent: {SAMPLED}"], []):
            connection.sendall(head(body(), *headers) + body())
            assert read(connection)[0] == 200
        until(lambda: len(caplog.records) == 2)
    first, second = caplog.records
    assert first.fields["trace"] == TRACE  # type: ignore[attr-defined]
    assert f"trace={TRACE}" in first.getMessage()
    assert "trace" not in second.fields  # type: ignore[attr-defined]


class Collector:
    """Receiver of spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for group in sent.resource_spans:
                    attributes = group.resource.attributes
                    collector.resources.append({pair.key: pair.value.string_value for pair in attributes})
                    collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def inside(self, outer: Span) -> list[Span]:
        """Children of a span, in order of their start."""
        children = [span for span in self.spans if span.parent_span_id == outer.span_id]
        return sorted(children, key=lambda span: span.start_time_unix_nano)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield collector
    collector.close()


def attributes(span: Span) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_the_spans_of_a_request(running: Callable[..., Running], collector: Collector) -> None:
    service = running(traces=True)
    headers = [f"traceparent: {SAMPLED}", "X-Request-ID: mine"]
    before = time.time_ns()
    with service.connect() as connection:
        connection.sendall(head(body(), *headers, path="/free-energy?samples=2") + body())
        assert read(connection)[0] == 200
    until(lambda: collector.named("POST /free-energy"))
    (span,) = collector.named("POST /free-energy")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    expected = {
        "http.request.method": "POST",
        "http.route": "/free-energy",
        "url.path": "/free-energy",
        "http.response.status_code": 200,
        "vae.request_id": "mine",
        "vae.rows": 1,
    }
    assert expected.items() <= attributes(span).items()
    assert collector.resources[0]["service.name"] == "vae-server"
    inner = collector.inside(span)
    calls = [(part.name, attributes(part).get("vae.call"), attributes(part).get("vae.batch_rows")) for part in inner]
    # Two calls, one after the other: Q, then a row for each of the two draws.
    assert calls == [
        ("parse", None, None),
        ("queue", "encode", None),
        ("compute", "encode", 1),
        ("queue", "score", None),
        ("compute", "score", 2),
        ("serialize", None, None),
    ]
    edges = [edge for part in inner for edge in (part.start_time_unix_nano, part.end_time_unix_nano)]
    assert before - 1_000_000 <= span.start_time_unix_nano
    assert span.end_time_unix_nano <= time.time_ns() + 1_000_000
    # Rounded to nanoseconds, each begins where the one before has ended, or later.
    assert np.diff([span.start_time_unix_nano, *edges, span.end_time_unix_nano]).min() >= -1000


def test_the_spans_of_refused_and_failed_requests(running: Callable[..., Running], collector: Collector) -> None:
    service = running(traces=True, deadline=0.2)
    held_model = HeldModel(service)
    with service.connect() as connection:
        for content, status in ((body(2), 422), (body(), 504)):
            connection.sendall(head(content) + content)
            assert read(connection)[0] == status
        held_model.release.set()
        connection.sendall(head(b"", path="/health/live", method="GET"))
        assert read(connection)[0] == 200
    until(lambda: len(collector.named("POST /encode")) == 2)
    refused, late = collector.named("POST /encode")
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert late.status.code == Status.STATUS_CODE_ERROR
    assert [part.name for part in collector.inside(late)] == ["parse"]
    assert refused.trace_id != late.trace_id
    assert not refused.parent_span_id


def test_an_unsampled_traceparent_records_no_spans(running: Callable[..., Running], collector: Collector) -> None:
    service = running(traces=True)
    with service.connect() as connection:
        for sampled in ("00", "01"):
            connection.sendall(head(body(), f"traceparent: 00-{TRACE}-{PARENT}-{sampled}") + body())
            assert read(connection)[0] == 200
    until(lambda: collector.named("POST /encode"))
    service.server.should_exit = True
    service.thread.join(20)
    assert len(collector.named("POST /encode")) == 1
    assert len(collector.named("parse")) == 1


def test_requests_succeed_without_a_collector(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    service = running(traces=True)
    with service.connect() as connection:
        for _ in range(20):
            connection.sendall(head(body()) + body())
            status, _, answer = read(connection)
            assert (status, len(json.loads(answer)["mean"])) == (200, 1)
    service.server.should_exit = True
    service.thread.join(20)
    assert not service.thread.is_alive(), "it waits for the collector"


def test_a_hanging_collector_does_not_delay_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.observability.tracing.FLUSH_SECONDS", 0.2)
    called, done = threading.Event(), threading.Event()

    class Hangs(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            called.set()
            done.wait(60)
            return SpanExportResult.FAILURE

    provider = tracer_provider(Hangs())
    provider.get_tracer("test").start_span("one").end()
    shut_down(provider)
    assert called.is_set()
    assert not done.is_set(), "it waited until the collector was done"
    done.set()


def test_a_request_records_a_limited_number_of_call_spans() -> None:
    request = RequestContext()
    request.add_span(context.Span("queue", 0, 1))
    assert request.spans is None, "nobody asked"
    request.spans = []
    for start in range(10 * MAX_SPANS):
        request.add_span(context.Span("compute", start, start + 1))
    assert len(request.spans) == MAX_SPANS


def test_without_opentelemetry_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"install 'vae-server\[otel\]'"):
        create_app(Settings(traces=True))
