"""A service on a real socket in a thread of its own, and clients that speak HTTP by hand."""

import io
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn

from app.main import Application


@dataclass
class Running:
    """A service on a socket, in a thread of its own."""

    server: uvicorn.Server
    app: Application
    port: int
    thread: threading.Thread

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def counted(self, status: int) -> float:
        """How many requests to /encode were answered so."""
        labels = {"route": "/encode", "method": "POST", "status": str(status)}
        return self.metric("vae_requests_total", labels) or 0.0

    def metric(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        return self.app.frame.process.metrics.registry.get_sample_value(name, labels)


def until(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end, "it did not happen in 20 s"
        time.sleep(0.005)


def body(level: float = 0.5) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((1, 8, 8), level, np.float32))
    return file.getvalue()


def head(content: bytes, *headers: str, path: str = "/encode", method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: here", "Content-Type: application/x-npy"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", *headers, "", ""]).encode()


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The next answer: status, headers, body."""
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
    assert len(rest) == size, "more than one answer"
    return int(first.split()[1]), headers, rest


class Held:
    """Holds every call to /encode of a service in the model until it is released."""

    def __init__(self, service: Running) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.seen: list[int] = []
        self.batcher = service.app.state.service.engine.batcher
        self._inner = self.batcher._calls["encode"]
        self.batcher._calls = {**self.batcher._calls, "encode": self}

    def __call__(self, x: np.ndarray[Any, Any]) -> Any:
        self.seen.append(len(x))
        self.entered.set()
        assert self.release.wait(20)
        return self._inner(x)
