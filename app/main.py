"""The service on one screen: the application with its middleware, routers and error handlers.

The way of a request, and back:

    1. socket         uvicorn (app.server) parses it; plain requests may take app.fastpath straight to step 3
    2. middleware     app.middleware, in the order of the list in `create_app`
    3. endpoint       a function on a router of app.api, with its dependencies: key, model, inputs, context
    4. codec          app.codecs: the body becomes float32 rows, every value validated
    5. engine         app.inference.engine: a coroutine for each operation
    6. batcher        app.inference.batcher: rows of many requests become one call on the worker thread
    7. backend        app.inference.backends: ONNX Runtime or torch computes it

Arrays come back to the endpoint, a codec writes them in the format that the client accepts, and the middleware adds its
headers. An exception becomes a problem in app.api.problems, from wherever it is raised.
"""

import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from uvicorn.config import STARTUP_FAILURE

from app import __version__
from app.api import openapi, problems
from app.api.bodies import BodyLimits, ByteBudget
from app.api.keys import Keys, read_keys
from app.api.routers import with_dependencies
from app.api.state import AppState
from app.explorer import pages
from app.middleware.access_log import AccessLogMiddleware
from app.middleware.disconnect import DisconnectMiddleware
from app.middleware.request_state import RequestStateMiddleware
from app.middleware.response_headers import ResponseHeadersMiddleware
from app.middleware.root_path import RootPathMiddleware, ensure_unused
from app.middleware.unexpected_errors import UnexpectedErrorsMiddleware
from app.observability import logs
from app.observability.metrics import Metrics
from app.observability.tracing import TraceDetailsMiddleware, tracer_provider
from app.server.lifespan import build_model, lifespan_of
from app.settings import ADMIN_KEYS, API_KEYS, Settings
from model import checkpoint
from model.checkpoint import Checkpoint
from model.errors import VAEError

#: Headers that pages of other origins may read.
EXPOSED_HEADERS = ["X-Model-Digest", "X-Request-ID", "Retry-After"]
#: FastAPI's telemetry beside the span of each request: metrics and logs are the service's own.
NO_OTHER_TELEMETRY = TelemetryConfig(metrics=False, logs=False, operation_spans=False, auto_configure=False)


def create_app(settings: Settings, loaded: Checkpoint | None = None) -> FastAPI:
    """The application for these settings; the model is loaded at startup, unless it is handed in.

    Raises:
        ConfigError: a model that was handed in cannot be computed as the settings ask, OpenTelemetry is missing, or
            the root path is one of the service's own paths.
    """
    metrics, keys = Metrics(), Keys(read_keys(API_KEYS), read_keys(ADMIN_KEYS))
    limits = BodyLimits(settings.max_body_bytes, settings.body_timeout, ByteBudget(settings.queue_bytes))
    state = AppState(settings, metrics, limits, keys)
    model = build_model(state, loaded) if loaded else None
    provider = tracer_provider() if settings.traces else None
    routers = list(with_dependencies(keys))
    routes = [route for router, _ in routers for route in router.routes if isinstance(route, APIRoute)]
    middleware = [
        *_cors(settings),
        Middleware(RequestStateMiddleware),
        Middleware(AccessLogMiddleware, metrics=metrics, routes=[route.path for route in routes]),
        *([Middleware(TraceDetailsMiddleware, provider=provider)] if provider else []),
        Middleware(ResponseHeadersMiddleware, state=state),
        Middleware(UnexpectedErrorsMiddleware),
        Middleware(DisconnectMiddleware),
        *([Middleware(RootPathMiddleware, root_path=settings.root_path)] if settings.root_path else []),
    ]
    app = FastAPI(
        title="vae-server",
        version=__version__,
        lifespan=lifespan_of(state, model, provider),
        middleware=middleware,
        redirect_slashes=False,
        root_path_in_servers=False,  # app.api.openapi names the server
        docs_url=None,
        redoc_url=None,
        telemetry=NO_OTHER_TELEMETRY | {"tracer_provider": provider, "tracing": provider is not None},
    )
    app.state.server = state
    app.openapi = lambda: openapi.document(app, state.model)  # type: ignore[method-assign]
    for router, dependencies in routers:
        app.include_router(router, dependencies=dependencies)
        for route in router.routes:
            if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
                app.add_api_route(
                    route.path, route.endpoint, methods=["HEAD"], dependencies=dependencies, include_in_schema=False
                )
    pages.add(app)
    problems.install(app)
    if settings.root_path:
        ensure_unused(settings.root_path, [*routes, *app.routes])
    return app


def _cors(settings: Settings) -> list[Middleware]:
    origins = [origin.strip() for origin in (settings.cors_origins or "").split(",") if origin.strip()]
    options: dict[str, Any] = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    cors = Middleware(CORSMiddleware, allow_origins=origins, expose_headers=EXPOSED_HEADERS, **options)
    return [cors] if origins else []


def worker_application() -> FastAPI:
    """The application of one worker process, by the settings in its environment."""
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    try:
        return create_app(settings, checkpoint.load(Path(settings.model)))
    except VAEError as error:
        print(f"vae: {error}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)
