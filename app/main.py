"""The service on one screen: every route, handler and middleware."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from app import errors, openapi
from app.devices import choose_device, set_threads
from app.engine import Engine
from app.frame import Frame
from app.metrics import Metrics
from app.routes.free_energy import FREE_ENERGY
from app.routes.latents import DECODE, ENCODE, RECONSTRUCT, SAMPLE
from app.routes.operations import LIVE, METRICS, MODEL, READY, home
from app.service import Service
from app.settings import Settings
from app.version import VERSION
from model import checkpoint
from model.checkpoint import Checkpoint

OPERATIONS = (ENCODE, DECODE, SAMPLE, FREE_ENERGY, RECONSTRUCT, MODEL, LIVE, READY, METRICS)


def create_app(settings: Settings, loaded: Checkpoint | None = None) -> FastAPI:
    """The application for these settings; the model is loaded at startup, unless it is handed in."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = start(settings, loaded, metrics)
        app.state.service = service
        app.openapi = functools.cache(lambda: openapi.document(service, OPERATIONS))  # type: ignore[method-assign]
        yield
        service.engine.stop(settings.shutdown_timeout)

    app: FastAPI = FastAPIOffline(
        redoc_url=None, title="vae-server", version=VERSION, lifespan=lifespan, redirect_slashes=False
    )
    # First in the table: the documentation's routes, which FastAPI has put there, can wait.
    app.router.routes[:0] = [operation.route() for operation in OPERATIONS]
    app.router.routes.append(Route("/", home))
    app.add_middleware(Frame, metrics=metrics, paths=frozenset(operation.path for operation in OPERATIONS))
    errors.install(app)
    return app


def start(settings: Settings, loaded: Checkpoint | None, metrics: Metrics) -> Service:
    """Load the model and warm it up.

    Raises:
        CheckpointError, ConfigError: it cannot be loaded, or not on the device that was asked for.
    """
    device = choose_device(settings.device)
    set_threads(settings.threads)
    found = loaded or checkpoint.load(Path(settings.model))
    found.vae.to(device)
    engine = Engine(
        found,
        batch_rows=settings.batch_rows,
        queue_rows=settings.queue_rows,
        device=device,
        observe=metrics.call,
    )
    engine.start()
    service = Service(settings, engine, metrics)
    metrics.describe(engine.checkpoint.card.name, engine.checkpoint.digest, VERSION)
    metrics.watch(lambda: engine.batcher.waiting, lambda: float(service.ready))
    return service
