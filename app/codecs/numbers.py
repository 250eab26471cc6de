"""Numbers as JSON and npy -> rows."""

import functools
import io
import itertools
import math
import operator
import threading
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from app.api.problems import Invalid, Malformed
from app.codecs.images import from_base64
from app.codecs.spec import Expect, Floats

try:
    import simdjson
except ImportError:  # not made for every Python yet
    simdjson = None  # type: ignore[assignment]


def from_json(body: bytes, expect: Expect) -> Floats:
    """`{"inputs": [...]}`: nested arrays of numbers, or for image models base64 pictures.

    Raises:
        Malformed: not JSON.
        Invalid: another key, a ragged or wrong shape, something that is not a number, a number out of range.
        TooLarge: too many rows.
    """
    plain = _plain(body, expect)
    if plain is not None:
        return expect.check(plain, integers_are_bytes=False)
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
    return expect.check(_from_lists(rows, expect), integers_are_bytes=False)


def _plain(body: bytes, expect: Expect) -> NDArray[np.float64] | None:
    """Lists of the right shape that hold nothing but numbers, read without an object for each; None for all others."""
    if simdjson is None or body.startswith(BOM):
        return None
    parser: Any = _parsers.small if len(body) <= SMALL else simdjson.Parser()
    try:
        document = parser.parse(body)
        rows = document[expect.name]
        count = len(rows)
        if len(document) != 1 or not 0 < count <= expect.max_rows:
            return None
        level = [rows]
        for axis in expect.shape:
            level = list(itertools.chain.from_iterable(level))
            if set(map(len, level)) != {axis}:
                return None
        # Flattening would go into lists where numbers must be; so there are no others than those just seen.
        lists = count * sum(itertools.accumulate(expect.shape[:-1], operator.mul, initial=1)) + 1
        if body.count(b"[") != lists:
            return None
        values = np.frombuffer(rows.as_buffer(of_type="d"), np.float64)
        return values.reshape(count, *expect.shape)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None  # whose fault it is, the walk over all of it finds out


#: Which JSON must not begin with (RFC 8259, 8.1), and simdjson passes over.
BOM = b"\xef\xbb\xbf"
#: Bytes of a body up to which its parser, with memory of several times as many, is kept for the next one.
SMALL = 1 << 17


class _Parsers(threading.local):
    """A parser for each thread: it is for one body at a time."""

    def __init__(self) -> None:
        self.small = simdjson.Parser() if simdjson else None


_parsers = _Parsers()


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
    size = 10 + int.from_bytes(body[8:10], "little")
    if body[6:8] == b"\1\0" and size <= min(SHORT, len(body)):
        announced, start = _announced_once(body[:size], expect), size
    else:
        file = io.BytesIO(body)
        announced, start = _announced(file, expect), file.tell()
    # Compared before anything is allocated: a header may claim any size.
    given, claimed = len(body) - start, announced.size
    if given != claimed:
        raise Malformed(f"the npy file has {given:,} bytes of values where its header announces {claimed:,}")
    values = np.frombuffer(body, announced.dtype, offset=start).reshape(announced.shape, order=announced.order)
    return expect.check(values, integers_are_bytes=announced.dtype.kind in "iu")


class _Announced(NamedTuple):
    """What the header of an npy file says, once it is known to be of rows that are expected."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    size: int  # of the values, in bytes


def _announced(file: io.BytesIO, expect: Expect) -> _Announced:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
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
    return _Announced(shape, "F" if fortran else "C", dtype, math.prod(shape) * dtype.itemsize)


#: Clients send the same header again and again, and numpy's parser takes longer than a small model; headers of this
#: many bytes are remembered.
SHORT = 128


@functools.lru_cache(maxsize=256)
def _announced_once(header: bytes, expect: Expect) -> _Announced:
    return _announced(io.BytesIO(header), expect)
