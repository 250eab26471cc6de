"""The service on one screen: every route, handler and middleware."""

import asyncio
import functools
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app import errors, openapi
from app.devices import choose_device, give_back_memory, set_threads
from app.engine import Engine
from app.frame import Frame
from app.lifecycle import end_when_stuck, two_steps
from app.metrics import Metrics
from app.routes.free_energy import FREE_ENERGY
from app.routes.latents import DECODE, ENCODE, RECONSTRUCT, SAMPLE
from app.routes.operations import LIVE, METRICS, MODEL, READY, home
from app.runtime import Runtime
from app.service import Service
from app.settings import Settings
from app.version import VERSION
from model import checkpoint
from model.checkpoint import Checkpoint

OPERATIONS = (ENCODE, DECODE, SAMPLE, FREE_ENERGY, RECONSTRUCT, MODEL, LIVE, READY, METRICS)


class Application(FastAPI):
    """FastAPI with the frame outermost: around its middleware, and past all of it for the calls of the interface."""

    frame: Frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self
            await self.frame(scope, receive, send)
        else:
            await self.serve(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What FastAPI itself does with a request."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, loaded: Checkpoint | None = None) -> FastAPI:
    """The application for these settings; the model is loaded at startup, unless it is handed in.

    Raises:
        ConfigError: a model that was handed in cannot be computed as the settings ask.
    """
    metrics = Metrics()
    made = build(settings, loaded, metrics) if loaded else None

    @asynccontextmanager
    async def lifespan(app: "Application") -> AsyncIterator[None]:
        service = made or build(settings, checkpoint.load(Path(settings.model)), metrics)
        app.state.service = app.frame.service = service
        app.openapi = functools.cache(lambda: openapi.document(service, OPERATIONS))  # type: ignore[method-assign]
        service.engine.start()
        # What is here by now stays: to look through all of it for garbage, again and again, would stop every request.
        # And of what a request leaves behind, next to nothing is garbage that only a search finds.
        gc.collect()
        give_back_memory()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        several = (keep_looking(metrics), end_when_stuck(service)) if settings.workers > 1 else ()
        looking = [asyncio.create_task(look) for look in several]
        with two_steps(service):
            yield
        for look in looking:
            look.cancel()
        service.engine.stop(settings.shutdown_timeout)

    app = Application(
        docs_url=None, redoc_url=None, title="vae-server", version=VERSION, lifespan=lifespan, redirect_slashes=False
    )
    # Its page with all that it loads, for machines without a network.
    app.router.routes += FastAPIOffline(openapi_url=app.openapi_url, redoc_url=None, title=app.title).routes
    app.frame = Frame(app.serve, metrics=metrics, operations={operation.path: operation for operation in OPERATIONS})
    # First in the table: the documentation's routes, which FastAPI has put there, can wait.
    app.router.routes[:0] = [operation.route() for operation in OPERATIONS]
    app.router.routes.append(Route("/", home))
    errors.install(app)
    return app


def build(settings: Settings, loaded: Checkpoint, metrics: Metrics) -> Service:
    """A service of this model that has yet to be started.

    Raises:
        ConfigError: the model cannot be computed as the settings ask.
    """
    device = choose_device(settings.device)
    set_threads(settings.threads, settings.workers)
    loaded.vae.to(device)
    engine = Engine(
        loaded,
        runtime=Runtime(loaded.vae, settings.engine, settings.precision, settings.score_precision),
        batch_rows=settings.batch_rows,
        queue_rows=settings.queue_rows,
        observe=metrics.call,
    )
    service = Service(settings, engine, metrics)
    metrics.describe(loaded.card.name, loaded.digest, VERSION)
    metrics.watch(lambda: engine.batcher.waiting, lambda: float(service.ready))
    return service


async def keep_looking(metrics: Metrics) -> None:
    """Have other workers know of this one, whichever is asked for metrics."""
    while True:
        metrics.look()
        await asyncio.sleep(1)
