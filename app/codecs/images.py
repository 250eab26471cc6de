"""Decoding of images to rows, and encoding of rows to PNG."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from PIL import Image

from app.codecs.base64 import read_base64
from app.codecs.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from app.codecs.spec import Floats, InputSpec
from model.errors import InputError
from model.images import decoding_bytes, fit_image

#: Media type -> Pillow's name of the format. No other format is ever opened.
IMAGE_FORMATS = {f"image/{name.lower()}": name for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
#: Other names of these media types that clients send -> the registered name.
IMAGE_ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-bmp": "image/bmp",
    "image/x-ms-bmp": "image/bmp",
    "image/tif": "image/tiff",
    "image/x-tiff": "image/tiff",
}
#: Longest side of an image, in pixels. Resizing an image with a side of millions of pixels takes seconds.
MAX_SIDE_PIXELS = 1 << 15


#: Takes bytes of memory for as long as its context lasts; it raises where the service has too few.
HoldMemory = Callable[[int], AbstractContextManager[None]]


def hold_any(_size: int) -> AbstractContextManager[None]:
    """Memory without a limit."""
    return nullcontext()


class PixelBudget:
    """Number of pixels that the images of one request may still have, before resizing, and the memory to decode them.

    Args:
        hold: called with the bytes that each image takes while it is decoded.
    """

    def __init__(self, max_pixels: int, hold: HoldMemory = hold_any) -> None:
        self.max_pixels = max_pixels
        self.remaining = max_pixels
        self.hold = hold

    def spend(self, image: Image.Image, place: str) -> None:
        """Subtract the pixels of an image. Raise `TooLarge` if a side is too long or too few pixels remain."""
        size = f"{image.width} x {image.height}"
        if max(image.size) > MAX_SIDE_PIXELS:
            raise TooLarge(f"{place}: the image has {size} pixels; send one of at most {MAX_SIDE_PIXELS:,} a side")
        self.remaining -= image.width * image.height
        if self.remaining < 0:
            raise TooLarge(
                f"{place}: with this image of {size} the request exceeds the limit of {self.max_pixels:,} pixels; "
                "send smaller images, or fewer"
            )


def decode_image(body: bytes, media_type: str, spec: InputSpec, budget: PixelBudget, place: str = "body") -> Floats:
    """Decode one image to one row, converted to the model's size and mode.

    Args:
        media_type: a key of `IMAGE_FORMATS`, which the image must match, or `image/*` for any of them.
        place: name of the image in error messages.

    Returns:
        float32 array, 1 x channels x height x width, in [0, 1].

    Raises:
        UnsupportedMedia: the model takes no images.
        Invalid: the image has several frames, cannot be converted, exceeds `spec.depth`, or differs from the model's
            size or mode and `spec.strict` is set.
        Malformed: the bytes are not an image, are truncated or damaged, or are of another format than `media_type`.
        TooLarge: too many pixels.
        Exception: whatever `budget.hold` raises where there is too little memory.
    """
    if spec.image is None:
        raise UnsupportedMedia(f"{place}: images are not supported here; send JSON or application/x-npy")
    image = _open(body, media_type, place)
    budget.spend(image, place)
    with _errors_at(place):
        size = decoding_bytes(image, spec.image)
    with budget.hold(size), _errors_at(place):
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise InputError(f"the image has {frames} frames; send one")
        row = fit_image(image, spec.image, strict=spec.strict, depth=spec.depth)
    return (row.astype(np.float32) / np.float32(255))[None]


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    """Turn what a decoder raises into errors of codecs."""
    try:
        yield
    except InputError as error:
        raise Invalid.at(place, error.detail) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any exception on hostile bytes
        raise Malformed(
            f"{place}: the image cannot be decoded; it is truncated or damaged ({error!s:.120}); send it again"
        ) from error


def _open(body: bytes, media_type: str, place: str) -> Image.Image:
    if not body:
        raise Malformed(f"{place}: empty; send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; PixelBudget checks their size.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(body), formats=list(IMAGE_FORMATS.values()))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{place}: the image has more pixels than can be decoded; send a smaller one") from error
    except Exception as error:
        supported = ", ".join(sorted(IMAGE_FORMATS.values()))
        raise Malformed(f"{place}: not an image of a supported format; send one of {supported}") from error
    # MPO is a JPEG file with further images after the first. Cameras write it as .jpg; only the first image is used.
    actual = "JPEG" if image.format == "MPO" else image.format
    if actual != IMAGE_FORMATS.get(media_type, actual):
        raise Malformed(f"{place}: the content type is {media_type}, but the image is {actual}; send the matching type")
    return image


def decode_base64(rows: Sequence[Any], spec: InputSpec, hold: HoldMemory = hold_any) -> Floats:
    """Decode images as base64 strings or as data URLs, to n x channels x height x width. See `read_base64`.

    Raises:
        Invalid: an item is not a string, not base64, or not an image that the model takes.
        TooLarge: too many pixels.
    """
    images, budget = [], PixelBudget(spec.max_pixels, hold)
    for index, text in enumerate(rows):
        place = f"{spec.name}[{index}]"
        if not isinstance(text, str):
            raise Invalid.at(place, "expected a string; send either base64 images or arrays of numbers, not both")
        try:
            body = read_base64(text)
        except ValueError as error:
            raise Invalid.at(place, str(error)) from error
        try:
            images.append(decode_image(body, "image/*", spec, budget, place))
        except Malformed as error:
            raise Invalid.at(place, error.detail.removeprefix(f"{place}: ")) from error
    return np.concatenate(images)


def encode_png(images: Floats) -> bytes:
    """Encode images, n x channels x height x width and clipped to [0, 1], as one PNG.

    Several images form a grid of ceil(sqrt(n)) columns, filled row by row; empty cells are black.
    """
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:count] = np.rint(images.clip(0, 1) * 255).transpose(0, 2, 3, 1)
    tiled = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    pixels = tiled.reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
    return file.getvalue()
