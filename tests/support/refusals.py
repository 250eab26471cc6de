"""Requests that a service refuses, with the expected status and message."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOOD = {"inputs": np.full((1, 8, 8), 0.5).tolist()}
BOOT = (Path(__file__).parents[2] / "examples/ankle-boot.png").read_bytes()
JSON = {"Content-Type": "application/json"}


ZIPPED = gzip.compress(json.dumps(GOOD).encode())
ZIPPED_JSON = {**JSON, "Content-Encoding": "gzip"}


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    return file.getvalue()


CASES: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/encode", {"content": b"{", "headers": JSON}, 400, "not JSON"),
    *(
        (
            "POST",
            path,
            {"content": b"", "headers": {"Content-Type": media_type}},
            400,
            f'body is empty; send {{"{name}"',
        )
        for path, name in (("/encode", "inputs"), ("/decode", "latents"))
        for media_type in (
            *("application/json", "application/x-npy", "image/png", "multipart/form-data; boundary=x"),
            *("application/octet-stream", ""),
        )
    ),
    ("POST", "/encode", {}, 400, "body is empty"),
    ("POST", "/encode", {"json": {"inputs": [""]}}, 422, "inputs[0]: empty; send the bytes"),
    ("POST", "/encode", {"files": {"inputs": b""}}, 400, "part[0]: empty; send the bytes"),
    ("POST", "/encode", {"content": BOOT[:300], "headers": {"Content-Type": "image/png"}}, 400, "truncated"),
    ("POST", "/encode", {"content": png((8, 8)), "headers": {"Content-Type": "image/gif"}}, 400, "image is PNG"),
    ("POST", "/encode", {"content": png((101, 100)), "headers": {"Content-Type": "image/png"}}, 413, "10,000"),
    ("POST", "/encode?strict=1", {"content": png((9, 8)), "headers": {"Content-Type": "image/png"}}, 422, "strict"),
    ("POST", "/encode", {"content": pickled(), "headers": {"Content-Type": "application/x-npy"}}, 422, "pickled"),
    ("POST", "/encode", {"json": {"inputs": []}}, 422, "inputs: empty"),
    ("POST", "/encode", {"json": {"inputs": np.zeros((65, 8, 8)).tolist()}}, 413, "65 rows"),
    ("POST", "/encode", {"json": {**GOOD, "more": 1}}, 422, "body.more: unknown key"),
    ("POST", "/encode", {"json": {"inputs": np.zeros((1, 8, 7)).tolist()}}, 422, "inputs[0][0]: expected a list of"),
    ("POST", "/encode", {"data": {"inputs": "1"}}, 415, "application/json"),
    ("POST", "/encode", {"content": b"{}"}, 415, "application/json"),
    ("POST", "/encode", {"json": GOOD, "headers": {"Content-Encoding": "br"}}, 415, "as gzip or unencoded"),
    ("POST", "/encode", {"json": GOOD, "headers": {"Content-Encoding": "gzip, gzip"}}, 415, "as gzip or unencoded"),
    ("POST", "/encode", {"json": GOOD, "headers": {"Content-Encoding": "gzip"}}, 400, "not gzip"),
    ("POST", "/encode", {"content": ZIPPED[:-5], "headers": ZIPPED_JSON}, 400, "ends too early"),
    ("POST", "/encode", {"content": ZIPPED + b"more", "headers": ZIPPED_JSON}, 400, "followed by other bytes"),
    ("POST", "/encode", {"content": b"", "headers": ZIPPED_JSON}, 400, "ends too early"),
    ("POST", "/encode", {"content": gzip.compress(bytes(1 << 21)), "headers": ZIPPED_JSON}, 413, "inflates to more"),
    ("POST", "/encode", {"json": GOOD, "headers": {"Accept": "text/html"}}, 406, "application/x-npz"),
    ("POST", "/encode?format=png", {"json": GOOD}, 406, "available: json, npz"),
    ("POST", "/encode?format=xml", {"json": GOOD}, 422, "query.format"),
    ("POST", "/free-energy?format=png", {"json": GOOD}, 406, "per_dimension=true"),
    ("POST", "/encode/", {"json": GOOD}, 404, "no route matches /encode/"),
    ("POST", "/encode?foo=1", {"json": GOOD}, 422, "query.foo: is not known here; known are strict, depth, format"),
    ("POST", "/encode?strict=maybe", {"json": GOOD}, 422, "query.strict"),
    ("POST", "/encode?strict=1&strict=0", {"json": GOOD}, 422, "more than once"),
    ("POST", "/decode", {"json": {"latents": [[1, 2, 3]]}}, 422, "latents[0]: expected a list of length 4"),
    ("POST", "/decode", {"json": {"latents": [[1, 2, 3, 1e9]]}}, 422, "latents[0][3]"),
    ("POST", "/decode", {"content": png((8, 8)), "headers": {"Content-Type": "image/png"}}, 415, "application/x-npy"),
    ("POST", "/free-energy?samples=0", {"json": GOOD}, 422, "query.samples"),
    ("POST", "/free-energy?samples=x", {"json": GOOD}, 422, "query.samples"),
    ("POST", "/free-energy?seed=-1", {"json": GOOD}, 422, "query.seed"),
    ("GET", "/sample?n=0", {}, 422, "query.n"),
    ("GET", "/sample?n=65", {}, 413, "query.n of 65 is more than the 64"),
    ("GET", "/sample?temperature=nan", {}, 422, "query.temperature"),
    ("GET", "/sample?temperature=-1", {}, 422, "query.temperature"),
    ("GET", "/model?x=1", {}, 422, "query.x: is not known here"),
    ("GET", "/nothing", {}, 404, "/docs"),
    ("GET", "/encode", {}, 405, "it takes POST"),
    ("DELETE", "/sample", {}, 405, "it takes GET, HEAD"),
]
