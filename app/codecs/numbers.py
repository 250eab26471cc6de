"""Numbers as JSON and npy -> rows."""

import io
import math
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
    # numpy takes strings, booleans and null for numbers where they can be read as such: only a walk refuses them.
    plain = body.count(b'"') == 2 and not any(word in body for word in (b"true", b"false", b"null"))
    return expect.check(_from_lists(rows, expect, plain), integers_are_bytes=False)


def _from_lists(rows: list[Any], expect: Expect, plain: bool) -> NDArray[np.float64]:
    """numpy does the work; where it does not find plain numbers of the right shape, a walk finds the place."""
    if plain:
        try:
            values = np.array(rows, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            pass  # ragged: the walk says where
        else:
            if values.shape[1:] in expect.shapes:
                return values
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
    file = io.BytesIO(body)
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
    # Compared before anything is allocated: a header may claim any size.
    given, claimed = len(body) - file.tell(), math.prod(shape) * dtype.itemsize
    if given != claimed:
        raise Malformed(f"the npy file has {given:,} bytes of values where its header announces {claimed:,}")
    values = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return expect.check(values, integers_are_bytes=dtype.kind in "iu")
