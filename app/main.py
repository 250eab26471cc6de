"""The service on one screen: every route, handler and middleware."""

import asyncio
import functools
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import openapi
from app.api import problems as errors
from app.api.bodies import Bodies, Room
from app.api.gallery import GALLERY, GALLERY_INPUT
from app.api.keys import Keys, read_keys
from app.api.latents import DECODE, ENCODE, RECONSTRUCT, SAMPLE
from app.api.model import LIVE, METRICS, MODEL, READY, RELOAD
from app.api.scores import FREE_ENERGY
from app.api.state import Process, Service
from app.inference.backends import Runtime
from app.inference.devices import choose_device, set_threads, trim_memory
from app.inference.engine import Engine
from app.middleware.frame import Frame
from app.observability.metrics import Metrics
from app.observability.tracing import Traces
from app.server.signals import end_when_stuck, signals
from app.settings import ADMIN_KEYS, API_KEYS, Settings
from app.version import VERSION
from model import checkpoint
from model.checkpoint import Checkpoint
from model.errors import CheckpointError

OPERATIONS = (
    ENCODE,
    DECODE,
    SAMPLE,
    FREE_ENERGY,
    RECONSTRUCT,
    MODEL,
    GALLERY,
    GALLERY_INPUT,
    RELOAD,
    LIVE,
    READY,
    METRICS,
)

#: The page at the root, and all that it loads.
EXPLORER = Path(__file__).with_name("explorer")
#: A module of one version must not meet one of another that a browser has kept.
ASK = {"Cache-Control": "no-cache"}
log = logging.getLogger("vae")


class Files(StaticFiles):
    """Files that browsers keep, and ask about each time."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(ASK)
        return response


class Application(FastAPI):
    """FastAPI with the frame outermost: around its middleware, and past all of it for the calls of the interface."""

    frame: Frame
    #: What stands before it: the frame itself, or what lets other origins in.
    entrance: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self
            await self.entrance(scope, receive, send)
        else:
            await self.serve(scope, receive, send)

    def take(self, service: Service) -> None:
        """Serve this model from the next request on."""
        old: Service | None = getattr(self.frame, "service", None)
        checkpoint, metrics = service.engine.checkpoint, service.process.metrics
        metrics.describe(checkpoint.card.name, checkpoint.digest, VERSION, service.engine.loading)
        metrics.set_gauge_sources(service.watched())
        self.state.service = self.frame.service = service
        self.openapi = functools.cache(lambda: openapi.document(service, OPERATIONS))  # type: ignore[method-assign]
        if old is not None:
            old.retire()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What FastAPI itself does with a request."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, loaded: Checkpoint | None = None) -> FastAPI:
    """The application for these settings; the model is loaded at startup, unless it is handed in.

    Raises:
        ConfigError: a model that was handed in cannot be computed as the settings ask, or OpenTelemetry is not here.
    """
    bodies = Bodies(settings.max_body_bytes, settings.body_timeout, Room(settings.queue_bytes))
    process = Process(settings, Metrics(), bodies, Keys(read_keys(API_KEYS), read_keys(ADMIN_KEYS)))
    made = build(process, loaded) if loaded else None

    @asynccontextmanager
    async def lifespan(app: "Application") -> AsyncIterator[None]:
        service = made or build(process, checkpoint.load(Path(settings.model)))
        service.engine.start()
        app.take(service)
        # What is here by now stays: to look through all of it for garbage, again and again, would stop every request.
        # And of what a request leaves behind, next to nothing is garbage that only a search finds.
        gc.collect()
        trim_memory()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        process.reload = reloading(app, process)
        several = (keep_looking(process.metrics), end_when_stuck(app.frame)) if settings.workers > 1 else ()
        looking = [asyncio.create_task(look) for look in several]
        with signals(process):
            yield
        for look in looking:
            look.cancel()
        app.frame.service.engine.stop(settings.shutdown_timeout)
        process.metrics.clear_gauges()
        if app.frame.traces is not None:
            app.frame.traces.close()

    app = Application(
        docs_url=None, redoc_url=None, title="vae-server", version=VERSION, lifespan=lifespan, redirect_slashes=False
    )
    # What the page of the interface loads, for machines without a network.
    app.router.routes += FastAPIOffline(openapi_url=app.openapi_url, docs_url=None, redoc_url=None).routes
    app.frame = Frame(app.serve, process=process, operations={operation.path: operation for operation in OPERATIONS})
    app.frame.traces = Traces() if settings.traces else None
    app.entrance = app.frame
    origins = [origin.strip() for origin in (settings.cors_origins or "").split(",") if origin.strip()]
    if origins:
        app.frame.origins = True
        app.entrance = CORSMiddleware(
            app.frame,
            origins,
            ["GET", "POST"],
            ["*"],
            expose_headers=["X-Model-Digest", "X-Request-ID", "Retry-After"],
        )
    # First in the table: the documentation's routes, which FastAPI has put there, can wait.
    app.router.routes[:0] = [operation.route() for operation in OPERATIONS]
    app.router.routes.append(Route("/docs", lambda _: interface(app.title)))
    app.router.routes.append(Route("/", lambda _: FileResponse(EXPLORER / "index.html", headers=ASK)))
    app.router.routes.append(Mount("/explorer", Files(directory=EXPLORER)))
    errors.install(app)
    return app


def interface(title: str) -> HTMLResponse:
    """Swagger UI. All that it asks for is named from where it lies itself, below whatever path a proxy has put it."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{title}: interface",
        swagger_js_url="static-offline-docs/swagger-ui-bundle.js",
        swagger_css_url="static-offline-docs/swagger-ui.css",
        swagger_favicon_url="explorer/icon.svg",
    )


def build(process: Process, loaded: Checkpoint) -> Service:
    """A service of this model that has yet to be started.

    Raises:
        ConfigError: the model cannot be computed as the settings ask.
    """
    settings = process.settings
    device = choose_device(settings.device)
    set_threads(settings.threads, settings.workers)
    loaded.vae.to(device)
    engine = Engine(
        loaded,
        runtime=Runtime(loaded.vae, settings.engine, settings.precision, settings.score_precision),
        batch_rows=settings.batch_rows,
        queue_rows=settings.queue_rows,
        queue_seconds=settings.queue_seconds,
        observe=process.metrics.call,
    )
    return Service(process, engine)


def reloading(app: Application, process: Process) -> Callable[[], Awaitable[Service]]:
    """What loads the model anew beside the one that is served, tries all of its calls, and has it take over.

    Raises:
        VAEError: it cannot be loaded or computed; nothing has changed.
    """
    one = asyncio.Lock()

    def begin() -> Service:
        service = build(process, checkpoint.load(Path(process.settings.model)))
        try:
            service.engine.start()
        except ArithmeticError as error:
            raise CheckpointError(f"{process.settings.model}: the model cannot be served: {error}") from error
        return service

    async def reload() -> Service:
        async with one:
            service = await asyncio.to_thread(begin)
            app.take(service)
            trim_memory()
            log.info("model loaded anew: %s", service.digest.decode())
            return service

    return reload


async def keep_looking(metrics: Metrics) -> None:
    """Have other workers know of this one, whichever is asked for metrics."""
    while True:
        metrics.update_gauges()
        await asyncio.sleep(1)
