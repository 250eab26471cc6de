"""Decoding of request bodies, by content type."""

from python_multipart.multipart import parse_options_header

from app.codecs.errors import Malformed, UnsupportedMedia
from app.codecs.images import IMAGE_ALIASES, IMAGE_FORMATS, HoldMemory, PixelBudget, decode_image, hold_any
from app.codecs.json import RowLabels, decode_json
from app.codecs.multipart import decode_multipart
from app.codecs.npy import decode_npy
from app.codecs.spec import Floats, InputSpec


def decode(
    body: bytes,
    content_type: str,
    spec: InputSpec,
    hold: HoldMemory = hold_any,
    labels: RowLabels | None = None,
) -> Floats:
    """Decode a request body to float32 rows in the model's layout (see `InputSpec.check`), every value in range.

    Args:
        content_type: may have parameters.
        hold: called with the bytes of memory that each image takes while it is decoded; what it raises is passed on.
        labels: takes the labels of the rows, which JSON may bring.

    Raises:
        UnsupportedMedia: the content type is not supported.
        Malformed: the body is empty, or not of its content type.
        Invalid: a key, shape, type or value is wrong.
        TooLarge: too many rows, parts or pixels.
    """
    media_type = content_type
    if media_type not in {"application/json", "application/x-npy"}:  # most requests need no parser
        media_type = parse_options_header(content_type)[0].decode("latin-1").lower()
    if not body:
        raise Malformed(_empty(spec))
    if media_type == "application/json":
        return decode_json(body, spec, hold, labels)
    if media_type == "application/x-npy":
        return decode_npy(body, spec)
    media_type = IMAGE_ALIASES.get(media_type, media_type)
    if media_type in IMAGE_FORMATS:
        return decode_image(body, media_type, spec, PixelBudget(spec.max_pixels, hold))
    if media_type == "multipart/form-data" and spec.image is not None:
        return decode_multipart(body, content_type, spec, hold)
    supported = ", ".join(("application/json", "application/x-npy", *_image_types(spec)))
    raise UnsupportedMedia(f"Content-Type '{media_type:.80}' is not supported here; send one of {supported}")


def _image_types(spec: InputSpec) -> tuple[str, ...]:
    return () if spec.image is None else (*IMAGE_FORMATS, "multipart/form-data")


def _empty(spec: InputSpec) -> str:
    """The detail of the error for a body without bytes."""
    others = ", ".join(("application/x-npy", *_image_types(spec)))
    return f'the body is empty; send {{"{spec.name}": [...]}} as application/json, or {spec.name} as {others}'


def may_hold_images(body: bytes, content_type: str) -> bool:
    """True if a body may contain images. Decoding an image can take far longer than its size in bytes suggests."""
    if content_type.startswith("application/json"):
        return body.count(b'"') > 2  # more strings than the one key: base64
    return content_type != "application/x-npy"
