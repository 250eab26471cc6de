"""The life of the application: loading and warming up its model, and stopping it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app.api.state import AppState, ServedModel
from app.inference.admission import QueueLimits
from app.inference.backends import Runtime
from app.inference.devices import choose_device, set_threads, trim_memory
from app.inference.engine import Engine
from app.observability.metrics import Metrics
from app.observability.tracing import shut_down
from app.server.signals import exit_when_hung, handle_signals
from model import checkpoint
from model.checkpoint import Checkpoint
from model.errors import CheckpointError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: Allocations of Python objects between two searches for garbage, by generation: next to nothing that a request leaves
#: behind is garbage that only a search finds.
GC_THRESHOLDS = (20_000, 50, 100)


def lifespan_of(
    state: AppState, model: ServedModel | None, provider: "TracerProvider | None"
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The lifespan of an application.

    Args:
        model: built but not started; loaded here where there is none.
        provider: shut down at the end.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.load = lambda: load_model(state)
        if model is None:
            state.activate(state.load())
        else:
            model.engine.start()
            state.activate(model)
        # What is in memory by now stays: searching all of it for garbage again and again would stop every request.
        gc.collect()
        trim_memory()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        watchers = (publish_gauges(state.metrics), exit_when_hung(state)) if state.settings.workers > 1 else ()
        tasks = [asyncio.create_task(watcher) for watcher in watchers]
        with handle_signals(state):
            yield
        for task in tasks:
            task.cancel()
        state.model.engine.stop(state.settings.shutdown_timeout)
        state.metrics.clear_gauges()
        if provider is not None:
            shut_down(provider)

    return lifespan


def build_model(state: AppState, loaded: Checkpoint) -> ServedModel:
    """A checkpoint as a model to serve, which has yet to be started.

    Raises:
        ConfigError: it cannot be computed as the settings ask.
    """
    settings = state.settings
    device = choose_device(settings.device)
    set_threads(settings.threads, settings.workers)
    loaded.vae.to(device)
    engine = Engine(
        loaded,
        runtime=Runtime(loaded.vae, settings.engine, settings.precision, settings.score_precision),
        batch_rows=settings.batch_rows,
        limits=QueueLimits(
            rows=settings.queue_rows,
            seconds=settings.queue_seconds,
            large_seconds=settings.max_large_wait,
            others=settings.workers > 1,
        ),
        observe=state.metrics.call,
    )
    return ServedModel(engine, settings)


def load_model(state: AppState) -> ServedModel:
    """Load the model that the settings name, and start it.

    Raises:
        VAEError: it cannot be loaded or computed.
    """
    model = build_model(state, checkpoint.load(Path(state.settings.model)))
    try:
        model.engine.start()
    except ArithmeticError as error:
        raise CheckpointError(f"{state.settings.model}: the model cannot be served: {error}") from error
    return model


async def publish_gauges(metrics: Metrics) -> None:
    """Publish this worker's gauges every second, for whichever worker is asked for metrics."""
    while True:
        metrics.update_gauges()
        await asyncio.sleep(1)
