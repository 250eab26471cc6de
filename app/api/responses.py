"""Responses of named arrays, in the format that the client asks for."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from app.api.state import ServedModel
from app.codecs import negotiation
from app.codecs.encode import Fields, array_bytes, encode
from app.codecs.spec import Floats
from app.inference.context import RequestContext, Span

#: Bytes of arrays from which on they are encoded in a thread: on the event loop every other request would wait for it.
THREAD_BYTES = 1 << 17


class BytesResponse(Response):
    """A body of one media type, without Starlette's work on charsets and cookies."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self.status_code = 200
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode("latin-1"))]


def choose_format(request: Request, requested: str | None, model: ServedModel, *, images: bool = False) -> str:
    """The format of a response of arrays, chosen before any work is done for it: json, npz or png.

    Args:
        requested: the `format` parameter, which overrules the Accept header.
        images: the response holds images where the model is one of images, so that png is possible.

    Raises:
        NotAcceptable: the client accepts none of the formats.
    """
    available = ("json", "npz", "png") if images and model.is_image else ("json", "npz")
    return negotiation.choose(request.headers.get("accept", ""), requested, available)


async def respond(
    format: str, fields: Fields, *, images: Floats | None = None, context: RequestContext | None = None
) -> Response:
    """The response.

    Args:
        format: as `choose_format` gives it.
        fields: named arrays with the batch first, groups of them, and plain values.
        images: what png shows, n x channels x height x width in [0, 1].
        context: records the time that encoding took.
    """
    start = time.monotonic()
    if array_bytes(fields) > THREAD_BYTES:
        body, media_type = await asyncio.to_thread(encode, format, fields, images)
    else:
        body, media_type = encode(format, fields, images)
    if context is not None and context.spans is not None:
        context.add_span(Span("serialize", start, time.monotonic()))
    return BytesResponse(body, media_type)
