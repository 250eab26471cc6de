"""Responses of named arrays, in the format that the client asks for."""

import time

from starlette.requests import Request
from starlette.responses import Response

from app.api.state import ServedModel
from app.api.threads import run_in_thread
from app.codecs import negotiation
from app.codecs.compression import accepts_gzip, compress
from app.codecs.encode import Fields, array_bytes, encode
from app.codecs.spec import Floats
from app.inference.context import RequestContext, Span

#: Bytes of arrays from which on they are encoded in a thread: on the event loop every other request would wait for it.
THREAD_BYTES = 1 << 17
#: Bytes of arrays from which on their JSON, three times as long, is compressed: above `compression.MIN_GZIP_BYTES`.
MIN_GZIP_ARRAY_BYTES = 1 << 14
#: Headers of responses that are negotiated, and of those that are compressed.
VARY, GZIP = (b"vary", b"accept, accept-encoding"), (b"content-encoding", b"gzip")


class BytesResponse(Response):
    """A body of one media type, without Starlette's work on charsets and cookies."""

    def __init__(self, body: bytes, media_type: str, *headers: tuple[bytes, bytes]) -> None:
        self.status_code = 200
        self.body = body
        self.background = None
        length, kind = (b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode("latin-1"))
        self.raw_headers = [length, kind, *headers]


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
    request: Request,
    format: str,
    fields: Fields,
    *,
    images: Floats | None = None,
    context: RequestContext | None = None,
) -> Response:
    """The response; large JSON as gzip, if the client accepts it.

    Args:
        format: as `choose_format` gives it.
        fields: named arrays with the batch first, groups of them, and plain values.
        images: what png shows, n x channels x height x width in [0, 1].
        context: records the time that encoding took.
    """
    start = time.monotonic()
    size = array_bytes(fields)
    gzip = format == "json" and size > MIN_GZIP_ARRAY_BYTES and wants_gzip(request)
    if gzip or size > THREAD_BYTES:
        body, media_type = await run_in_thread(_encode, format, fields, images, gzip)
    else:
        body, media_type = encode(format, fields, images)
    if context is not None and context.spans is not None:
        context.add_span(Span("serialize", start, time.monotonic()))
    return BytesResponse(body, media_type, VARY, *([GZIP] if gzip else []))


def _encode(format: str, fields: Fields, images: Floats | None, gzip: bool) -> tuple[bytes, str]:
    body, media_type = encode(format, fields, images)
    return compress(body) if gzip else body, media_type


def wants_gzip(request: Request) -> bool:
    """True if the client accepts gzip."""
    return accepts_gzip(",".join(request.headers.getlist("accept-encoding")))
