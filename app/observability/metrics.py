"""Prometheus metrics of one application, in a registry of its own.

With several workers, `PROMETHEUS_MULTIPROC_DIR` names a folder in which prometheus_client keeps the values of all
workers; every worker responds with the totals.
"""

import functools
import os
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = CONTENT_TYPE_LATEST
#: Environment variable with the folder of all workers; prometheus_client reads it at import.
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
#: Upper bounds of histogram buckets.
DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Counters of responses by status: name and description. They exist from the start, unlike the labels of
#: `vae_requests`, so that the first such response already shows as a rate.
STATUS_COUNTERS = {
    429: ("vae_requests_rejected", "Requests refused because the service is overloaded."),
    499: ("vae_requests_abandoned", "Requests whose client disconnected before the response."),
    504: ("vae_requests_expired", "Requests that were not done by their deadline."),
}
#: Gauges that are read when metrics are scraped, summed over workers: name and description.
GAUGES = {
    "vae_ready": "Number of workers that answer requests.",
    "vae_queue_rows": "Rows queued for the model.",
    "vae_queue_limit_rows": "Maximum number of rows queued for the model.",
    "vae_body_bytes": "Bytes of request bodies and decoded images in memory.",
    "vae_body_limit_bytes": "Maximum bytes of request bodies and decoded images in memory.",
    "vae_resident_memory_bytes": "Resident memory of the service.",
}
#: Gauges by the size of requests, of several workers the highest: name and description.
GAUGES_BY_SIZE = {
    "vae_queue_seconds": "Estimated seconds that a new request waits for others.",
    "vae_queue_limit_seconds": "Maximum seconds that a request may wait for others.",
}


class Metrics:
    """Metrics of one process. `call` runs on the worker thread of the model, all other methods on the event loop."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("vae_requests", "Requests answered.", ["route", "method", "status"], registry=registry)
        described = "Time from the head of a request to the end of its response."
        self._latency = Histogram(
            "vae_request_duration_seconds", described, ["route"], buckets=DURATION_BUCKETS_S, registry=registry
        )
        self._batches = Histogram(
            "vae_batch_rows", "Rows in one model call.", ["call"], buckets=BATCH_BUCKETS_ROWS, registry=registry
        )
        self._compute = Counter("vae_model_seconds", "Time spent in model calls.", ["call"], registry=registry)
        labels, described = ["name", "digest", "version"], "The model that is being served."
        self._model = Gauge("vae_model_info", described, labels, registry=registry, multiprocess_mode="livemax")
        described = "Time to compile the model and warm up all of its calls."
        self._loading = Gauge("vae_model_load_seconds", described, registry=registry, multiprocess_mode="mostrecent")
        self._gauges = {
            name: Gauge(name, description, registry=registry, multiprocess_mode="livesum")
            for name, description in GAUGES.items()
        }
        for name, description in GAUGES_BY_SIZE.items():
            gauge = Gauge(name, description, ["size"], registry=registry, multiprocess_mode="livemax")
            self._gauges |= {f"{name} {size}": gauge.labels(size) for size in ("small", "large")}
        self._status_counters = {
            status: Counter(name, description, registry=registry)
            for status, (name, description) in STATUS_COUNTERS.items()
        }
        self._gauge_sources: Mapping[str, Callable[[], float]] = {}
        # Caches of labelled metrics: to look one up takes longer than to add to it.
        self._request_metrics = functools.cache(self._label_request)
        self._call_metrics = functools.cache(lambda name: (self._batches.labels(name), self._compute.labels(name)))

    def describe(self, name: str, digest: str, version: str, seconds: float) -> None:
        """Set the model that is served from now on, and the seconds that it took to load."""
        # Several workers are replaced when the model changes, so none has the labels of an earlier model.
        if MULTIPROCESS_DIR not in os.environ:
            self._model.clear()
        self._model.labels(name, digest, version).set(1)
        self._loading.set(seconds)

    def set_gauge_sources(self, sources: Mapping[str, Callable[[], float]]) -> None:
        """Set the functions that give the values of gauges, and update the gauges.

        There is one for each name in GAUGES, and two for each in GAUGES_BY_SIZE, followed by `small` and `large`.
        """
        assert sources.keys() == self._gauges.keys()
        self._gauge_sources = sources
        self.update_gauges()

    def update_gauges(self) -> None:
        """Read the gauges from their sources, so that other workers can report them."""
        for name, value in self._gauge_sources.items():
            self._gauges[name].set(value())

    def clear_gauges(self) -> None:
        """Set the gauges to 0 and drop their sources, so that a worker that ends no longer counts in the totals."""
        self._gauge_sources = {}
        for gauge in self._gauges.values():
            gauge.set(0)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        latency, counters = self._request_metrics(route, method, status)
        latency.observe(seconds)
        for counter in counters:
            counter.inc()

    def _label_request(self, route: str, method: str, status: int) -> tuple[Histogram, list[Counter]]:
        counters = [self._status_counters[status]] if status in STATUS_COUNTERS else []
        return self._latency.labels(route), [self._requests.labels(route, method, str(status)), *counters]

    def call(self, name: str, rows: int, seconds: float) -> None:
        """Count a model call that has finished."""
        batches, compute = self._call_metrics(name)
        batches.observe(rows)
        compute.inc(seconds)

    def render(self) -> bytes:
        """Return the metrics of all workers in the text format of Prometheus."""
        self.update_gauges()
        if MULTIPROCESS_DIR not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
