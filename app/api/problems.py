"""Exceptions -> `application/problem+json` responses (RFC 9457): the one table of statuses."""

import http.client
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api import errors
from app.codecs import errors as codecs
from app.codecs.errors import ErrorLocation
from app.inference.errors import BatcherStopped, CallFailed, DeadlinePassed, OutOfMemory, QueueFull, TooLong
from model.errors import InputError, VAEError

PROBLEM = "application/problem+json"
log = logging.getLogger("vae")

#: Status and title of each exception class; the nearest ancestor in the table counts.
STATUS: dict[type[Exception], tuple[int, str]] = {
    codecs.Malformed: (400, "Malformed request"),
    errors.Unauthorized: (401, "Unauthorized"),
    errors.Forbidden: (403, "Forbidden"),
    errors.NotFound: (404, "Not found"),
    codecs.NotAcceptable: (406, "Not acceptable"),
    errors.BodyTooSlow: (408, "Body too slow"),
    codecs.TooLarge: (413, "Too large"),
    errors.LimitExceeded: (413, "Too large"),
    TooLong: (413, "Too large"),
    codecs.UnsupportedMedia: (415, "Unsupported media type"),
    codecs.Invalid: (422, "Invalid request"),
    InputError: (422, "Invalid request"),
    errors.Overloaded: (429, "Overloaded"),
    QueueFull: (429, "Overloaded"),
    # Nobody reads this one. The status is nginx's, for the metrics and the log.
    errors.ClientLeft: (499, "Client left"),
    MemoryError: (503, "Out of memory"),
    OutOfMemory: (503, "Out of memory"),
    CallFailed: (500, "Model failed"),
    VAEError: (500, "Model failed"),
    errors.Unavailable: (503, "Unavailable"),
    BatcherStopped: (503, "Unavailable"),
    DeadlinePassed: (504, "Deadline passed"),
}


def status_of(error: Exception) -> tuple[int, str] | None:
    """Status and title of an exception, by its nearest ancestor in the table; None for an unexpected exception."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def problem_body(status: int, title: str, detail: str) -> dict[str, Any]:
    """The fields of a problem; `type` is a name that stays the same when the words change."""
    kind = f"urn:vae-server:problem:{title.lower().replace(' ', '-')}"
    return {"type": kind, "title": title, "status": status, "detail": detail}


def problem(
    status: int,
    title: str,
    detail: str,
    locations: Iterable[ErrorLocation] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem+json response."""
    body = problem_body(status, title, detail)
    if places := [{"place": location.place, "detail": location.detail} for location in locations]:
        body["errors"] = places
    return Response(orjson.dumps(body), status, headers, media_type=PROBLEM)


def root_path_of(scope: Mapping[str, Any]) -> str:
    """The path below which the application is served; below a mount, Starlette keeps it under another name."""
    root_path: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root_path


def to_response(method: str, path: str, error: Exception, *, root_path: str = "") -> Response:
    """The response to an exception; one that is unknown here is logged and becomes a 500 without its message."""
    if isinstance(error, HTTPException):
        return _http_problem(method, path, error, root_path)
    known = status_of(error)
    if known is None:
        log.error("%s %s failed", method, path, exc_info=error)
        return problem(500, "Internal error", "the service failed on this request; its log has the cause")
    status, title = known
    locations: tuple[ErrorLocation, ...] = ()
    detail = str(error)
    if isinstance(error, codecs.CodecError):
        locations = error.locations
    elif isinstance(error, InputError):
        locations = (ErrorLocation(error.place, error.detail),)
    elif isinstance(error, MemoryError):
        detail = "not enough memory for this request; send fewer rows at once"
    if status == 500 or isinstance(error, OutOfMemory):
        log.error("%s %s: %s", method, path, detail, exc_info=error.__cause__ or error)
    return problem(status, title, detail, locations, _headers_of(error))


def _headers_of(error: Exception) -> dict[str, str]:
    if isinstance(error, codecs.UnsupportedEncoding):
        return {"Accept-Encoding": "gzip"}
    if isinstance(error, errors.Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, QueueFull | errors.Overloaded):
        wait = {"Retry-After": str(error.retry_after)}
        # A connection stays with its worker; over a new one the client may reach a worker that has time.
        return {**wait, "Connection": "close"} if isinstance(error, QueueFull) and error.elsewhere else wait
    return {}


def install(app: FastAPI) -> None:
    """Register the handlers that turn exceptions of endpoints and routing into problems."""

    async def on_known(request: Request, error: Exception) -> Response:
        return to_response(request.method, request.url.path, error, root_path=root_path_of(request.scope))

    for kind in (*STATUS, HTTPException):
        app.add_exception_handler(kind, on_known)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    locations = [_location(request, item) for item in error.errors()]
    detail = "; ".join(f"{location.place}: {location.detail}" for location in locations)
    status, title = STATUS[codecs.Invalid]
    return problem(status, title, detail, locations)


def _location(request: Request, item: Mapping[str, Any]) -> ErrorLocation:
    """Where and why pydantic refused a parameter."""
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        method = "get" if request.method == "HEAD" else request.method.lower()  # HEAD is not documented of its own
        operation = request.app.openapi()["paths"][request.scope["route"].path][method]
        names = [known["name"] for known in operation.get("parameters", []) if known["in"] == "query"]
        return ErrorLocation(f"{place:.66}", "is not known here" + (f"; known are {', '.join(names)}" if names else ""))
    return ErrorLocation(f"{place:.66}", f"{item['msg']} (given: {item['input']!s:.60})")


def _http_problem(method: str, path: str, error: HTTPException, root_path: str) -> Response:
    """An error of the framework, such as an unknown path, or one that an endpoint raises in FastAPI's way."""
    title = http.client.responses.get(error.status_code, "Error")
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == 404 and detail == title:
        detail = f"no route matches {path:.80}; see {root_path}/docs for the available calls"
    elif error.status_code == 405 and "Allow" in headers:
        methods = set(headers["Allow"].split(", "))
        headers["Allow"] = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        detail = f"{path} does not take {method}; it takes {headers['Allow']}"
    return problem(error.status_code, title, detail, headers=headers)
