"""Bodies that nobody meant well: each is read or refused, soon, and none is kept.

The seed makes them the same every time. A tenth of them run with every test, all with the long ones.
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

COUNT = 100_000
BOUNDARY = "b0undary"
GREY = input_spec(ImageData(height=6, width=5), max_rows=8, max_pixels=50_000)
RGB = input_spec(ImageData(height=6, width=5, channels=3), max_rows=8, max_pixels=50_000, strict=True)
TABLE = input_spec(VectorData(columns=("a", "b"), mean=(0.0, 5.0), std=(1.0, 2.0)), max_rows=8, max_pixels=1)
LATENT = latent_spec(3, max_rows=8)
EXPECTED = (GREY, RGB, TABLE, LATENT)
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
ODDITIES = ("null", "true", '"\\ud800"', '"\\u0000"', '"x"', "{}", "[]", '{"inputs": 1}', "[[[]]]", '"iVBORw0KGgo="')
EDGES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"-1", b"1e999")


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def picture(form: str, mode: str, size: tuple[int, int] = (5, 6)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, form)
    return file.getvalue()


def multipart(*parts: bytes, name: str = "inputs") -> bytes:
    lines = []
    for part in parts:
        lines += [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n'.encode()]
        lines += [b"Content-Type: image/png\r\n\r\n", part, b"\r\n"]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


Seed = tuple[bytes, str, InputSpec]


def good() -> list[Seed]:
    """Bodies that are read, with their content types."""
    found: list[Seed] = []
    of_kind = ((GREY, (2, 6, 5)), (GREY, (1, 6, 5, 1)), (RGB, (2, 6, 5, 3)), (TABLE, (3, 2)), (LATENT, (2, 3)))
    for spec, shape in of_kind:
        for dtype in ("u1", "<f4", ">f8", "<f2"):
            found.append((npy(np.ones(shape, dtype)), "application/x-npy", spec))
            found.append((npy(np.asfortranarray(np.ones(shape, dtype))), "application/x-npy", spec))
        found.append((json.dumps({spec.name: np.ones(shape).tolist()}).encode(), "application/json", spec))
    encoded = base64.b64encode(picture("PNG", "L")).decode()
    found.append((json.dumps({"inputs": [encoded, encoded]}).encode(), "application/json", GREY))
    for media, form in IMAGE_FORMATS.items():
        found += [(picture(form, "L"), media, GREY), (picture(form, "RGB"), media, RGB)]
    parts = multipart(picture("PNG", "L"), picture("BMP", "L"))
    found.append((parts, f"multipart/form-data; boundary={BOUNDARY}", GREY))
    return found


def bad() -> list[Seed]:
    """Bodies of other types, and pictures in every format that Pillow writes, as if they were those that are read."""
    types = ("?", "O", "U3", "c8", "M8[s]")
    found: list[Seed] = [(npy(np.zeros((1, 6, 5), dtype)), "application/x-npy", GREY) for dtype in types]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.init()
        for form in sorted(Image.SAVE):
            for mode in ("L", "RGB", "1", "P", "RGBA", "I;16", "F", "CMYK"):
                try:
                    body = picture(form, mode)
                except Exception:  # which most formats do for some modes
                    continue
                found += [(body, media, GREY) for media in IMAGE_FORMATS]
    found.append((multipart(b"x", name="other"), f'multipart/form-data; boundary="{BOUNDARY}"', GREY))
    found.append((picture("PNG", "L", (4000, 4000)), "image/png", GREY))
    return found


def invented(source: random.Random) -> bytes:
    """JSON, or nearly so, of random depth."""

    def value(depth: int) -> str:
        kind = source.random()
        if depth <= 0 or kind < 0.25:
            return source.choice(NUMBERS) if source.random() < 0.8 else source.choice(ODDITIES)
        if kind < 0.9:
            return "[" + ",".join(value(depth - 1) for _ in range(source.choice((0, 1, 2, 2, 3, 5, 6)))) + "]"
        return "{" + ",".join(f'"{source.choice("ab")}":{value(depth - 1)}' for _ in range(2)) + "}"

    if source.random() < 0.02:
        depth = source.choice((10, 1000, 100_000))
        return b'{"inputs": ' + b"[" * depth + b"]" * source.choice((0, depth)) + b"}"
    keys = [source.choice(("inputs", "latents", "inputs", "x", "\\ud800")) for _ in range(source.choice((1, 1, 1, 2)))]
    return ("{" + ",".join(f'"{key}":{value(source.randint(1, 5))}' for key in keys) + "}").encode()


def worsened(body: bytes, other: bytes, source: random.Random) -> bytes:
    """With some of it changed, left out, repeated, or taken from another."""
    for _ in range(source.choice((0, 1, 1, 2, 4))):
        # Most of what a reader can be led astray by stands at the beginning.
        at = source.randrange(min(len(body), source.choice((16, 128, 1 << 20))) or 1)
        end = at + source.choice((1, 1, 2, 4, 16, 64))
        how = source.randrange(6)
        if how == 0:
            body = body[:at] + bytes([source.randrange(256)]) + body[at + 1 :]
        elif how == 1:
            edge = source.choice(EDGES)
            body = body[:at] + edge + body[at + len(edge) :]
        elif how == 2:
            body = body[:at] + body[end:]
        elif how == 3:
            body = body[:at] + body[at:end] * source.choice((2, 2, 9)) + body[end:]
        elif how == 4:
            body = body[:at]
        else:
            body = body[:at] + other[at:]
    return body


def headers(source: random.Random, content_type: str) -> tuple[str, str]:
    """What it says that it is."""
    if source.random() < 0.02:
        odd = ("", "application/json;", "image/*", "multipart/form-data", "text/plain", content_type.upper(), "\xff/\0")
        return source.choice(odd), source.choice(("", "identity", "gzip", "br, gzip"))
    return content_type, ""


def attack(count: int, seed: int) -> dict[str, int]:
    """Read so many bodies; how many of them came to what."""
    source = random.Random(seed)
    right, wrong = good(), bad()
    came: dict[str, int] = {}
    grown = 0
    for index in range(count):
        body, content_type, spec = source.choice(right if source.random() < 0.7 else wrong)
        body = worsened(body, source.choice(right)[0], source)
        if source.random() < 0.2:
            body, content_type = invented(source), "application/json"
        if source.random() < 0.1:
            spec = source.choice(EXPECTED)
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = decode(body, *headers(source, content_type), spec)
        except CodecError as error:
            what = type(error).__name__ if error.detail else "silence"
        else:
            assert rows.dtype == np.float32
            assert 1 <= len(rows) <= spec.max_rows
            assert np.isfinite(rows).all()
            what = "read"
        took = time.perf_counter() - started
        assert took < 1, (index, took, content_type, body[:200])
        came[what] = came.get(what, 0) + 1
        if index == count // 10:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < 100 << 10
    return came


def test_ten_thousand_bodies() -> None:
    came = attack(COUNT // 10, 0)
    # It gets everywhere.
    assert came.keys() >= {"read", "Malformed", "Invalid", "TooLarge", "UnsupportedMedia"}
    assert came["read"] > COUNT // 100
    assert "silence" not in came


@pytest.mark.long
def test_a_hundred_thousand_bodies() -> None:
    assert sum(attack(COUNT, 1).values()) == COUNT
