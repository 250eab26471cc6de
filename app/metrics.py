"""Prometheus metrics of one application: its own registry, nothing global.

Where the service has several workers, `PROMETHEUS_MULTIPROC_DIR` names a folder in which prometheus_client keeps the
values of all of them, and any worker answers with the totals.
"""

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = CONTENT_TYPE_LATEST
#: prometheus_client reads this when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
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
        self._queue = Gauge(
            "vae_queue_rows", "Rows waiting for the model.", registry=self.registry, multiprocess_mode="livesum"
        )
        self._ready = Gauge(
            "vae_ready",
            "How many workers answer requests.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._model = Gauge(
            "vae_model_info",
            "The model that is served.",
            ["name", "digest", "version"],
            registry=self.registry,
            multiprocess_mode="max",
        )
        self._watched: tuple[Callable[[], float], Callable[[], float]] | None = None
        # Finding the labelled value takes longer than adding to it.
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_call: dict[str, tuple[Histogram, Counter]] = {}

    def describe(self, name: str, digest: str, version: str) -> None:
        """Tell which model is served from now on."""
        self._model.clear()
        self._model.labels(name, digest, version).set(1)

    def watch(self, queue: Callable[[], float], ready: Callable[[], float]) -> None:
        """Read these two whenever metrics are asked for, and whenever `look` is called."""
        self._watched = queue, ready
        self.look()

    def look(self) -> None:
        """Take down what is watched, for other workers to tell of."""
        if self._watched:
            queue, ready = self._watched
            self._queue.set(queue())
            self._ready.set(ready())

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        key = route, method, status
        found = self._of_request.get(key)
        if found is None:
            found = self._requests.labels(route, method, str(status)), self._latency.labels(route)
            self._of_request[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def call(self, name: str, rows: int, seconds: float) -> None:
        found = self._of_call.get(name)
        if found is None:
            found = self._of_call[name] = self._batches.labels(name), self._compute.labels(name)
        found[0].observe(rows)
        found[1].inc(seconds)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        self.look()
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
