"""Reading the body of a request, within its limits, before it can fill memory."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from app.errors import BodyTooSlow, Malformed, TooLarge


async def read_body(request: Request, *, max_bytes: int, timeout: float) -> bytes:
    """All bytes of the body.

    Args:
        max_bytes: more are refused as soon as they are announced or have arrived.
        timeout: seconds until the last byte must be here.

    Raises:
        TooLarge, BodyTooSlow: see above.
        Malformed: the client left, or announced no number of bytes.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal():
        raise Malformed(f"Content-Length '{announced:.40}' is not a number")
    too_large = TooLarge(f"the body is larger than the {max_bytes:,} bytes that one request may have; send fewer rows")
    if int(announced) > max_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {timeout:g} s; send it faster, or less of it") from error
    except ClientDisconnect as error:
        raise Malformed("the client left before its body was here") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)
