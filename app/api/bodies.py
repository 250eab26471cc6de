"""Reading the bodies of requests, within limits on each and on all together, before they can fill memory."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from app.api.problems import BodyTooSlow, Crowded
from app.api.watch import ClientLeft, Watch
from app.codecs.errors import Malformed, TooLarge

#: Bytes up to which a body has room in any case: of these there are no more than connections.
SMALL = 1 << 14
#: Digits of a length that is far beyond any limit.
DIGITS = 18
#: Seconds over which it is told how fast room is freed: what was freed so long ago counts a third.
MEMORY = 5.0


class Room:
    """For all bodies that are being read or worked on.

    Args:
        most: bytes that may be taken; a body that finds all of it free is let in whatever its size.
    """

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._most = most
        self._seen = time.monotonic()
        self._freed = 0.0

    def take(self, size: int) -> int:
        """Take room for so many bytes.

        Returns: what is to be freed when the request is over.

        Raises:
            Crowded: there is not enough; it says when there will be.
        """
        if size <= SMALL:
            return 0
        if self.taken and self.taken + size > self._most:
            self.free(0)
            seconds = self.taken / max(self._freed / MEMORY, 1.0)
            raise Crowded(f"{self.taken:,} bytes of other requests are being worked on", seconds)
        self.taken += size
        return size

    def free(self, size: int) -> None:
        """Give back what was taken."""
        now = time.monotonic()
        self._freed = self._freed * math.exp((self._seen - now) / MEMORY) + size
        self._seen = now
        self.taken -= size


@dataclass(frozen=True)
class Bodies:
    """What bodies may be."""

    max_bytes: int  # of one
    timeout: float  # seconds from the head to the last byte of one
    room: Room
    watch: Watch = field(default_factory=Watch)

    def too_large(self) -> TooLarge:
        """The refusal of one, made as soon as its size is announced or has arrived."""
        return TooLarge(
            f"the body is larger than the {self.max_bytes:,} bytes that one request may have; send fewer rows"
        )

    def too_slow(self) -> BodyTooSlow:
        """The refusal of one whose time is up."""
        return BodyTooSlow(f"the body did not arrive within {self.timeout:g} s; send it faster, or less of it")


async def read_body(request: Request, bodies: Bodies, take: Callable[[int], None]) -> bytes:
    """All bytes of the body, as ASGI brings it.

    Args:
        take: is told of room that is to be taken for it.

    Raises:
        TooLarge, BodyTooSlow, Crowded: see `Bodies`.
        Malformed: what is announced is no number.
        ClientLeft: it did, before its body was here.
    """
    announced = request.headers.get("content-length", "0").strip()
    if not announced.isdecimal():
        raise Malformed(f"Content-Length '{announced:.40}' is not a number")
    announced = announced.lstrip("0")
    if len(announced) > DIGITS or int(announced or 0) > bodies.max_bytes:
        raise bodies.too_large()
    parts: list[bytes] = []
    size, taken, more = 0, 0, True
    entry = bodies.watch.over_body(bodies.timeout)
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left before its body was here")
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > bodies.max_bytes:
                raise bodies.too_large()
            if size > max(SMALL, taken):  # counted when it is here: to announce a body costs nothing
                step = max(size - taken, SMALL + 1)
                take(step)
                taken += step
            parts.append(part)
    except asyncio.CancelledError:
        if not entry.recalled():
            raise
        raise bodies.too_slow() from None
    finally:
        bodies.watch.forget(entry)
    return parts[0] if len(parts) == 1 else b"".join(parts)
