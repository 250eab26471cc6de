"""Bounds on the number of rows of a body, from its head alone."""

import math

from app.codecs.images import IMAGE_ALIASES, IMAGE_FORMATS
from app.codecs.spec import InputSpec

#: Bytes of the largest number in npy.
MAX_NPY_BYTES = 16
#: Characters of the shortest number in JSON with its comma, and of the longest that programs write. An image may be
#: shorter than a row of numbers.
MIN_JSON_BYTES, MAX_JSON_BYTES, MIN_IMAGE_BYTES = 2, 64, 32
#: Bytes of the header of npy that are not rows, at most.
MAX_HEADER_BYTES = 1024


def row_bounds(content_type: str, content_encoding: str, length: int | None, spec: InputSpec) -> tuple[int, int]:
    """Fewest and most rows that a body can have, from 1 to `spec.max_rows`.

    Args:
        length: bytes of the body; None if it is not announced.
    """
    media_type = content_type.partition(";")[0].rstrip().lower()
    if media_type in IMAGE_FORMATS or media_type in IMAGE_ALIASES:
        return 1, 1
    if length is None or content_encoding.lower() not in {"", "identity"}:
        return 1, spec.max_rows
    values = math.prod(spec.shape)
    if media_type == "application/x-npy":
        fewest, most = (length - MAX_HEADER_BYTES) // (MAX_NPY_BYTES * values), length // values
    elif spec.image is not None:
        fewest, most = 1, length // MIN_IMAGE_BYTES
    elif media_type != "application/json":
        return 1, spec.max_rows
    else:
        fewest, most = length // (MAX_JSON_BYTES * values), length // (MIN_JSON_BYTES * values)
    return max(1, min(fewest, spec.max_rows)), max(1, min(most, spec.max_rows))
