"""Reading the body of a request, within its limits, before it can fill memory."""

import asyncio

from starlette.requests import Request

from app.errors import BodyTooSlow, Malformed, TooLarge
from app.watch import Watch


def too_large(max_bytes: int) -> TooLarge:
    """The refusal of a body of more bytes than these."""
    return TooLarge(f"the body is larger than the {max_bytes:,} bytes that one request may have; send fewer rows")


def too_slow(timeout: float) -> BodyTooSlow:
    """The refusal of a body that took longer than this, in seconds."""
    return BodyTooSlow(f"the body did not arrive within {timeout:g} s; send it faster, or less of it")


def client_left() -> Malformed:
    """The refusal of half a body."""
    return Malformed("the client left before its body was here")


async def read_body(request: Request, watch: Watch, *, max_bytes: int, timeout: float) -> bytes:
    """All bytes of the body.

    Args:
        watch: sees to the time.
        max_bytes: more are refused as soon as they are announced or have arrived.
        timeout: seconds until the last byte must be here.

    Raises:
        TooLarge, BodyTooSlow: see above.
        Malformed: the client left, or announced no number of bytes.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal():
        raise Malformed(f"Content-Length '{announced:.40}' is not a number")
    if int(announced) > max_bytes:
        raise too_large(max_bytes)
    parts: list[bytes] = []
    size, more = 0, True
    entry = watch.over_body(timeout)
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise client_left()
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > max_bytes:
                raise too_large(max_bytes)
            parts.append(part)
    except asyncio.CancelledError:
        if not entry.recalled():
            raise
        raise too_slow(timeout) from None
    finally:
        watch.forget(entry)
    return parts[0] if len(parts) == 1 else b"".join(parts)
