"""Fuzzing of `decode`: every body is decoded or raises a `CodecError`, within a second of CPU time.

Memory must not grow. Bodies are reproducible by seed. A tenth of them runs with the default tests, all of them with
the long ones.
"""

import base64
import io
import json
import random
import resource
import time
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.codecs.decode import decode
from app.codecs.errors import CodecError
from app.codecs.images import IMAGE_FORMATS
from app.codecs.spec import InputSpec, input_spec, latent_spec
from model.config import ImageData, VectorData

NUM_BODIES = 100_000
BOUNDARY = "b0undary"
GREY = input_spec(ImageData(height=6, width=5), max_rows=8, max_pixels=50_000)
RGB = input_spec(ImageData(height=6, width=5, channels=3), max_rows=8, max_pixels=50_000, strict=True)
TABLE = input_spec(VectorData(columns=("a", "b"), mean=(0.0, 5.0), std=(1.0, 2.0)), max_rows=8, max_pixels=1)
LATENT = latent_spec(3, max_rows=8)
SPECS = (GREY, RGB, TABLE, LATENT)
NUMBERS = (
    "0",
    "1",
    "-0",
    "0.5",
    "1e400",
    "-1e400",
    "1e-400",
    "NaN",
    "Infinity",
    "9" * 400,
    "0x1",
    "01",
    "1.",
    ".5",
    "+1",
)
NON_NUMBERS = ("null", "true", '"\\ud800"', '"\\u0000"', '"x"', "{}", "[]", '{"inputs": 1}', "[[[]]]", '"iVBORw0KGgo="')
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"-1", b"1e999")


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def image(format_: str, mode: str, size: tuple[int, int] = (5, 6)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, format_)
    return file.getvalue()


def multipart(*parts: bytes, name: str = "inputs") -> bytes:
    lines = []
    for part in parts:
        lines += [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n'.encode()]
        lines += [b"Content-Type: image/png\r\n\r\n", part, b"\r\n"]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


Case = tuple[bytes, str, InputSpec]


def valid_cases() -> list[Case]:
    """List bodies that are decoded, each with its content type and spec."""
    cases: list[Case] = []
    shapes = ((GREY, (2, 6, 5)), (GREY, (1, 6, 5, 1)), (RGB, (2, 6, 5, 3)), (TABLE, (3, 2)), (LATENT, (2, 3)))
    for spec, shape in shapes:
        for dtype in ("u1", "<f4", ">f8", "<f2"):
            cases.append((npy(np.ones(shape, dtype)), "application/x-npy", spec))
            cases.append((npy(np.asfortranarray(np.ones(shape, dtype))), "application/x-npy", spec))
        cases.append((json.dumps({spec.name: np.ones(shape).tolist()}).encode(), "application/json", spec))
    encoded = base64.b64encode(image("PNG", "L")).decode()
    cases.append((json.dumps({"inputs": [encoded, encoded]}).encode(), "application/json", GREY))
    for media_type, format_ in IMAGE_FORMATS.items():
        cases += [(image(format_, "L"), media_type, GREY), (image(format_, "RGB"), media_type, RGB)]
    parts = multipart(image("PNG", "L"), image("BMP", "L"))
    cases.append((parts, f"multipart/form-data; boundary={BOUNDARY}", GREY))
    return cases


def invalid_cases() -> list[Case]:
    """List arrays of unsupported types, and images of every format that Pillow writes under each supported type."""
    types = ("?", "O", "U3", "c8", "M8[s]")
    cases: list[Case] = [(npy(np.zeros((1, 6, 5), dtype)), "application/x-npy", GREY) for dtype in types]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.init()
        for format_ in sorted(Image.SAVE):
            for mode in ("L", "RGB", "1", "P", "RGBA", "I;16", "F", "CMYK"):
                try:
                    body = image(format_, mode)
                except Exception:  # most formats do not support every mode
                    continue
                cases += [(body, media_type, GREY) for media_type in IMAGE_FORMATS]
    cases.append((multipart(b"x", name="other"), f'multipart/form-data; boundary="{BOUNDARY}"', GREY))
    cases.append((image("PNG", "L", (4000, 4000)), "image/png", GREY))
    return cases


def random_json(source: random.Random) -> bytes:
    """Generate JSON of random depth; some of it is invalid."""

    def value(depth: int) -> str:
        kind = source.random()
        if depth <= 0 or kind < 0.25:
            return source.choice(NUMBERS) if source.random() < 0.8 else source.choice(NON_NUMBERS)
        if kind < 0.9:
            return "[" + ",".join(value(depth - 1) for _ in range(source.choice((0, 1, 2, 2, 3, 5, 6)))) + "]"
        return "{" + ",".join(f'"{source.choice("ab")}":{value(depth - 1)}' for _ in range(2)) + "}"

    if source.random() < 0.02:
        depth = source.choice((10, 1000, 100_000))
        return b'{"inputs": ' + b"[" * depth + b"]" * source.choice((0, depth)) + b"}"
    keys = [source.choice(("inputs", "latents", "inputs", "x", "\\ud800")) for _ in range(source.choice((1, 1, 1, 2)))]
    return ("{" + ",".join(f'"{key}":{value(source.randint(1, 5))}' for key in keys) + "}").encode()


def mutate(body: bytes, other: bytes, source: random.Random) -> bytes:
    """Change, delete or repeat some of a body, truncate it, or splice it with another."""
    for _ in range(source.choice((0, 1, 1, 2, 4))):
        # Headers are at the beginning, where errors are most likely to mislead a decoder.
        at = source.randrange(min(len(body), source.choice((16, 128, 1 << 20))) or 1)
        end = at + source.choice((1, 1, 2, 4, 16, 64))
        operation = source.randrange(6)
        if operation == 0:
            body = body[:at] + bytes([source.randrange(256)]) + body[at + 1 :]
        elif operation == 1:
            value = source.choice(EXTREMES)
            body = body[:at] + value + body[at + len(value) :]
        elif operation == 2:
            body = body[:at] + body[end:]
        elif operation == 3:
            body = body[:at] + body[at:end] * source.choice((2, 2, 9)) + body[end:]
        elif operation == 4:
            body = body[:at]
        else:
            body = body[:at] + other[at:]
    return body


def some_content_type(source: random.Random, content_type: str) -> str:
    """Choose a Content-Type; two percent are unsupported or mismatched."""
    if source.random() < 0.02:
        odd = ("", "application/json;", "image/*", "multipart/form-data", "text/plain", content_type.upper(), "\xff/\0")
        return source.choice(odd)
    return content_type


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Decode random bodies. Return the number of bodies for each outcome."""
    source = random.Random(seed)
    valid, invalid = valid_cases(), invalid_cases()
    outcomes: dict[str, int] = {}
    memory_kib = 0
    for index in range(count):
        body, content_type, spec = source.choice(valid if source.random() < 0.7 else invalid)
        body = mutate(body, source.choice(valid)[0], source)
        if source.random() < 0.2:
            body, content_type = random_json(source), "application/json"
        if source.random() < 0.1:
            spec = source.choice(SPECS)
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = decode(body, some_content_type(source, content_type), spec)
        except CodecError as error:
            outcome = type(error).__name__ if error.detail else "empty message"
        else:
            assert rows.dtype == np.float32
            assert 1 <= len(rows) <= spec.max_rows
            assert np.isfinite(rows).all()
            outcome = "decoded"
        seconds = time.process_time() - started
        assert seconds < 1, (index, seconds, content_type, body[:200])
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if index == count // 10:
            memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 100 << 10
    return outcomes


def test_ten_thousand_bodies_reach_every_outcome() -> None:
    outcomes = fuzz(NUM_BODIES // 10, 0)
    assert outcomes.keys() >= {"decoded", "Malformed", "Invalid", "TooLarge", "UnsupportedMedia"}
    assert outcomes["decoded"] > NUM_BODIES // 100
    assert "empty message" not in outcomes


@pytest.mark.long
def test_a_hundred_thousand_bodies_raise_no_other_exception() -> None:
    assert sum(fuzz(NUM_BODIES, 1).values()) == NUM_BODIES
