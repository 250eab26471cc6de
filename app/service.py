"""What every route works with: the settings, the engine, the metrics, and the reading of a request."""

import asyncio
import functools
import math
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from starlette.responses import Response

from app.bodies import Bodies, Room
from app.codecs import answers, negotiation
from app.codecs.expect import Expect, Floats, expect_inputs, expect_latents
from app.codecs.rows import may_hold_pictures, read_rows
from app.engine import Engine
from app.errors import Invalid, TooLarge
from app.metrics import Metrics
from app.request import Plain, Request
from app.settings import Settings
from app.watch import Watch
from model.config import ImageData

#: Bytes from which on a body is read, or an answer written, beside the event loop instead of in it: every other
#: request would feel it.
LARGE = 1 << 17
SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass
class Service:
    """One running service; `draining` when it is to end soon."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    watch: Watch = field(default_factory=Watch)
    draining: bool = False

    @functools.cached_property
    def bodies(self) -> Bodies:
        """What bodies may be."""
        s = self.settings
        return Bodies(s.max_body_bytes, s.body_timeout, Room(s.queue_bytes), self.watch)

    @functools.cached_property
    def digest(self) -> bytes:
        """Of the model, as a header says it."""
        return self.engine.checkpoint.digest.encode()

    @property
    def ready(self) -> bool:
        """Whether new work is best sent here: the model is loaded, warmed up and answering, and will be for a while."""
        return self.engine.batcher.alive and not self.stuck and not self.draining

    @property
    def stuck(self) -> bool:
        """Whether a call of the model has taken so long that it will not come back."""
        return self.engine.batcher.busy > self.settings.hang_timeout

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
        self.engine.batcher.check()
        body = await request.body(self.bodies)
        self.begin(request)
        content_type = request.header(b"content-type")
        arguments = (body, content_type, request.header(b"content-encoding"), expect)
        if len(body) > LARGE or may_hold_pictures(body, content_type):
            return await asyncio.to_thread(read_rows, *arguments)
        return read_rows(*arguments)

    def begin(self, request: Request) -> None:
        """Set the deadline of a request that is all here: the service's own, or the client's where that is sooner.

        Raises:
            Invalid: X-Request-Timeout is not a number of seconds.
        """
        seconds, wish = self.settings.deadline, request.header(b"x-request-timeout")
        if wish:
            if not SECONDS.fullmatch(wish):
                raise Invalid.at("headers.x-request-timeout", f"is '{wish:.40}'; send seconds, as in 2.5")
            seconds = min(seconds, float(wish))
        request.deadline = time.monotonic() + seconds

    def limit(self, what: str, value: int, most: int) -> None:
        """Refuse a request for more than the service was set to give."""
        if value > most:
            raise TooLarge(f"{what} of {value:,} is more than the {most:,} that one request may ask for")

    def form(self, request: Request, wish: str | None, *, pictures: bool) -> str:
        """The form of the answer; chosen before any work is done for it."""
        offers = ("json", "npz", "png") if pictures and self.images else ("json", "npz")
        return negotiation.choose(request.header(b"accept"), wish, offers)

    async def answer(self, form: str, answer: answers.Answer, pictures: Floats | None = None) -> Response:
        """Arrays -> a response in this form."""
        if answers.size(answer) > LARGE:
            body, media = await asyncio.to_thread(answers.write, form, answer, pictures)
        else:
            body, media = answers.write(form, answer, pictures)
        return Plain(body, media)

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
