"""What requests share: the state of the process, and the model that it serves."""

import asyncio
import functools
import hashlib
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from app import __version__
from app.api.bodies import BodyLimits
from app.api.keys import Keys
from app.codecs.compression import compress
from app.codecs.spec import Floats, InputSpec, input_spec, latent_spec
from app.inference.devices import resident_memory, trim_memory
from app.inference.engine import Engine
from app.observability.metrics import Metrics
from app.settings import Settings
from model.config import ImageData, VectorData
from model.errors import VAEError
from model.images import MAX_DEPTH, MIN_DEPTH

log = logging.getLogger("vae")


@dataclass(frozen=True)
class CachedResponse:
    """A response body that is the same for every client while the model is served."""

    body: bytes
    media_type: str

    @functools.cached_property
    def etag(self) -> str:
        """A strong ETag: the digest of the body, in quotes. The gzip form has another."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @functools.cached_property
    def compressed(self) -> "CachedResponse":
        """The response as gzip, made when it is first asked for."""
        return CachedResponse(compress(self.body), self.media_type)


class ServedModel:
    """One loaded model. A reload puts another in its place; requests in progress finish on the one they began with."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        #: The digest of the model, as a header value.
        self.digest = engine.checkpoint.digest.encode()
        #: Cached responses by name, each made when it is first asked for.
        self.cached_responses: dict[str, CachedResponse] = {}
        #: The OpenAPI document, made when it is first needed.
        self.openapi: dict[str, Any] | None = None
        self._requests = 0
        self._retired = False

    @property
    def data(self) -> ImageData | VectorData:
        """The kind and size of x."""
        return self.engine.vae.config.data

    @property
    def is_image(self) -> bool:
        """True if the model is one of images."""
        return isinstance(self.data, ImageData)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that the prior distinguishes; empty without any."""
        return tuple(label.name for label in self.engine.vae.prior.labels)

    def inputs(self, *, strict: bool, depth: int) -> InputSpec:
        """The rows that a call with inputs takes."""
        return self._input_specs[strict, depth]

    @functools.cached_property
    def _input_specs(self) -> dict[tuple[bool, int], InputSpec]:
        s, depths = self.settings, range(MIN_DEPTH, MAX_DEPTH + 1)
        return {
            (strict, depth): input_spec(
                self.data, max_rows=s.max_rows, max_pixels=s.max_pixels, strict=strict, depth=depth
            )
            for strict, depth in itertools.product((False, True), depths)
        }

    @functools.cached_property
    def latents(self) -> InputSpec:
        """The rows that a call with latents takes."""
        return latent_spec(self.engine.vae.config.latent, max_rows=self.settings.max_rows)

    def to_public(self, x: Floats) -> Floats:
        """x with its axes as clients order them; pixels are clipped to [0, 1], which a Gaussian's mean may leave."""
        public: Floats = self.data.to_public(x.clip(0, 1) if self.is_image else x)
        return public

    @property
    def hangs(self) -> bool:
        """True if a call of the model has run for so long that it will not come back."""
        return self.engine.batcher.busy > self.settings.hang_timeout

    @property
    def ready(self) -> bool:
        """True if the model is loaded, warmed up and answering."""
        return self.engine.batcher.alive and not self.hangs

    def enter(self) -> None:
        """Count a request that begins on this model."""
        self._requests += 1

    def leave(self) -> None:
        """Count a request that is over; the last one on a retired model ends its worker."""
        self._requests -= 1
        if self._retired and not self._requests:
            self.engine.retire()

    def retire(self) -> None:
        """End the worker with the last request that is in progress here."""
        self._retired = True
        if not self._requests:
            self.engine.retire()


@dataclass
class AppState:
    """The state of the process, which outlives a model."""

    settings: Settings
    metrics: Metrics
    body_limits: BodyLimits
    keys: Keys
    #: Loads the model as the settings say, and starts it; set when the application starts.
    load: Callable[[], ServedModel] | None = None
    #: True from SIGTERM on: readiness is 503, and each connection is closed with its next response.
    draining: bool = False
    _model: ServedModel | None = None
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _reloads: set[asyncio.Task[ServedModel]] = field(default_factory=set)

    @property
    def model(self) -> ServedModel:
        """The model that new requests are served by."""
        assert self._model is not None, "the application has not started"
        return self._model

    def activate(self, model: ServedModel) -> None:
        """Serve new requests by this model."""
        replaced, self._model = self._model, model
        checkpoint = model.engine.checkpoint
        self.metrics.describe(checkpoint.card.name, checkpoint.digest, __version__, model.engine.loading)
        self.metrics.set_gauge_sources(
            {
                "vae_ready": lambda: float(model.ready and not self.draining),
                "vae_queue_rows": lambda: model.engine.batcher.waiting,
                "vae_queue_limit_rows": lambda: self.settings.queue_rows,
                "vae_queue_limit_seconds small": lambda: self.settings.queue_seconds,
                "vae_queue_limit_seconds large": lambda: self.settings.max_large_wait,
                "vae_queue_seconds small": lambda: model.engine.batcher.seconds_ahead(large=False),
                "vae_queue_seconds large": lambda: model.engine.batcher.seconds_ahead(large=True),
                "vae_body_bytes": lambda: self.body_limits.budget.acquired,
                "vae_body_limit_bytes": lambda: self.settings.queue_bytes,
                "vae_resident_memory_bytes": resident_memory,
            }
        )
        if replaced is not None:
            replaced.retire()

    def reload(self) -> asyncio.Task[ServedModel]:
        """Load the model again beside the one that is served, try all of its calls, and activate it.

        Await it through `asyncio.shield`: a model that is loaded but never activated would keep its worker thread. The
        task raises VAEError if the model cannot be loaded or computed; then nothing has changed.
        """
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._end_reload)
        return task

    def _end_reload(self, task: "asyncio.Task[ServedModel]") -> None:
        self._reloads.discard(task)
        if not task.cancelled() and (error := task.exception()):
            unexpected = None if isinstance(error, VAEError) else error
            log.error("the model was not reloaded; still serving the previous model: %s", error, exc_info=unexpected)

    async def _reload(self) -> ServedModel:
        assert self.load is not None, "the application has not started"
        async with self._reloading:
            model = await asyncio.to_thread(self.load)
            self.activate(model)
            trim_memory()
            log.info("model reloaded: %s", model.digest.decode())
            return model


def state_of(connection: HTTPConnection) -> AppState:
    """The state of the application that serves a request."""
    state: AppState = connection.scope["app"].state["server"]  # the attribute raises and catches an error first
    return state
