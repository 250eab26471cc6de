"""Prometheus metrics of one application: its own registry, nothing global.

Where the service has several workers, `PROMETHEUS_MULTIPROC_DIR` names a folder in which prometheus_client keeps the
values of all of them, and any worker answers with the totals.
"""

import os
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = CONTENT_TYPE_LATEST
#: prometheus_client reads this when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


#: Of answers with these statuses there is a number of its own, which is there from the start: a rate needs a first
#: value, and one more refusal is a rise where it is the first.
COUNTED = {
    429: ("vae_requests_rejected", "Requests refused for want of room."),
    499: ("vae_requests_abandoned", "Requests whose client left before its answer."),
    504: ("vae_requests_expired", "Requests that were not done by their deadline."),
}
#: What is looked at whenever metrics are asked for; the totals of all workers.
WATCHED = {
    "vae_ready": "How many workers answer requests.",
    "vae_queue_rows": "Rows waiting for the model.",
    "vae_queue_limit_rows": "Rows that may wait for the model.",
    "vae_body_bytes": "Bytes of bodies that are read or worked on.",
    "vae_body_limit_bytes": "Bytes of bodies that may be.",
    "vae_resident_memory_bytes": "Memory that the service takes.",
}


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
        self._model = Gauge(
            "vae_model_info",
            "The model that is served.",
            ["name", "digest", "version"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._loading = Gauge(
            "vae_model_load_seconds",
            "Time that it took to compile the model and to try each of its calls.",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self._gauges = {
            name: Gauge(name, said, registry=self.registry, multiprocess_mode="livesum")
            for name, said in WATCHED.items()
        }
        self._counted = {
            status: Counter(name, said, registry=self.registry) for status, (name, said) in COUNTED.items()
        }
        self._watched: Mapping[str, Callable[[], float]] = {}
        # Finding the labelled value takes longer than adding to it.
        self._of_request: dict[tuple[str, str, int], tuple[Histogram, list[Counter]]] = {}
        self._of_call: dict[str, tuple[Histogram, Counter]] = {}

    def describe(self, name: str, digest: str, version: str, seconds: float) -> None:
        """Tell which model is served from now on, and how long it took to load."""
        if FOLDER not in os.environ:  # of several workers none has had another: they are replaced whole
            self._model.clear()
        self._model.labels(name, digest, version).set(1)
        self._loading.set(seconds)

    def watch(self, watched: Mapping[str, Callable[[], float]]) -> None:
        """Read these, whose names are in `WATCHED`, whenever metrics are asked for and whenever `look` is called."""
        self._watched = watched
        self.look()

    def look(self) -> None:
        """Take down what is watched, for other workers to tell of."""
        for name, value in self._watched.items():
            self._gauges[name].set(value())

    def leave(self) -> None:
        """This worker ends: it has no more part in the totals of what is watched."""
        self._watched = {}
        for gauge in self._gauges.values():
            gauge.set(0)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        key = route, method, status
        found = self._of_request.get(key)
        if found is None:
            counters = [self._requests.labels(route, method, str(status))]
            counters += [self._counted[status]] if status in COUNTED else []
            found = self._of_request[key] = self._latency.labels(route), counters
        found[0].observe(seconds)
        for counter in found[1]:
            counter.inc()

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
