"""The application under another ASGI server."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator

import httpx2
import numpy as np
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from app.main import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.support.requests import npy
from tests.support.services import head, until


@pytest.fixture(scope="module")
def address(loaded: Callable[[str], Checkpoint]) -> Iterator[str]:
    """The address of a service that hypercorn serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    app = create_app(Settings(threads=1, max_body_bytes=1 << 20), loaded("grey-mlp-discretized"))
    stop = threading.Event()

    async def run() -> None:
        await serve(app, config, shutdown_trigger=lambda: asyncio.to_thread(stop.wait))  # type: ignore[arg-type]

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()

    def ready() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    until(ready)
    yield f"http://127.0.0.1:{port}"
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_hypercorn_serves_every_kind_of_call(address: str) -> None:
    x = np.full((2, 8, 8), 0.5, np.float32)
    with httpx2.Client(base_url=address) as client:
        encoded = client.post("/encode", **npy(x))
        assert encoded.status_code == 200 and len(encoded.json()["mean"]) == 2
        assert {"x-model-digest", "x-request-id", "x-content-type-options"} <= encoded.headers.keys()
        scored = client.post(
            "/free-energy?samples=4",
            content=json.dumps({"inputs": x.tolist()}),
            headers={"content-type": "application/json"},
        )
        assert len(scored.json()["free_energy"]) == 2
        assert client.get("/sample?format=png").content.startswith(b"\x89PNG")
        refused = client.post("/encode", content=b"{", headers={"content-type": "application/json"})
        assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
        assert (
            client.get("/").status_code == client.get("/docs").status_code == client.get("/metrics").status_code == 200
        )
    # A connection of its own: hypercorn closes it, since the body was not read to its end.
    large = httpx2.post(f"{address}/encode", content=bytes(2 << 20), headers={"content-type": "application/x-npy"})
    assert large.status_code == 413


def test_hypercorn_cancels_the_work_of_a_closed_connection(address: str) -> None:
    """Its work is cancelled, and the service goes on."""
    content = json.dumps({"inputs": [[[0.5] * 8] * 8] * 13}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        start = head(content, path="/free-energy?samples=5000").replace(b"application/x-npy", b"application/json")
        connection.sendall(start + content)
    until(lambda: 'status="499"' in httpx2.get(f"{address}/metrics").text)
    assert httpx2.get(f"{address}/sample").status_code == 200
