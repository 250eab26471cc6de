"""The OpenAPI document, from the operations and the pydantic models that serve them."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api.operation import Operation
from app.api.problems import PROBLEM, STATUS
from app.api.schemas import Problem, Query
from app.api.state import Service
from app.codecs.images import FORMATS, to_png
from app.codecs.negotiation import MEDIA
from app.version import VERSION
from model.config import ImageData

Json = dict[str, Any]
REF = "#/components/schemas/{model}"
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
INTRODUCTION = """A trained variational autoencoder behind HTTP: encode, decode, sample, and score by free energy.

Every array has the batch first. Answers come as JSON, or as `application/x-npz` and images as `image/png`, by `Accept`
or `?format=`. Errors are `application/problem+json` and name the place and the remedy. `X-Model-Digest` on every answer
tells which model gave it."""
KEY = {"key": {"type": "http", "scheme": "bearer", "description": "A key that whoever runs the service gave out."}}
TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "Seconds after which the answer is of no use: 504, where the service's own deadline is not sooner.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 999_999_999},
}
#: The errors that any call with a body or parameters can meet, and those of calls that have neither.
OF_WORK = (406, 413, 422, 429, 500, 503, 504)
OF_BODY = (400, 408, 415)
EXAMPLES = {
    400: "the body is not JSON: unexpected end of data: line 1 column 12 (char 11)",
    401: "this needs a key; send the header 'Authorization: Bearer KEY'",
    403: "this is for administrators; send one of their keys, which VAE_ADMIN_KEYS sets",
    404: "this model has no gallery; make one with vae gallery MODEL DATA",
    406: "Accept: text/html leaves no form of this answer; it comes as application/json, application/x-npz",
    408: "the body did not arrive within 30 s; send it faster, or less of it",
    413: "inputs: 2,000 rows are more than the 1,024 that one request may have",
    415: "Content-Type 'text/plain' is not read here; send one of application/json, application/x-npy",
    422: "inputs[3][0][7]: is 1.5; it must be a number from 0 to 1",
    429: "queue full (262,144 rows); retry after 3 s",
    500: "the model failed on this request: it put out values that are not finite numbers",
    503: "the service is stopping or its worker has died; send the request elsewhere",
    504: "the request was not computed in time; send fewer rows or retry later",
}


def document(service: Service, operations: Sequence[Operation[Any]]) -> Json:
    """OpenAPI 3.1, with examples that the served model answers."""
    answers = {operation.answer for operation in operations if operation.answer}
    kinds: list[type[BaseModel]] = [*sorted(answers, key=lambda kind: kind.__name__), Problem]
    _, schemas = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=REF)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, service)
    keys = {"securitySchemes": KEY} if service.keys.guards("administrators") else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "vae-server", "version": VERSION, "description": INTRODUCTION},
        # From where this document lies: a proxy may have put it below a path of its own.
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": schemas["$defs"], **keys},
    }


def _operation(operation: Operation[Any], service: Service) -> Json:
    says: Json = {
        "operationId": operation.path.strip("/").replace("/", "_").replace("-", "_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "responses": _responses(operation, service),
    }
    parameters = _parameters(operation.query)
    if operation.deadline:
        parameters.append(TIMEOUT)
    if parameters:
        says["parameters"] = parameters
    if service.keys.guards(operation.access):
        says["security"] = [{"key": []}]
    if operation.body:
        says["requestBody"] = {"required": True, "content": _bodies(operation.body, service)}
    return says


def _parameters(query: type[Query]) -> list[Json]:
    schema = query.model_json_schema()
    found = []
    for name, says in schema.get("properties", {}).items():
        description = says.pop("description", "")
        # An optional parameter is left out, never sent as null.
        field = says["anyOf"][0] if "anyOf" in says else {k: v for k, v in says.items() if k != "title"}
        found.append({"name": name, "in": "query", "required": False, "description": description, "schema": field})
    return found


def _bodies(name: str, service: Service) -> dict[str, Json]:
    config = service.engine.vae.config
    limits = {"minItems": 1, "maxItems": service.settings.max_rows}
    image = isinstance(config.data, ImageData)
    if name == "latents":
        rows: Json = _nested((config.latent,), limits, {"type": "number"})
        example: Any = [[0.0] * config.latent]
    elif image:
        pixel = {"type": "number", "minimum": 0, "maximum": 1}
        encoded = {"type": "array", **limits, "items": {"type": "string", "contentEncoding": "base64"}}
        rows = {"oneOf": [encoded, _nested(config.data.public_shape, limits, pixel)]}
        example = [base64.b64encode(to_png(np.full((1, *config.data.shape), 0.5, np.float32))).decode()]
    else:
        rows = _nested(config.data.shape, limits, {"type": "number"})
        example = [list(getattr(config.data, "mean", ()))]
    schema = {"type": "object", "properties": {name: rows}, "required": [name], "additionalProperties": False}
    content: dict[str, Json] = {
        "application/json": {"schema": schema, "example": {name: example}},
        "application/x-npy": {"schema": {**BINARY, "description": f"One array, {name} first; numpy.save writes it."}},
    }
    if name == "inputs" and image:
        content |= {media: {"schema": {**BINARY, "contentMediaType": media}} for media in FORMATS}
        parts = {"inputs": {"type": "array", **limits, "items": BINARY}}
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": parts, "required": ["inputs"]}}
    return content


def _nested(shape: tuple[int, ...], limits: Json, leaf: Json) -> Json:
    """The schema of rows of this shape."""
    inner = leaf
    for size in reversed(shape):
        inner = {"type": "array", "minItems": size, "maxItems": size, "items": inner}
    return {"type": "array", **limits, "items": inner}


def _responses(operation: Operation[Any], service: Service) -> dict[str, Json]:
    headers = {
        "X-Model-Digest": {"description": "SHA-256 of the model.", "schema": {"type": "string"}},
        "X-Request-ID": {"description": "The request's own, or one that it was given.", "schema": {"type": "string"}},
    }
    content: dict[str, Json] = {}
    for form in operation.forms:
        if form == "text":
            content["text/plain"] = {"schema": {"type": "string"}, "example": "vae_ready 1.0"}
        elif form == "json" and operation.answer:
            content[MEDIA[form]] = {"schema": {"$ref": REF.format(model=operation.answer.__name__)}}
        elif form == "npz" or service.images:
            content[MEDIA[form]] = {"schema": {**BINARY, "contentMediaType": MEDIA[form]}}
    found: dict[str, Json] = {"200": {"description": operation.summary, "headers": headers, "content": content}}
    if operation.kept:
        etag = {"description": "Of this answer; for If-None-Match.", "schema": {"type": "string"}}
        found["200"]["headers"] = {**headers, "ETag": etag}
        found["304"] = {"description": "The answer that If-None-Match names is still the same.", "headers": headers}
    statuses: tuple[int, ...] = OF_WORK if operation.tag == "model" else (422, 503)
    statuses += operation.problems
    if operation.body:
        statuses += OF_BODY
    titles = dict(STATUS.values())
    if service.keys.guards(operation.access):
        statuses += (401, 403) if operation.access == "administrators" else (401,)
    for status in sorted(set(statuses)):
        found[str(status)] = _problem(status, titles[status], headers)
    return found


def _problem(status: int, title: str, headers: Json) -> Json:
    slug = title.lower().replace(" ", "-")
    example = {
        "type": f"urn:vae-server:problem:{slug}",
        "title": title,
        "status": status,
        "detail": EXAMPLES[status],
    }
    if status == 429:
        headers = {**headers, "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    content = {PROBLEM: {"schema": {"$ref": REF.format(model="Problem")}, "example": example}}
    return {"description": title, "headers": headers, "content": content}
