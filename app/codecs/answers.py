"""Arrays -> the bytes of an answer."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.codecs.negotiation import MEDIA
from app.codecs.pictures import to_png
from model.config import ImageData, VectorData

Answer = Mapping[str, NDArray[Any] | int | float | str | None]


def write(form: str, answer: Answer, pictures: NDArray[np.float32] | None = None) -> tuple[bytes, str]:
    """The body and its media type.

    Args:
        form: json, npz or png.
        answer: named arrays with the batch first, and plain values; None is null in JSON and left out of npz.
        pictures: what png shows, as the model gives images.
    """
    if form == "png":
        assert pictures is not None
        return to_png(pictures), MEDIA[form]
    if form == "npz":
        file = io.BytesIO()
        np.savez(file, **{name: np.asarray(value) for name, value in answer.items() if value is not None})  # type: ignore[arg-type]
        return file.getvalue(), MEDIA[form]
    plain = {name: np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for name, v in answer.items()}
    return orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY), MEDIA[form]


def outside(x: NDArray[np.float32], data: ImageData | VectorData) -> NDArray[np.float32]:
    """Samples as the model orders their axes -> as clients do."""
    if isinstance(data, VectorData):
        return x
    return x[:, 0] if data.channels == 1 else x.transpose(0, 2, 3, 1)
