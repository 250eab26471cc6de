"""Services on real sockets."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from app.cli.serve import server_config
from app.main import Application, create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.sockets import Running, until


@pytest.fixture
def running(loaded: Callable[[str], Checkpoint]) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(name: str = "grey-mlp-discretized", **settings: Any) -> Running:
        given = Settings(threads=1, shutdown_timeout=5, **settings)
        app = create_app(given, loaded(name))
        assert isinstance(app, Application)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(given, app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        started.append(Running(server, app, listener.getsockname()[1], thread))
        until(lambda: server.started)
        return started[-1]

    yield start
    for one in started:
        one.server.should_exit = True
        one.thread.join(20)
        assert not one.thread.is_alive()
