"""Prometheus metrics of one application: its own registry, nothing global."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What an operator sees; `calls` of the model are observed from the worker's thread, requests from the loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "vae_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self._latency = Histogram(
            "vae_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "vae_batch_rows", "Rows in one call of the model.", ["call"], buckets=ROWS, registry=self.registry
        )
        self._compute = Counter(
            "vae_model_seconds", "Time spent in calls of the model.", ["call"], registry=self.registry
        )
        self._queue = Gauge("vae_queue_rows", "Rows waiting for the model.", registry=self.registry)
        self._ready = Gauge("vae_ready", "1 where requests are answered, else 0.", registry=self.registry)
        self._model = Info("vae_model", "The model that is served.", registry=self.registry)

    def describe(self, name: str, digest: str, version: str) -> None:
        self._model.info({"name": name, "digest": digest, "version": version})

    def watch(self, queue: Callable[[], float], ready: Callable[[], float]) -> None:
        """Read these two whenever metrics are asked for."""
        self._queue.set_function(queue)
        self._ready.set_function(ready)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def call(self, name: str, rows: int, seconds: float) -> None:
        self._batches.labels(name).observe(rows)
        self._compute.labels(name).inc(seconds)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
