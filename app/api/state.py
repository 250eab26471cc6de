"""What every route works with: the settings, the engine, the metrics, and the reading of a request."""

import asyncio
import functools
import hashlib
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.responses import Response

from app.api.bodies import Bodies
from app.api.keys import Keys
from app.api.problems import Invalid, TooLarge
from app.api.request import Plain, Request
from app.api.watch import Watch
from app.codecs import encode as answers
from app.codecs import negotiation
from app.codecs.decode import may_hold_pictures, read_rows
from app.codecs.spec import Expect, Floats, expect_inputs, expect_latents
from app.inference.context import Span
from app.inference.devices import resident_memory, trim_memory
from app.inference.engine import Engine
from app.inference.errors import DeadlinePassed
from app.observability.metrics import Metrics
from app.settings import Settings
from model.config import ImageData

#: Bytes from which on a body is read, or an answer written, beside the event loop instead of in it: every other
#: request would feel it.
LARGE = 1 << 17
SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass
class Process:
    """What outlives a model: the models that a process serves, one after the other, have it in common."""

    settings: Settings
    metrics: Metrics
    bodies: Bodies
    keys: Keys = field(default_factory=Keys)
    #: Whether it is to end soon, and each connection with its next answer.
    draining: bool = False
    #: Takes the model anew, and says which it is; set when the service has started.
    reload: "Callable[[], Awaitable[Service]] | None" = None


@dataclass(frozen=True)
class Kept:
    """An answer that is the same for everybody, as long as the model is served."""

    body: bytes
    media_type: str

    @functools.cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


@dataclass
class Service:
    """A model that is served. Another takes its place when the model is loaded anew; a request stays with the one that
    it began with.
    """

    process: Process
    engine: Engine
    requests: int = 0  # that are being answered
    retired: bool = False
    #: Answers that are the same for everybody, by name: each is made when it is first asked for.
    made: dict[str, Kept] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.process.settings

    @property
    def keys(self) -> Keys:
        return self.process.keys

    @property
    def watch(self) -> Watch:
        return self.process.bodies.watch

    def leave(self, request: Request) -> None:
        """A request is over that has taken room, or that another model is waiting for."""
        if request.taken:
            self.process.bodies.room.free(request.taken)
            request.taken = 0
        if self.retired and not self.requests:
            self.engine.retire()

    def retire(self) -> None:
        """Another has taken its place: its worker ends with the last request that began here."""
        self.retired = True
        if not self.requests:
            self.engine.retire()

    @functools.cached_property
    def digest(self) -> bytes:
        """Of the model, as a header says it."""
        return self.engine.checkpoint.digest.encode()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded, warmed up and answering."""
        return self.engine.batcher.alive and not self.stuck

    @property
    def stuck(self) -> bool:
        """Whether a call of the model has taken so long that it will not come back."""
        return self.engine.batcher.busy > self.settings.hang_timeout

    def watched(self) -> dict[str, Callable[[], float]]:
        """What metrics tell of it, by name, and of the process."""
        room = self.process.bodies.room
        return {
            "vae_ready": lambda: float(self.ready and not self.process.draining),
            "vae_queue_rows": lambda: self.engine.batcher.waiting,
            "vae_queue_limit_rows": lambda: self.settings.queue_rows,
            "vae_body_bytes": lambda: room.taken,
            "vae_body_limit_bytes": lambda: self.settings.queue_bytes,
            "vae_resident_memory_bytes": resident_memory,
        }

    @property
    def images(self) -> bool:
        return isinstance(self.engine.vae.config.data, ImageData)

    def inputs(self, request: Request, *, strict: bool) -> Awaitable[Floats]:
        """x from the body: n x data, float32, every value in range."""
        return self._rows(request, self._inputs[strict])

    def latents(self, request: Request) -> Awaitable[Floats]:
        """z from the body: n x latent, float32, every value in range."""
        return self._rows(request, self._latents)

    @functools.cached_property
    def _inputs(self) -> tuple[Expect, Expect]:
        """What inputs must be: as a rule, and strictly."""
        s, data = self.settings, self.engine.vae.config.data
        lenient, strict = (
            expect_inputs(data, max_rows=s.max_rows, max_pixels=s.max_pixels, strict=strict) for strict in (False, True)
        )
        return lenient, strict

    @functools.cached_property
    def _latents(self) -> Expect:
        return expect_latents(self.engine.vae.config.latent, max_rows=self.settings.max_rows)

    async def _rows(self, request: Request, expect: Expect) -> Floats:
        self.engine.batcher.admission.ensure_capacity()
        body = await request.body(self.process.bodies)
        began = self.begin(request)
        content_type = request.header(b"content-type") or ""
        arguments = (body, content_type, request.header(b"content-encoding") or "", expect)
        if len(body) > LARGE or may_hold_pictures(body, content_type):
            rows = await asyncio.to_thread(read_rows, *arguments)
            if time.monotonic() > request.context.deadline:
                raise DeadlinePassed("it took too long to read this request; send less, or allow for more time")
        else:
            rows = read_rows(*arguments)
        request.rows = len(rows)
        if request.context.spans is not None:
            request.context.add_span(Span("parse", began, time.monotonic()))
        return rows

    def begin(self, request: Request) -> float:
        """Set the deadline of a request that is all here: the service's own, or the client's where that is sooner.

        Returns: the time, on the same clock.

        Raises:
            Invalid: X-Request-Timeout is not a number of seconds.
        """
        seconds, wish = self.settings.deadline, request.header(b"x-request-timeout")
        if wish is not None:
            if not SECONDS.fullmatch(wish):
                raise Invalid.at("headers.x-request-timeout", f"is '{wish:.40}'; send seconds, as in 2.5")
            seconds = min(seconds, float(wish))
        now = time.monotonic()
        request.context.deadline = now + seconds
        return now

    def limit(self, what: str, value: int, most: int) -> None:
        """Refuse a request for more than the service was set to give."""
        if value > most:
            raise TooLarge(f"{what} of {value:,} is more than the {most:,} that one request may ask for")

    def form(self, request: Request, wish: str | None, *, pictures: bool) -> str:
        """The form of the answer; chosen before any work is done for it."""
        offers = ("json", "npz", "png") if pictures and self.images else ("json", "npz")
        return negotiation.choose(request.header(b"accept") or "", wish, offers)

    async def answer(
        self, request: Request, form: str, answer: answers.Answer, pictures: Floats | None = None
    ) -> Response:
        """Arrays -> a response in this form."""
        traced = request.context.spans is not None
        began = time.monotonic() if traced else 0.0
        if answers.size(answer) > LARGE:
            body, media = await asyncio.to_thread(answers.write, form, answer, pictures)
        else:
            body, media = answers.write(form, answer, pictures)
        if traced:
            request.context.add_span(Span("serialize", began, time.monotonic()))
        return Plain(body, media)

    async def keep(self, request: Request, name: str, make: Callable[[], Kept]) -> Response:
        """An answer that is made once, or word that the client has it already.

        Args:
            name: by which it is kept.
            make: takes a while, and is called beside the event loop.
        """
        kept = self.made.get(name)
        if kept is None:
            kept = self.made[name] = await asyncio.to_thread(make)
            trim_memory()
        # The same address has another answer where another model is served: a client may keep it, but has to ask.
        headers = {"ETag": kept.etag, "Cache-Control": "no-cache"}
        known = request.header(b"if-none-match") or ""
        if kept.etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(kept.body, headers=headers, media_type=kept.media_type)

    def outputs(self, x: Floats) -> Floats:
        """x as clients read it; pixels are clipped to [0, 1], which a Gaussian's mean may leave."""
        return self.outside(x.clip(0, 1) if self.images else x)

    def outside(self, x: Floats) -> Floats:
        """Samples with their axes as clients order them."""
        return answers.outside(x, self.engine.vae.config.data)

    def brighten(self, surprise: Floats) -> Floats:
        """A map of nats as pictures: from black at the least to white at the most, over all of this answer."""
        low, high = float(surprise.min()), float(surprise.max())
        grey = (surprise - low) / max(high - low, math.ulp(1.0))
        mean: Floats = grey.mean(axis=1, keepdims=True)
        return mean
