"""What endpoints need, as FastAPI dependencies: the served model, the context of the request, its rows.

    params: Annotated[EncodeParams, Query()]    the query, validated by pydantic
    model: CurrentModel                         the loaded model and its engine
    context: Context                            the deadline of the request, and what it spent where
    inputs: Inputs                              reads x: `await inputs.read(model, context, plan, strict=params.strict)`
    latents: Latents                            reads z: `await latents.read(model, context, plan)`

Bodies are read when the endpoint asks for them, so that it can refuse a request by its parameters first, and by the
model calls that it plans: `plan(rows)` gives those of a body of this many rows. The
dependencies do not depend on each other: FastAPI resolves each of them at a cost of some 20 microseconds.
"""

import functools
import re
import time
from collections.abc import Callable
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from app.api.bodies import Body
from app.api.errors import LimitExceeded
from app.api.state import ServedModel, state_of
from app.api.threads import run_in_thread
from app.codecs.decode import decode, may_hold_images
from app.codecs.errors import Invalid
from app.codecs.json import RowLabels
from app.codecs.rows import row_bounds
from app.codecs.spec import Floats, InputSpec
from app.inference.context import RequestContext, Span
from app.inference.costs import Plan
from app.inference.errors import DeadlinePassed, QueueFull
from model.images import MAX_DEPTH

#: Bytes of a body from which on it is decoded in a thread: on the event loop every other request would wait for it.
THREAD_BYTES = 1 << 17
#: The model calls that a request plans, by its number of rows.
PlanOfRows = Callable[[int], Plan]


class HeadRefused(NamedTuple):
    """Why a request was refused for its head alone: every request with the same head is, as long as `judge` raises."""

    judge: Callable[[], None]  # raises QueueFull
    retry_after: int  # seconds
    departures: int  # those of the batcher when it was judged


TIMEOUT_SECONDS = re.compile(r"(?=.*[1-9])\d{1,9}(\.\d{1,9})?")
Timeout = Annotated[
    str | None,
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 999_999_999}),
    Header(
        alias="X-Request-Timeout",
        description="Seconds after which the response is of no use; then 504. It cannot extend the service's deadline.",
    ),
]


async def current_model(request: Request) -> ServedModel:
    """The model that serves this request to its end, even if a reload puts another in its place meanwhile.

    Raises:
        Invalid: a query parameter is given more than once.
    """
    if b"&" in request.scope["query_string"]:
        _refuse_repeated(request)
    model, state = state_of(request).model, request.scope["state"]
    state["model"] = model
    model.enter()
    state["cleanups"].append(model.leave)
    return model


def _refuse_repeated(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise Invalid.at(f"query.{repeated:.60}", "is given more than once; give it once")


CurrentModel = Annotated[ServedModel, Depends(current_model)]


async def request_context(request: Request, x_request_timeout: Timeout = None) -> RequestContext:
    """The context of a call of the model, with its deadline: the service's, or the client's where that is sooner.

    Raises:
        Invalid: X-Request-Timeout is not a number of seconds above 0.
    """
    settings = state_of(request).settings
    context = RequestContext(timeout=settings.deadline)
    if x_request_timeout is not None:
        if not TIMEOUT_SECONDS.fullmatch(x_request_timeout):
            detail = f"is '{x_request_timeout:.40}'; send seconds above 0 and below a billion, as in 2.5"
            raise Invalid.at("headers.x-request-timeout", detail)
        context.timeout = min(context.timeout, float(x_request_timeout))
    context.deadline = time.monotonic() + context.timeout
    if settings.traces:
        context.spans = []
    request.scope["state"]["context"] = context
    return context


Context = Annotated[RequestContext, Depends(request_context)]


class InputBody(Body):
    """Reads x from the body of a request."""

    async def read(
        self,
        model: ServedModel,
        context: RequestContext,
        plan: PlanOfRows,
        *,
        strict: bool = False,
        depth: int = MAX_DEPTH,
        labels: RowLabels | None = None,
    ) -> Floats:
        """x as the model takes it: n x data, float32, every value in range.

        Args:
            plan: gives the model calls of the request by its number of rows.
            strict: refuse an image of another size or mode instead of converting it.
            depth: number of significant bits of 16-bit grey images.
            labels: takes the labels of the rows, which JSON may bring.

        Raises:
            CodecError, APIError, QueueFull, TooLong, DeadlinePassed: the body cannot be read, or there is no room for
                the request.
        """
        return await _read(self, model.inputs(strict=strict, depth=depth), model, context, plan, labels)


class LatentBody(Body):
    """Reads z from the body of a request."""

    async def read(self, model: ServedModel, context: RequestContext, plan: PlanOfRows) -> Floats:
        """z: n x latent, float32, every value in range; raises as `InputBody.read` does."""
        return await _read(self, model.latents, model, context, plan)


async def _read(
    body: Body,
    spec: InputSpec,
    model: ServedModel,
    context: RequestContext,
    plan: PlanOfRows,
    labels: RowLabels | None = None,
) -> Floats:
    headers = body.request.headers
    content_type, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
    if model.engine.batcher.loaded:
        batcher, departures = model.engine.batcher, model.engine.batcher.departures
        fewest, most = map(plan, row_bounds(content_type, coding, body.announced(), spec))
        try:
            batcher.check(fewest, most, context.timeout)
        except QueueFull as error:
            judge = functools.partial(batcher.check, fewest, most, context.timeout)
            body.request.scope["state"]["refused"] = HeadRefused(judge, error.retry_after, departures)
            raise
    content = await body.receive()
    start = time.monotonic()
    context.deadline = start + context.timeout  # which counts from when the request is complete
    arguments = (content, content_type, spec, body.hold_image, labels)
    if len(content) > THREAD_BYTES or may_hold_images(content, content_type):
        rows = await run_in_thread(decode, *arguments)
        if time.monotonic() > context.deadline:
            raise DeadlinePassed("reading this request took too long; send fewer rows, or allow more time")
    else:
        rows = decode(*arguments)
    context.rows = len(rows)
    if context.spans is not None:
        context.add_span(Span("parse", start, time.monotonic()))
    return rows


async def input_body(request: Request) -> InputBody:
    """The body of a request that brings x."""
    return InputBody(request, state_of(request).body_limits)


async def latent_body(request: Request) -> LatentBody:
    """The body of a request that brings z."""
    return LatentBody(request, state_of(request).body_limits)


Inputs = Annotated[InputBody, Depends(input_body)]
Latents = Annotated[LatentBody, Depends(latent_body)]


def ensure_within(what: str, value: int, limit: int) -> None:
    """Refuse a request for more than the settings allow.

    Raises:
        LimitExceeded: it names both numbers.
    """
    if value > limit:
        raise LimitExceeded(f"{what} of {value:,} is more than the {limit:,} that one request may ask for")
