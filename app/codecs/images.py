"""Images -> rows, and rows -> a PNG."""

import base64
import binascii
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from app.api.problems import Invalid, Malformed, TooLarge, UnsupportedMedia
from app.codecs.spec import Expect, Floats
from model.errors import InputError
from model.images import fit_image

#: Media type -> Pillow's name of the format. Nothing else is ever opened.
FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
#: The longest side of an image that is decoded: resizing a line of millions of pixels takes seconds.
LONGEST = 1 << 15


class Pixels:
    """How many pixels the images of one request may still have, before they are resized."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.left = most

    def spend(self, image: Image.Image, place: str) -> None:
        """Count an image that is about to be decoded, or refuse it."""
        size = f"{image.width} x {image.height}"
        if max(image.size) > LONGEST:
            raise TooLarge(f"{place}: the image has {size} pixels; no side may have more than {LONGEST:,}")
        self.left -= image.width * image.height
        if self.left < 0:
            raise TooLarge(
                f"{place}: with this image of {size} the request has more than the "
                f"{self.most:,} pixels that one may have; send smaller images, or fewer"
            )


def from_picture(body: bytes, media: str, expect: Expect, pixels: Pixels, place: str = "body") -> Floats:
    """One image -> one row.

    Args:
        media: a type of `FORMATS`, which the image must be, or `image/*` for any of them.
        pixels: what is left to the request that this image is of.

    Raises:
        Invalid: this model takes no images, or the image is of another format, or does not fit and `strict` is set.
        Malformed: not an image, truncated or damaged.
        TooLarge: more pixels than the limit.
    """
    if expect.image is None:
        raise UnsupportedMedia(f"{place}: this call takes no images; send JSON or application/x-npy")
    image = _open(body, media, place)
    pixels.spend(image, place)
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise InputError(f"the image has {frames} frames; send one")
        row = fit_image(image, expect.image, strict=expect.strict)
    except InputError as error:
        raise Invalid.at(place, error.detail) from error
    except Exception as error:  # a decoder fed with hostile bytes raises anything
        raise Malformed(f"{place}: the image cannot be decoded, it is truncated or damaged ({error!s:.120})") from error
    return (row.astype(np.float32) / np.float32(255))[None]


def _open(body: bytes, media: str, place: str) -> Image.Image:
    wanted = FORMATS.get(media)
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that the caller's own limit is about to judge.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(body), formats=list(FORMATS.values()))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{place}: the image has more pixels than are ever decoded; send a smaller one") from error
    except Exception as error:
        known = ", ".join(sorted(FORMATS.values()))
        raise Malformed(f"{place}: not an image of a format that is read ({known})") from error
    # The multi-picture format is a JPEG with more pictures behind the first, which is the one that is taken; cameras
    # write it under JPEG's name.
    found = "JPEG" if image.format == "MPO" else image.format
    if wanted is not None and found != wanted:
        raise Malformed(f"{place}: announced as {media}, but it is {found}; announce what it is")
    return image


def from_base64(rows: Sequence[Any], expect: Expect) -> Floats:
    """Images as base64 strings, optionally as data URLs -> rows."""
    pictures, pixels = [], Pixels(expect.max_pixels)
    for index, text in enumerate(rows):
        place = f"{expect.name}[{index}]"
        if not isinstance(text, str):
            raise Invalid.at(place, "is no string; send either base64 images or arrays of numbers, not both")
        head, comma, tail = text.partition(",")
        try:
            body = base64.b64decode(tail if comma and head.startswith("data:") else text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid.at(place, f"is not base64: {error}") from error
        try:
            pictures.append(from_picture(body, "image/*", expect, pixels, place))
        except Malformed as error:
            raise Invalid.at(place, error.detail.removeprefix(f"{place}: ")) from error
    return np.concatenate(pictures)


def to_png(images: Floats) -> bytes:
    """Images as the model gives them, n x channels x height x width in [0, 1]: one picture, or a grid of them.

    The grid is as square as it gets, filled row by row; what is left over stays black.
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
