"""Decoding of npy bodies."""

import functools
import io
import math
from typing import Literal, NamedTuple

import numpy as np

from app.codecs.errors import Invalid, Malformed
from app.codecs.spec import Floats, InputSpec
from model.datasets.arrays import parse_npy_header
from model.errors import DataError

#: Longest header, in bytes, whose parsed form is cached. numpy's parser takes longer than a small model, and a client
#: sends the same header again and again.
MAX_CACHED_HEADER_BYTES = 128


class _Header(NamedTuple):
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[np.generic]
    start: int  # of the values in the body, in bytes
    nbytes: int  # of the values


def decode_npy(body: bytes, spec: InputSpec) -> Floats:
    """Decode one array in npy format. Integers are bytes from 0 to 255 if the model takes images.

    Raises:
        Malformed: the body is not an npy file, or its length does not match its header.
        Invalid: the array holds pickled objects (which are never read), or a type, shape or value is wrong.
        TooLarge: too many rows.
    """
    length = 10 + int.from_bytes(body[8:10], "little")
    if body[6:8] == b"\1\0" and length <= min(MAX_CACHED_HEADER_BYTES, len(body)):
        shape, order, dtype, start, nbytes = _read_cached_header(body[:length], spec)
    else:
        shape, order, dtype, start, nbytes = _read_header(body, spec)
    # Checked before any allocation, because a header may claim any size.
    actual = len(body) - start
    if actual != nbytes:
        raise Malformed(
            f"the npy file has {actual:,} bytes of values, but its header announces {nbytes:,}; send the file as "
            "numpy.save wrote it, whole and alone"
        )
    values = np.frombuffer(body, dtype, offset=start).reshape(shape, order=order)
    return spec.check(values, integers_are_bytes=dtype.kind in "iu")


def _read_header(body: bytes, spec: InputSpec) -> _Header:
    file = io.BytesIO(body)
    try:
        shape, dtype, fortran = parse_npy_header(file)
    except DataError as error:
        raise Malformed(
            "the body is not an npy file: its header cannot be read; write the file with numpy.save"
        ) from error
    if dtype.hasobject:
        raise Invalid.at(spec.name, "pickled Python objects are never read; send an array of numbers")
    if dtype.kind not in "iuf":
        raise Invalid.at(spec.name, f"unsupported type {dtype}; convert the array to integers or floats with astype")
    if shape[1:] not in spec.shapes:
        actual = " x ".join(str(size) for size in shape) or "a single number"
        one = ", and one row is a batch of one: array[None]" if shape in spec.shapes else ""
        raise Invalid.at(spec.name, f"expected {spec.describe()}, got {actual}{one}")
    if shape[0] < 0:
        raise Invalid.at(spec.name, f"has {shape[0]} rows by its header; write the file with numpy.save")
    spec.check_count(shape[0])
    return _Header(shape, "F" if fortran else "C", dtype, file.tell(), math.prod(shape) * dtype.itemsize)


_read_cached_header = functools.lru_cache(maxsize=256)(_read_header)
