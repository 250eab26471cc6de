"""A picture of any size and mode -> the bytes of one sample."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from model.config import ImageData
from model.errors import InputError

#: How a picture that does not fit is made to fit; part of every image model's card.
CONVERSION = (
    "turned upright by its EXIF orientation, transparency laid on black, converted to the model's mode "
    "(grey by ITU-R 601 luma, or RGB), 16-bit grey reduced to its upper 8 bits, resized without keeping "
    "the aspect ratio by an antialiased bilinear filter"
)


def fit_image(image: Image.Image, data: ImageData, *, strict: bool = False) -> NDArray[np.uint8]:
    """The bytes of an image, channels x height x width, converted as `CONVERSION` says.

    Args:
        image: an opened picture; it is decoded here.
        data: the size and mode to fit.
        strict: refuse a picture of another size or mode instead of converting it.

    Raises:
        InputError: it differs and `strict` is set, or its mode has no such conversion (floats, 32-bit integers).
    """
    mode = "L" if data.channels == 1 else "RGB"
    if strict and (image.size != (data.width, data.height) or image.mode != mode):
        raise InputError(
            f"the image is {image.height}x{image.width} of mode {image.mode}; this model takes "
            f"{data.height}x{data.width} of mode {mode}: send that, or leave out strict=true to have it converted"
        )
    fitted = _to_mode(ImageOps.exif_transpose(image), mode)
    if fitted.size != (data.width, data.height):
        fitted = fitted.resize((data.width, data.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted, dtype=np.uint8).reshape(data.height, data.width, data.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the EXIF orientation turns the picture, without decoding it."""
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
    return (image.height, image.width) if sideways else (image.width, image.height)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and would turn most of such a picture white.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise InputError(f"the image has mode {image.mode} (32 bits a pixel); send 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image if image.mode == mode else image.convert(mode)
