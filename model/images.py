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
#: Pillow's modes of 8 bits and fewer a channel that it converts to grey and RGB.
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})


def fit_image(image: Image.Image, data: ImageData, *, strict: bool = False) -> NDArray[np.uint8]:
    """The bytes of an image, channels x height x width, converted as `CONVERSION` says.

    Args:
        image: an opened picture; it is decoded here.
        data: the size and mode to fit.
        strict: refuse a picture of another size or mode instead of converting it.

    Raises:
        InputError: it differs and `strict` is set, or its mode has no such conversion (floats, 32-bit integers, Lab).
    """
    mode = "L" if data.channels == 1 else "RGB"
    width, height = upright_size(image)
    fits = (width, height) == (data.width, data.height) and image.mode == mode and not image.has_transparency_data
    if strict and not fits:
        transparent = " with transparency" if image.has_transparency_data else ""
        raise InputError(
            f"the image is {height}x{width} of mode {image.mode}{transparent}; this model takes "
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
    if image.mode not in MODES:
        raise InputError(f"the image has mode {image.mode}, which has no conversion; save it as 8-bit grey or RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image if image.mode == mode else image.convert(mode)
