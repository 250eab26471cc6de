"""Request bodies: reading them within limits on size and time, and a byte budget for all of them together."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from app.api.errors import BodyTooSlow, ClientLeft, LimitExceeded, Overloaded
from app.api.threads import run_in_thread
from app.codecs.compression import Inflater, is_gzip
from app.codecs.errors import Malformed

#: Bytes of a body that need no budget: there are never more such bodies than connections.
UNBUDGETED_BYTES = 1 << 14
#: Bytes that decoding an image takes without a budget: there are never more such images than threads.
UNBUDGETED_IMAGE_BYTES = 1 << 20
#: Bytes a second at which decoding images frees memory at least; a tenth of what one core was measured to do.
MIN_IMAGE_RATE = 5e7
#: Bytes of a gzip body that are inflated on the event loop, and then in a thread before they are counted.
INFLATED_BYTES_ON_LOOP, INFLATED_BYTES_AT_ONCE = 1 << 16, 1 << 20
#: Decimal digits of a Content-Length beyond any limit.
MAX_LENGTH_DIGITS = 18
#: Seconds over which the rate of freed bytes is averaged: bytes freed so long ago count a third.
RATE_SECONDS = 5.0


class ByteBudget:
    """Byte budget shared by all requests in progress, for their bodies and for the images that are being decoded.

    Args:
        limit: bytes that may be acquired; a body that is alone is admitted whatever its size.
    """

    def __init__(self, limit: int) -> None:
        self.acquired = 0
        self._limit = limit
        self._updated = time.monotonic()
        self._freed = 0.0
        self._image_bytes = 0  # of `acquired`
        self._lock = threading.Lock()  # images are decoded in threads

    def acquire(self, size: int, held: int = 0) -> None:
        """Take bytes of the budget, for a body that holds some of it already.

        Raises:
            Overloaded: too few are free; it says when there will be enough.
        """
        with self._lock:
            self._take(size, self.acquired - held, alone=self.acquired == held)

    def release(self, size: int) -> None:
        """Give acquired bytes back."""
        with self._lock:
            self._give_back(size)

    @contextmanager
    def hold_image(self, size: int) -> Iterator[None]:
        """Take the bytes of an image while it is decoded; one at a time is admitted whatever its size. For any thread.

        Raises:
            Overloaded: as `acquire` does.
        """
        if size <= UNBUDGETED_IMAGE_BYTES:
            yield
            return
        with self._lock:
            self._take(size, self.acquired, alone=not self._image_bytes)
            self._image_bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._image_bytes -= size
                self._give_back(size)

    def _take(self, size: int, others: int, *, alone: bool) -> None:
        if not alone and self.acquired + size > self._limit:
            self._give_back(0)
            rate = self._freed / RATE_SECONDS
            seconds = (others - self._image_bytes) / max(rate, 1.0) + self._image_bytes / max(rate, MIN_IMAGE_RATE)
            raise Overloaded(f"{others:,} bytes of other requests are in progress", seconds)
        self.acquired += size

    def _give_back(self, size: int) -> None:
        now = time.monotonic()
        self._freed = self._freed * math.exp((self._updated - now) / RATE_SECONDS) + size
        self._updated = now
        self.acquired -= size


@dataclass(frozen=True)
class BodyLimits:
    """Limits on request bodies."""

    max_bytes: int  # of one body
    timeout: float  # seconds from the first read of a body to its last byte
    budget: ByteBudget


class Body:
    """The body of one request. The bytes that it takes of the shared budget are given back when the request is over."""

    __slots__ = ("_acquired", "_limits", "request")

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        self.request = request
        self._limits = limits
        self._acquired = 0

    async def receive(self) -> bytes:
        """All bytes of the body, inflated if it is gzip.

        Raises:
            LimitExceeded, BodyTooSlow, Overloaded: see `BodyLimits` and `ByteBudget`.
            Malformed: the Content-Length is not a number, or the body is not the gzip that it is said to be.
            UnsupportedEncoding: the body has another content encoding than gzip.
            ClientLeft: the connection closed before the body was complete.
        """
        headers = self.request.headers
        gzip = "content-encoding" in headers and is_gzip(",".join(headers.getlist("content-encoding")))
        # A server that holds the whole body already hands it over, which spares a task switch.
        content: bytes | None = self.request.scope.get("vae.body")
        if content is None:
            content = await self._receive()
        else:
            self._count(len(content))
        return await self._inflate(content) if gzip else content

    async def _receive(self) -> bytes:
        """All bytes as they are sent."""
        limits = self._limits
        if (self.announced() or 0) > limits.max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.timeout):
                async for chunk in self.request.stream():
                    size += len(chunk)
                    self._count(size)
                    chunks.append(chunk)
        except TimeoutError:
            raise BodyTooSlow(
                f"the body did not arrive within {limits.timeout:g} s; send it faster, or send less"
            ) from None
        except ClientDisconnect:
            raise ClientLeft("the client left before its body was complete") from None
        return b"".join(chunks)

    async def _inflate(self, content: bytes) -> bytes:
        """Inflate a body, a large one in a thread. Both forms are in memory, and in the budget."""
        inflater = Inflater(content)
        more = inflater.advance(INFLATED_BYTES_ON_LOOP)
        while more:
            self._count_inflated(inflater.size, len(content))
            step = min(INFLATED_BYTES_AT_ONCE, self._limits.max_bytes + 1 - inflater.size)
            more = await run_in_thread(inflater.advance, step)
        self._count_inflated(inflater.size, len(content))
        return inflater.content()

    def _count_inflated(self, size: int, compressed: int) -> None:
        if size > self._limits.max_bytes:
            raise LimitExceeded(
                f"the gzip body inflates to more than the {self._limits.max_bytes:,} bytes that one request may have; "
                "send fewer rows"
            )
        self._acquire(compressed + size)

    def hold_image(self, size: int) -> AbstractContextManager[None]:
        """Take bytes of the budget while an image of the body is decoded; see `ByteBudget.hold_image`."""
        return self._limits.budget.hold_image(size)

    def announced(self) -> int | None:
        """Number of bytes that the request announces; None if it does not.

        Raises:
            Malformed: the Content-Length is not a number.
        """
        if (whole := self.request.scope.get("vae.body")) is not None:
            return len(whole)
        announced = self.request.headers.get("content-length")
        if announced is None:
            return None
        if not announced.strip().isdecimal():
            raise Malformed(f"Content-Length '{announced:.40}' is not a number")
        digits = announced.strip().lstrip("0")
        return 10**MAX_LENGTH_DIGITS if len(digits) > MAX_LENGTH_DIGITS else int(digits or 0)

    def _count(self, size: int) -> None:
        """Hold the received size against the limits. Bytes are budgeted on arrival: announcing a body costs nothing."""
        if size > self._limits.max_bytes:
            raise self._too_large()
        if size > UNBUDGETED_BYTES:
            self._acquire(size)

    def _acquire(self, size: int) -> None:
        if size > max(UNBUDGETED_BYTES, self._acquired):
            step = max(size - self._acquired, UNBUDGETED_BYTES + 1)
            self._limits.budget.acquire(step, held=self._acquired)
            if not self._acquired:
                self.request.scope["state"]["cleanups"].append(self._close)
            self._acquired += step

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"the body is larger than the {self._limits.max_bytes:,} bytes that one request may have; send fewer rows"
        )

    def _close(self) -> None:
        self._limits.budget.release(self._acquired)
