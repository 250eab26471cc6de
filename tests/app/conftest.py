"""Services on real sockets."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.support.services import Running


@pytest.fixture(params=["fast", "standard"])
def running(loaded: Callable[[str], Checkpoint], request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Starts services on sockets, over both protocols."""
    started: list[Running] = []

    def start(name: str = "grey-mlp-discretized", **settings: Any) -> Running:
        chosen = Settings(**{"threads": 1, "shutdown_timeout": 5, "http": request.param, **settings})
        started.append(Running.start(chosen, create_app(chosen, loaded(name))))
        return started[-1]

    yield start
    for service in started:
        service.stop()
