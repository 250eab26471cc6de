"""Encoding of response bodies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.codecs.images import encode_png
from app.codecs.negotiation import MEDIA_TYPES
from app.codecs.npz import encode_npz
from app.codecs.spec import Floats

Value = NDArray[Any] | int | float | str | Sequence[str] | Mapping[str, NDArray[Any]] | None
#: Content of a response: named arrays with rows first, plain values, lists of names, and groups of named arrays.
Fields = Mapping[str, Value]


def encode(format: str, fields: Fields, pictures: Floats | None = None) -> tuple[bytes, str]:
    """Encode a response as json, npz or png, and return it with its media type.

    Args:
        fields: content of json and npz. JSON writes None as null; npz leaves it out. npz joins the names of a group and
            of its array with a dot, as in `p_values.free_energy`.
        pictures: content of png, float32 in [0, 1], n x channels x height x width.
    """
    if format == "json":
        body = orjson.dumps(fields, default=_to_contiguous, option=orjson.OPT_SERIALIZE_NUMPY)
    elif format == "npz":
        body = encode_npz(_flatten(fields))
    else:
        assert pictures is not None
        body = encode_png(pictures)
    return body, MEDIA_TYPES[format]


def array_bytes(fields: Fields) -> int:
    """Total size of all arrays in memory, in bytes."""
    total = 0
    for value in fields.values():
        if isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, Mapping):
            total += array_bytes(value)
    return total


def _to_contiguous(value: object) -> NDArray[Any]:
    """Copy an array that orjson rejects because of its memory layout."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    raise TypeError(f"cannot encode {type(value)}")


def _flatten(fields: Fields) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping):
            arrays |= {f"{name}.{key}": array for key, array in value.items()}
        elif value is not None:
            arrays[name] = np.asarray(value)
    return arrays
