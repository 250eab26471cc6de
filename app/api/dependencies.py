"""What endpoints need, as FastAPI dependencies: the served model, the context of the request, its rows, its response.

    params: Annotated[EncodeParams, Query()]    the query, validated by pydantic
    model: CurrentModel                         the loaded model and its engine
    inputs: Inputs                              reads x from the body: `await inputs.read(strict=...)`
    latents: Latents                            reads z from the body: `await latents.read()`
    context: Context                            the deadline of the request, and what it spent where
    arrays: Arrays                              chooses the response format and writes arrays in it

Bodies are read when the endpoint asks for them, so that it can refuse a request by its parameters first.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from app.api.bodies import Body
from app.api.errors import LimitExceeded
from app.api.state import ServedModel, state_of
from app.codecs import negotiation
from app.codecs.decode import decode, may_hold_images
from app.codecs.encode import Fields, array_bytes, encode
from app.codecs.errors import Invalid
from app.codecs.spec import Floats, InputSpec
from app.inference.context import RequestContext, Span
from app.inference.errors import DeadlinePassed

#: Bytes of a body or response from which on it is decoded or encoded in a thread: on the event loop every other
#: request would wait for it.
THREAD_BYTES = 1 << 17
TIMEOUT_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")
Timeout = Annotated[
    str | None,
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 999_999_999}),
    Header(
        alias="X-Request-Timeout",
        description="Seconds after which the response is of no use; then 504. It cannot extend the service's deadline.",
    ),
]


async def single_values(request: Request) -> None:
    """Refuse a query parameter that is given more than once.

    Raises:
        Invalid: it names the parameter.
    """
    if request.scope["query_string"]:
        names = [name for name, _ in request.query_params.multi_items()]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise Invalid.at(f"query.{repeated:.60}", "is given more than once; give it once")


async def current_model(request: Request) -> AsyncIterator[ServedModel]:
    """The model that serves this request to its end, even if a reload puts another in its place meanwhile."""
    model = state_of(request).model
    request.state.model = model
    model.enter()
    try:
        yield model
    finally:
        model.leave()


CurrentModel = Annotated[ServedModel, Depends(current_model)]


async def request_context(request: Request, x_request_timeout: Timeout = None) -> RequestContext:
    """The context of a call of the model, with its deadline: the service's, or the client's where that is sooner.

    Raises:
        Invalid: X-Request-Timeout is not a number of seconds.
    """
    settings = state_of(request).settings
    context = RequestContext(timeout=settings.deadline)
    if x_request_timeout is not None:
        if not TIMEOUT_SECONDS.fullmatch(x_request_timeout):
            raise Invalid.at("headers.x-request-timeout", f"is '{x_request_timeout:.40}'; send seconds, as in 2.5")
        context.timeout = min(context.timeout, float(x_request_timeout))
    context.deadline = time.monotonic() + context.timeout
    if settings.traces:
        context.spans = []
    request.state.context = context
    return context


Context = Annotated[RequestContext, Depends(request_context)]


class Rows:
    """Reads the rows of a request from its body."""

    __slots__ = ("_body", "_context", "_model", "_request")

    def __init__(self, request: Request, model: ServedModel, context: RequestContext, body: Body) -> None:
        self._request = request
        self._model = model
        self._context = context
        self._body = body

    async def _read(self, spec: InputSpec) -> Floats:
        self._model.engine.batcher.admission.ensure_capacity()
        body = await self._body.read()
        context, start = self._context, time.monotonic()
        context.deadline = start + context.timeout  # which counts from when the request is complete
        headers = self._request.headers
        content_type = headers.get("content-type", "")
        arguments = (body, content_type, headers.get("content-encoding", ""), spec)
        if len(body) > THREAD_BYTES or may_hold_images(body, content_type):
            rows = await asyncio.to_thread(decode, *arguments)
            if time.monotonic() > context.deadline:
                raise DeadlinePassed("reading this request took too long; send fewer rows, or allow more time")
        else:
            rows = decode(*arguments)
        context.rows = len(rows)
        if context.spans is not None:
            context.add_span(Span("parse", start, time.monotonic()))
        return rows


class InputRows(Rows):
    """Reads x."""

    async def read(self, *, strict: bool = False) -> Floats:
        """x as the model takes it: n x data, float32, every value in range.

        Args:
            strict: refuse an image of another size or mode instead of converting it.

        Raises:
            CodecError, APIError, QueueFull, DeadlinePassed: the body cannot be read, or there is no room for it.
        """
        return await self._read(self._model.inputs(strict=strict))


class LatentRows(Rows):
    """Reads z."""

    async def read(self) -> Floats:
        """z: n x latent, float32, every value in range; raises as `InputRows.read` does."""
        return await self._read(self._model.latents)


async def read_inputs(request: Request, model: CurrentModel, context: Context) -> AsyncIterator[InputRows]:
    """The reader of x, whose share of the byte budget is given back when the request is over."""
    body = Body(request, state_of(request).body_limits)
    try:
        yield InputRows(request, model, context, body)
    finally:
        body.close()


async def read_latents(request: Request, model: CurrentModel, context: Context) -> AsyncIterator[LatentRows]:
    """The reader of z, whose share of the byte budget is given back when the request is over."""
    body = Body(request, state_of(request).body_limits)
    try:
        yield LatentRows(request, model, context, body)
    finally:
        body.close()


Inputs = Annotated[InputRows, Depends(read_inputs)]
Latents = Annotated[LatentRows, Depends(read_latents)]


class BytesResponse(Response):
    """A body of one media type, without Starlette's work on charsets and cookies."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self.status_code = 200
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode("latin-1"))]


class ArrayResponses:
    """Writes named arrays as the response, in the format that the client asked for."""

    __slots__ = ("_is_image", "_request")

    def __init__(self, request: Request, model: ServedModel) -> None:
        self._request = request
        self._is_image = model.is_image

    def choose_format(self, requested: str | None, *, images: bool = False) -> str:
        """The format of the response, chosen before any work is done for it: json, npz or png.

        Args:
            requested: the `format` parameter, which overrules the Accept header.
            images: the response holds images where the model is one of images, so that png is possible.

        Raises:
            NotAcceptable: the client accepts none of the formats.
        """
        available = ("json", "npz", "png") if images and self._is_image else ("json", "npz")
        return negotiation.choose(self._request.headers.get("accept", ""), requested, available)

    async def respond(self, format: str, fields: Fields, images: Floats | None = None) -> Response:
        """The response.

        Args:
            format: as `choose_format` gives it.
            fields: named arrays with the batch first, groups of them, and plain values.
            images: what png shows, n x channels x height x width in [0, 1].
        """
        start = time.monotonic()
        if array_bytes(fields) > THREAD_BYTES:
            body, media_type = await asyncio.to_thread(encode, format, fields, images)
        else:
            body, media_type = encode(format, fields, images)
        context: RequestContext | None = getattr(self._request.state, "context", None)
        if context is not None and context.spans is not None:
            context.add_span(Span("serialize", start, time.monotonic()))
        return BytesResponse(body, media_type)


async def array_responses(request: Request, model: CurrentModel) -> ArrayResponses:
    """The writer of a response of arrays."""
    return ArrayResponses(request, model)


Arrays = Annotated[ArrayResponses, Depends(array_responses)]


def ensure_within(what: str, value: int, limit: int) -> None:
    """Refuse a request for more than the settings allow.

    Raises:
        LimitExceeded: it names both numbers.
    """
    if value > limit:
        raise LimitExceeded(f"{what} of {value:,} is more than the {limit:,} that one request may ask for")
