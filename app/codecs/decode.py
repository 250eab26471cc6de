"""The body of a request -> rows, by its content type: the one table of what is read."""

from python_multipart.multipart import parse_options_header

from app.api.problems import UnsupportedMedia
from app.codecs.images import FORMATS, Pixels, from_picture
from app.codecs.multipart import from_multipart
from app.codecs.numbers import from_json, from_npy
from app.codecs.spec import Expect, Floats

#: What most requests say, to the letter.
NUMBERS = frozenset({"application/json", "application/x-npy"})


def read_rows(body: bytes, content_type: str, encoding: str, expect: Expect) -> Floats:
    """float32 rows with the batch first, shaped as the model takes them, every value in range.

    Raises:
        UnsupportedMedia: a content type, or a content encoding, that is not read.
        Malformed, Invalid, TooLarge: see the reader of each type.
    """
    media = content_type
    if media not in NUMBERS:
        media = parse_options_header(content_type)[0].decode("latin-1").lower()
    if encoding.lower() not in {"", "identity"}:
        raise UnsupportedMedia(f"Content-Encoding '{encoding:.40}' is not read; send the body as it is")
    if media == "application/json":
        return from_json(body, expect)
    if media == "application/x-npy":
        return from_npy(body, expect)
    if media in FORMATS:
        return from_picture(body, media, expect, Pixels(expect.max_pixels))
    if media == "multipart/form-data" and expect.image is not None:
        return from_multipart(body, content_type, expect)
    raise UnsupportedMedia(
        f"Content-Type '{media:.80}' is not read here; send one of {', '.join(media_types(expect.image is not None))}"
    )


def may_hold_pictures(body: bytes, content_type: str) -> bool:
    """Whether there may be images in a body, whose decoding can be far more work than their bytes tell."""
    if content_type.startswith("application/json"):
        return body.count(b'"') > 2  # more strings than the one key: base64
    return content_type != "application/x-npy"


def media_types(images: bool) -> tuple[str, ...]:
    """The content types that a call reads."""
    return ("application/json", "application/x-npy", *((*FORMATS, "multipart/form-data") if images else ()))
