"""Numbers as JSON and npy -> rows."""

import functools
import io
import math
import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.codecs.expect import Expect, Floats
from app.codecs.pictures import from_base64
from app.errors import Invalid, Malformed


def from_json(body: bytes, expect: Expect) -> Floats:
    """`{"inputs": [...]}`: nested arrays of numbers, or for image models base64 pictures.

    Raises:
        Malformed: not JSON.
        Invalid: another key, a ragged or wrong shape, something that is not a number, a number out of range.
        TooLarge: too many rows.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid.at("body", f'is not an object; send {{"{expect.name}": [...]}}')
    for key in document:
        if key != expect.name:
            raise Invalid.at(f"body.{key:.60}", f"is not known here; the only key is '{expect.name}'")
    if expect.name not in document:
        raise Invalid.at(f"body.{expect.name}", f'is missing; send {{"{expect.name}": [...]}}')
    rows = document[expect.name]
    if not isinstance(rows, list):
        raise Invalid.at(expect.name, "is not a list; the batch comes first, so one row is a list of one")
    expect.count(len(rows))
    if expect.image is not None and isinstance(rows[0], str):
        return from_base64(rows, expect)
    packed = _pack(rows, expect) if _without_booleans(body, expect.name) else None
    return expect.check(_from_lists(rows, expect) if packed is None else packed, integers_are_bytes=False)


def _without_booleans(body: bytes, name: str) -> bool:
    """Whether it holds neither true nor false for certain; one scan for a letter of both tells it of most bodies."""
    return body.count(b"e") == name.count("e") or not (b"true" in body or b"false" in body)


def _pack(rows: list[Any], expect: Expect) -> Floats | None:
    """Lists of the right shape that hold nothing but numbers; None for all others, and for numbers beyond float32.

    struct refuses null and strings, which numpy would take for numbers, and takes two thirds of the time.
    """
    flat: Iterable[Any] = rows
    try:
        for axis in expect.shape:
            level = list(flat)
            if set(map(len, level)) != {axis}:
                return None
            flat = chain.from_iterable(level)
        count = len(rows) * math.prod(expect.shape)
        return np.frombuffer(struct.pack(f"={count}f", *flat), np.float32).reshape(len(rows), *expect.shape)
    except (TypeError, struct.error, OverflowError):
        return None


def _from_lists(rows: list[Any], expect: Expect) -> NDArray[np.float64]:
    """The same by a walk, which finds the place of whatever is wrong."""
    shape = expect.shapes[-1] if _depth(rows[0]) == len(expect.shapes[-1]) else expect.shape
    for index, row in enumerate(rows):
        _walk(row, shape, f"{expect.name}[{index}]", expect)
    return np.array(rows, dtype=np.float64)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _walk(value: Any, shape: tuple[int, ...], place: str, expect: Expect) -> None:
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Invalid.at(place, f"is {_kind(value)} where a number must be; {expect.name} are {expect.say()}")
        return
    if not isinstance(value, list):
        raise Invalid.at(
            place, f"is {_kind(value)} where a list of {shape[0]} must be; {expect.name} are {expect.say()}"
        )
    if len(value) != shape[0]:
        raise Invalid.at(place, f"has {len(value)} entries instead of {shape[0]}; {expect.name} are {expect.say()}")
    for index, item in enumerate(value):
        _walk(item, shape[1:], f"{place}[{index}]", expect)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def from_npy(body: bytes, expect: Expect) -> Floats:
    """One array in numpy's format. Integers of an image model are bytes 0..255.

    Raises:
        Malformed: not such a file, or of another length than its header says.
        Invalid: of objects (pickled, never read), another type or shape, or a value out of range.
        TooLarge: too many rows.
    """
    try:
        (shape, fortran, dtype), start = _header(body)
    except Exception as error:  # numpy's header parser raises whatever its tokenizer does, in its own words
        raise Malformed("the body is not an npy file: its header cannot be read; write it with numpy.save") from error
    if any(isinstance(size, bool) for size in shape):
        raise Malformed("the body is not an npy file: its shape holds a boolean; write it with numpy.save")
    if dtype.hasobject:
        raise Invalid.at(expect.name, "holds pickled Python objects, which are never read; save plain numbers instead")
    if dtype.kind not in "iuf":
        raise Invalid.at(expect.name, f"is of type {dtype}; send integers or floats, as by astype")
    if shape[1:] not in expect.shapes:
        got = " x ".join(str(n) for n in shape) or "a single number"
        raise Invalid.at(expect.name, f"is {got}; it must be {expect.say()}")
    expect.count(shape[0])
    # Compared before anything is allocated: a header may claim any size.
    given, claimed = len(body) - start, math.prod(shape) * dtype.itemsize
    if given != claimed:
        raise Malformed(f"the npy file has {given:,} bytes of values where its header announces {claimed:,}")
    values = np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return expect.check(values, integers_are_bytes=dtype.kind in "iu")


Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
#: Clients send the same header again and again, and numpy's parser takes longer than a small model; headers of this
#: many bytes are remembered.
SHORT = 128


def _header(body: bytes) -> tuple[Header, int]:
    """Shape, whether columns come first, and type; and where the values start."""
    size = 10 + int.from_bytes(body[8:10], "little")
    if body[6:8] == b"\1\0" and size <= min(SHORT, len(body)):
        return _parsed(body[:size]), size
    file = io.BytesIO(body)
    return _parse(file), file.tell()


def _parse(file: io.BytesIO) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: Header = read(file)
    return header


@functools.lru_cache(maxsize=256)
def _parsed(header: bytes) -> Header:
    return _parse(io.BytesIO(header))
