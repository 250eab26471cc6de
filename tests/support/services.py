"""Services under test: clients over ASGI and over a socket, and services in a thread that speak HTTP by hand."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import numpy as np
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.api.state import AppState, ServedModel
from app.main import create_app
from app.server.serve import server_config
from app.settings import Settings
from model.checkpoint import Checkpoint

#: asgi: the application without a server; fast: over a socket, as `vae serve` runs it.
Transport = Literal["asgi", "fast"]
TRANSPORTS: tuple[Transport, ...] = ("asgi", "fast")


@dataclass
class Running:
    """A service on a socket, in a thread."""

    server: uvicorn.Server
    app: FastAPI
    port: int
    thread: threading.Thread

    @classmethod
    def start(cls, settings: Settings, app: FastAPI) -> "Running":
        """Serve an application on a free port."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(settings, app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        return cls(server, app, listener.getsockname()[1], thread)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    @property
    def state(self) -> AppState:
        return state_of(self.app)

    @property
    def model(self) -> ServedModel:
        return self.state.model

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def counted(self, status: int) -> float:
        """The number of requests to /encode that had this status."""
        labels = {"route": "/encode", "method": "POST", "status": str(status)}
        return self.metric("vae_requests_total", labels) or 0.0

    def metric(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        value: float | None = self.state.metrics.registry.get_sample_value(name, labels)
        return value


def state_of(app: Any) -> AppState:
    """The state of an application that `create_app` made."""
    state: AppState = app.state.server
    return state


class SocketClient(httpx2.Client):
    """A client of a service on a socket, with its application as `TestClient` has it."""

    def __init__(self, running: Running) -> None:
        super().__init__(base_url=f"http://127.0.0.1:{running.port}", trust_env=False, timeout=60)
        self.app = running.app


Client = TestClient | SocketClient


@contextmanager
def client_of(checkpoint: Checkpoint | None, transport: Transport = "asgi", **settings: Any) -> Iterator[Client]:
    """Start a service of this model, or of the model that the settings name, with small limits. Yields a client."""
    limits = {"max_rows": 64, "max_samples": 200, "max_work": 2000, "max_body_bytes": 1 << 20, "max_pixels": 10_000}
    chosen = Settings(threads=1, shutdown_timeout=5, **{**limits, **settings})
    app = create_app(chosen, checkpoint)
    if transport == "asgi":
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client
        return
    running = Running.start(chosen, app)
    try:
        with SocketClient(running) as socket_client:
            yield socket_client
    finally:
        running.stop()


def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition is true, for 60 s at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition was not true within 60 s"
        time.sleep(0.005)


def body(level: float = 0.5) -> bytes:
    """One grey image of 8 x 8 as npy."""
    file = io.BytesIO()
    np.save(file, np.full((1, 8, 8), level, np.float32))
    return file.getvalue()


def head(content: bytes, *headers: str, path: str = "/encode", method: str = "POST", version: str = "1.1") -> bytes:
    """Head of a request with this body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: here", "Content-Type: application/x-npy"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", *headers, "", ""]).encode()


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read the next response. Returns status, headers and body."""
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
    assert len(rest) == size, "more than one response"
    return int(first.split()[1]), headers, rest


class HeldModel:
    """Blocks every call to /encode of a service in the model until `release` is set."""

    def __init__(self, service: Running) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.seen: list[int] = []
        self.batcher = service.model.engine.batcher
        self._inner = self.batcher.calls["encode"]
        self.batcher.calls["encode"] = self

    def __call__(self, x: np.ndarray[Any, Any]) -> Any:
        self.seen.append(len(x))
        self.entered.set()
        assert self.release.wait(20)
        return self._inner(x)
