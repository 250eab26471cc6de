"""What a request can run into, as one tree, and the one table that gives each class its status.

    Refusal
    ├── Malformed          400  not what its content type says
    ├── Unauthorized       401
    ├── Forbidden          403
    ├── Absent             404  nothing of this kind with this model
    ├── NotAcceptable      406  no form of the answer that the client accepts
    ├── BodyTooSlow        408
    ├── TooLarge           413  bytes, rows, pixels, or work
    ├── UnsupportedMedia   415
    ├── Invalid            422  well-formed but wrong
    ├── Crowded            429  says when to come again
    └── Unavailable        503

The batcher's own exceptions, and those of `model`, have their rows in the table too: 429 for a full queue, which says
when to come again, 499 for a client that left, 500 for a model that failed, 503 for one that ran out of memory and for
a worker that is gone, 504 for a deadline that passed.

Every answer to an error is `application/problem+json` (RFC 9457).
"""

import http
import logging
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.watch import ClientLeft
from app.inference.errors import BatcherStopped, CallFailed, DeadlinePassed, OutOfMemory, QueueFull, whole_wait
from model.errors import InputError, VAEError

PROBLEM = "application/problem+json"
log = logging.getLogger("vae")


@dataclass(frozen=True)
class Place:
    """Where in a request something is wrong, as in `inputs[3][0][7]` or `query.samples`, and what."""

    place: str
    detail: str


class Refusal(Exception):
    """A request that is not answered as asked; the message is the problem's `detail` and names the remedy."""

    def __init__(self, detail: str, *places: Place) -> None:
        super().__init__(detail)
        self.detail = detail
        self.places = places


class Malformed(Refusal):
    """The body is not what its content type says it is."""


class Unauthorized(Refusal):
    """No key, or none that is valid."""


class Forbidden(Refusal):
    """A valid key, but not for this."""


class Absent(Refusal):
    """What this call gives, the served model does not have."""


class NotAcceptable(Refusal):
    """The answer has no form that the client accepts."""


class BodyTooSlow(Refusal):
    """The body did not arrive in time."""


class TooLarge(Refusal):
    """Over a limit on bytes, rows, pixels, or work."""


class UnsupportedMedia(Refusal):
    """A content type or encoding that is not read."""


class Invalid(Refusal):
    """Well-formed, but not what this call of this model takes."""

    @classmethod
    def at(cls, place: str, detail: str) -> "Invalid":
        return cls(f"{place}: {detail}", Place(place, detail))


class Crowded(Refusal):
    """Too many bytes of other requests."""

    def __init__(self, detail: str, seconds: float) -> None:
        self.retry_after = whole_wait(seconds)
        super().__init__(f"{detail}; come again in {self.retry_after} s")


class Unavailable(Refusal):
    """Not ready, or shutting down."""


#: Status and title of each class; the nearest ancestor in the table counts.
STATUS: dict[type[Exception], tuple[int, str]] = {
    Malformed: (400, "Malformed request"),
    Unauthorized: (401, "Unauthorized"),
    Forbidden: (403, "Forbidden"),
    Absent: (404, "Not found"),
    NotAcceptable: (406, "Not acceptable"),
    BodyTooSlow: (408, "Body too slow"),
    TooLarge: (413, "Too large"),
    UnsupportedMedia: (415, "Unsupported media type"),
    Invalid: (422, "Invalid request"),
    InputError: (422, "Invalid request"),
    Crowded: (429, "Overloaded"),
    QueueFull: (429, "Overloaded"),
    # Nobody reads it; the status is nginx's, for the metrics and the log.
    ClientLeft: (499, "Client left"),
    MemoryError: (503, "Out of memory"),
    OutOfMemory: (503, "Out of memory"),
    CallFailed: (500, "Model failed"),
    VAEError: (500, "Model failed"),
    Unavailable: (503, "Unavailable"),
    BatcherStopped: (503, "Unavailable"),
    DeadlinePassed: (504, "Deadline passed"),
}


KNOWN = tuple(STATUS)


def problem(
    status: int, title: str, detail: str, places: tuple[Place, ...] = (), headers: dict[str, str] | None = None
) -> Response:
    """A problem+json answer; `type` is a name that stays the same when words change."""
    body: dict[str, Any] = {
        "type": f"urn:vae-server:problem:{title.lower().replace(' ', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    if places:
        body["errors"] = [{"place": place.place, "detail": place.detail} for place in places]
    return Response(orjson.dumps(body), status, headers, media_type=PROBLEM)


def install(app: FastAPI) -> None:
    """Have every exception answered by this module."""

    async def on_known(request: Request, error: Exception) -> Response:
        return answer(request.method, request.url.path, error)

    for kind in STATUS:
        app.add_exception_handler(kind, on_known)
    app.add_exception_handler(HTTPException, _on_http)


def status_of(error: Exception) -> tuple[int, str]:
    """Status and title of an exception, by its nearest ancestor in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer(method: str, path: str, error: Exception) -> Response:
    """The answer to an exception of the table."""
    status, title = status_of(error)
    places: tuple[Place, ...] = ()
    headers: dict[str, str] = {}
    detail = str(error)
    if isinstance(error, Refusal):
        places = error.places
    elif isinstance(error, InputError):
        places = (Place(error.place, error.detail),)
    if isinstance(error, QueueFull | Crowded):
        headers = {"Retry-After": str(error.retry_after)}
    if isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    if isinstance(error, MemoryError):
        detail = "there was no memory left for this request; send less at once"
    if status == 500 or isinstance(error, OutOfMemory):
        log.error("%s %s: %s", method, path, detail, exc_info=error.__cause__ or error)
    return problem(status, title, detail, places, headers)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = http.HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path:.80}; see /docs for all that is"
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
        detail = f"{request.url.path} does not take {request.method}; it takes {headers['Allow']}"
    return problem(error.status_code, title, detail, headers=headers)
