"""The OpenAPI document: FastAPI makes it, and `document` adds what only the loaded model knows."""

import base64
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.api.problems import PROBLEM, STATUS, problem_body
from app.api.schemas import Problem
from app.api.state import ServedModel
from app.codecs.images import IMAGE_FORMATS, encode_png
from app.codecs.negotiation import MEDIA_TYPES
from model.config import ImageData

Json = dict[str, Any]
REF = "#/components/schemas/{name}"
BINARY: Json = {"type": "string", "contentMediaType": "application/octet-stream"}
INTRODUCTION = """A trained variational autoencoder behind HTTP: encode, decode, sample, and score by free energy.

Every array has the batch first. Responses come as JSON, as `application/x-npz`, and images as `image/png`, by `Accept`
or `?format=`; large JSON as gzip by `Accept-Encoding`. Bodies may be gzip too, with `Content-Encoding: gzip`. Errors
are `application/problem+json` and name the place and the remedy. `X-Model-Digest` on every response
names the model that gave it."""
HEADERS: Json = {
    "X-Model-Digest": {"description": "SHA-256 of the model.", "schema": {"type": "string"}},
    "X-Request-ID": {"description": "The client's own, or one that the service gave.", "schema": {"type": "string"}},
}
CODING: Json = {
    "Content-Encoding": {
        "description": "gzip on large JSON, where Accept-Encoding admits it.",
        "schema": {"type": "string", "enum": ["gzip"]},
    },
    "Vary": {"description": "Request headers that chose this form of the response.", "schema": {"type": "string"}},
}
ACCEPT_ENCODING: Json = {
    "Accept-Encoding": {
        "description": "gzip, where another content encoding was refused.",
        "schema": {"type": "string"},
    }
}
RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
#: Statuses that any call of the model can have, and those of calls that read a body.
MODEL_ERRORS, BODY_ERRORS = (406, 413, 422, 429, 500, 503, 504), (400, 408, 415)
EXAMPLES = {
    400: "the body is not JSON: unexpected end of data: line 1 column 12 (char 11)",
    401: "this call needs a key; send the header 'Authorization: Bearer KEY'",
    403: "this call is for administrators; send one of the keys that VAE_ADMIN_KEYS sets",
    404: "this model has no gallery; make one with vae gallery MODEL DATA",
    406: "cannot respond with text/html; available: application/json, application/x-npz",
    408: "the body did not arrive within 30 s; send it faster, or send less",
    413: "inputs: 2,000 rows are more than the 1,024 that one request may have",
    415: "Content-Type 'text/plain' is not read here; send one of application/json, application/x-npy",
    422: "inputs[3][0][7]: is 1.5; it must be a number from 0 to 1",
    429: "queue full (16,384 rows); retry after 3 s",
    500: "the model failed on this request: it put out values that are not finite numbers",
    503: "the service is stopping or its worker has died; send the request elsewhere",
    504: "the model did not get to this request in time; ask for less or retry later",
}


BodyKind = Literal["inputs", "latents", "labelled", "ends"]


def describe(
    answer: type[BaseModel] | None,
    *formats: Literal["json", "npz", "png"],
    body: BodyKind | None = None,
    cacheable: bool = False,
    errors: tuple[int, ...] = MODEL_ERRORS,
) -> Json:
    """Arguments of a route's decorator that document its body, formats and errors.

    Args:
        answer: the JSON form of the response.
        formats: of the response; png is documented for models of images alone.
        body: what the call reads from its body: inputs or latents, inputs with labels, or two ends, of either kind.
        cacheable: clients may keep the response, and revalidate it by its ETag.
        errors: statuses of problems.
    """
    content = {MEDIA_TYPES[form]: {"schema": {**BINARY, "contentMediaType": MEDIA_TYPES[form]}} for form in formats}
    content.pop(MEDIA_TYPES["json"], None)  # FastAPI documents it from the model of the response
    responses: dict[int, Json] = {200: {"content": content, "headers": {**CODING}}} if content else {}
    if cacheable:
        etag = {"description": "Of this response; for If-None-Match.", "schema": {"type": "string"}}
        responses.setdefault(200, {}).setdefault("headers", {})["ETag"] = etag
        responses[304] = {"description": "The response that If-None-Match names is still current."}
    statuses = {*errors, 422, 503, *(BODY_ERRORS if body else ())}
    responses |= {status: _problem(status) for status in sorted(statuses)}
    described: Json = {"response_model": answer, "responses": responses}
    if body:
        described["openapi_extra"] = {"requestBody": {"required": True, "content": {body: {}}}}
    return described


def _problem(status: int) -> Json:
    title = dict(STATUS.values())[status]
    example = problem_body(status, title, EXAMPLES[status])
    content = {PROBLEM: {"schema": {"$ref": REF.format(name="Problem")}, "example": example}}
    headers = {429: RETRY_AFTER, 415: ACCEPT_ENCODING}.get(status)
    return {"description": title, "content": content, **({"headers": headers} if headers else {})}


def document(app: FastAPI, model: ServedModel) -> Json:
    """OpenAPI 3.1 for this model: the shapes and examples of its rows, and the formats that it has."""
    if model.openapi is None:
        model.openapi = _document(app, model)
    return model.openapi


def _document(app: FastAPI, model: ServedModel) -> Json:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=INTRODUCTION,
        routes=app.routes,
        # Without a setting, relative to where this document lies: a proxy may have put it below a path of its own.
        servers=[{"url": model.settings.root_path or "."}],
    )
    schemas = schema["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(ref_template=REF.replace("name", "model"))
    schemas |= schemas["Problem"].pop("$defs", {})
    for path, item in schema["paths"].items():
        for operation in item.values():
            _complete(operation, path, model)
    return schema


def _complete(operation: Json, path: str, model: ServedModel) -> None:
    """Fill one operation in."""
    operation["operationId"] = path.strip("/").replace("/", "_").replace("-", "_")
    operation["summary"], _, operation["description"] = operation["description"].partition("\n\n")
    for parameter in operation.get("parameters", []):
        _without_null(parameter)
    if "requestBody" in operation:
        (name,) = operation["requestBody"]["content"]
        operation["requestBody"]["content"] = _bodies(name, model)
    responses = operation["responses"]
    if "security" in operation:
        responses["401"] = _problem(401)
        if "operations" in operation["tags"]:
            responses["403"] = _problem(403)
    if not model.is_image:
        responses["200"].get("content", {}).pop(MEDIA_TYPES["png"], None)
    for response in responses.values():
        response["headers"] = {**HEADERS, **response.get("headers", {})}


def _without_null(parameter: Json) -> None:
    """An optional parameter is left out, never sent as null."""
    schema = parameter["schema"]
    schema.pop("title", None)
    if "anyOf" in schema:
        parameter["schema"] = next(option for option in schema["anyOf"] if option.get("type") != "null")


def _bodies(kind: BodyKind, model: ServedModel) -> dict[str, Json]:
    """The content types of a request body of this kind, with an example that the model answers."""
    name, count = "latents" if kind == "latents" else "inputs", 2 if kind == "ends" else 1
    limits = {"minItems": count, "maxItems": count if kind == "ends" else model.settings.max_rows}
    rows, example = _rows(name, limits, count, model)
    properties = {name: rows}
    if kind == "labelled" and model.labels:
        names = {"type": "string", "enum": list(model.labels)}
        properties["labels"] = {"type": "array", **limits, "items": names, "description": "One for each input."}
    schema = _object(properties, name)
    if kind == "ends":
        schema = {"oneOf": [schema, _object({"latents": _rows("latents", limits, count, model)[0]}, "latents")]}
    content: dict[str, Json] = {
        "application/json": {"schema": schema, "example": {name: example}},
        "application/x-npy": {"schema": {**BINARY, "description": f"One array, {name} first; numpy.save writes it."}},
    }
    if name == "inputs" and model.is_image:
        if kind != "ends":
            content |= {media: {"schema": {**BINARY, "contentMediaType": media}} for media in IMAGE_FORMATS}
        parts = {"inputs": {"type": "array", **limits, "items": BINARY}}
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": parts, "required": ["inputs"]}}
    return content


def _object(properties: Json, required: str) -> Json:
    return {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}


def _rows(name: str, limits: Json, count: int, model: ServedModel) -> tuple[Json, list[Any]]:
    """The schema of inputs or latents, and an example with this number of them."""
    config = model.engine.vae.config
    if name == "latents":
        return _nested((config.latent,), limits, {"type": "number"}), [[0.0] * config.latent] * count
    if not isinstance(config.data, ImageData):
        return _nested(config.data.shape, limits, {"type": "number"}), [list(config.data.mean)] * count
    pixel = {"type": "number", "minimum": 0, "maximum": 1}
    encoded = {"type": "array", **limits, "items": {"type": "string", "contentEncoding": "base64"}}
    image = base64.b64encode(encode_png(np.full((1, *config.data.shape), 0.5, np.float32))).decode()
    return {"oneOf": [encoded, _nested(config.data.public_shape, limits, pixel)]}, [image] * count


def _nested(shape: tuple[int, ...], limits: Json, leaf: Json) -> Json:
    """The schema of rows of this shape."""
    inner = leaf
    for size in reversed(shape):
        inner = {"type": "array", "minItems": size, "maxItems": size, "items": inner}
    return {"type": "array", **limits, "items": inner}
