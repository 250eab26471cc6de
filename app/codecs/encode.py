"""Arrays -> the bytes of an answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.codecs.images import to_png
from app.codecs.negotiation import MEDIA
from app.codecs.npz import to_npz
from model.config import ImageData, VectorData

Values = NDArray[Any] | int | float | str | None
Answer = Mapping[str, Values | Mapping[str, NDArray[Any]]]


def write(form: str, answer: Answer, pictures: NDArray[np.float32] | None = None) -> tuple[bytes, str]:
    """The body and its media type.

    Args:
        form: json, npz or png.
        answer: named arrays with the batch first, groups of them, and plain values. None is null in JSON and left out
            of npz, where an array of a group is named by both, as in `p_values.free_energy`.
        pictures: what png shows, as the model gives images.
    """
    if form == "png":
        assert pictures is not None
        return to_png(pictures), MEDIA[form]
    if form == "npz":
        return to_npz(_flat(answer)), MEDIA[form]
    return orjson.dumps(answer, default=_contiguous, option=orjson.OPT_SERIALIZE_NUMPY), MEDIA[form]


def size(answer: Answer) -> int:
    """Bytes of all arrays of an answer."""
    total = 0
    for value in answer.values():
        if isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, Mapping):
            total += size(value)
    return total


def _contiguous(value: object) -> NDArray[Any]:
    """Arrays that orjson does not take as they are."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    raise TypeError(f"{type(value)} has no place in an answer")


def _flat(answer: Answer) -> dict[str, NDArray[Any]]:
    flat: dict[str, NDArray[Any]] = {}
    for name, value in answer.items():
        if isinstance(value, np.ndarray):
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{key}": array for key, array in value.items()}
        elif value is not None:
            flat[name] = np.asarray(value)
    return flat


def outside(x: NDArray[np.float32], data: ImageData | VectorData) -> NDArray[np.float32]:
    """Samples as the model orders their axes -> as clients do."""
    if isinstance(data, VectorData):
        return x
    return x[:, 0] if data.channels == 1 else x.transpose(0, 2, 3, 1)
