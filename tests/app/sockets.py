"""A service on a real socket in a thread of its own, and a client that writes and reads HTTP byte by byte."""

import io
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn

from app.inference.batcher import Batcher
from app.main import Application
from tests.support.worker import GatedCall


@dataclass
class Running:
    """A service that is running in a thread."""

    server: uvicorn.Server
    app: Application
    port: int
    thread: threading.Thread

    def connect(self) -> socket.socket:
        """Open a connection that sends at once (TCP_NODELAY)."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def counted(self, status: int) -> float:
        """Number of requests to /encode with this status."""
        labels = {"route": "/encode", "method": "POST", "status": str(status)}
        return self.metric("vae_requests_total", labels) or 0.0

    def metric(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """Value of a metric of the service; None if it has no value with these labels."""
        return self.app.frame.process.metrics.registry.get_sample_value(name, labels)


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true; fail after 20 s."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition was not met in 20 s"
        time.sleep(0.005)


def body(level: float = 0.5) -> bytes:
    """One 8 x 8 grey image of this level, as npy."""
    file = io.BytesIO()
    np.save(file, np.full((1, 8, 8), level, np.float32))
    return file.getvalue()


def head(content: bytes, *headers: str, path: str = "/encode", method: str = "POST", version: str = "1.1") -> bytes:
    """Head of a request with this npy body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: here", "Content-Type: application/x-npy"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", *headers, "", ""]).encode()


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one response: status, headers by lowercase name, body."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        assert part, received
        received += part
    start, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = start.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    size = int(headers["content-length"])
    while len(rest) < size:
        rest += connection.recv(65536)
    assert len(rest) == size, "more bytes than one response"
    return int(first.split()[1]), headers, rest


class Held(GatedCall):
    """Holds every model call of /encode in a service until `release` is set."""

    def __init__(self, service: Running) -> None:
        self.batcher: Batcher = service.app.state.service.engine.batcher
        super().__init__(self.batcher.calls["encode"], closed=True)
        self.batcher.calls["encode"] = self

    @property
    def seen(self) -> list[int]:
        """Number of rows of each call."""
        return [len(batch) for batch in self.batches]
