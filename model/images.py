"""Conversion between pictures (PIL images of any size and mode) and samples (channels x height x width)."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from model.data import Array, ImageData
from model.errors import InputError

#: How a picture of another size or mode is converted; part of every image model's card.
CONVERSION = (
    "turned upright by its EXIF orientation, transparency laid on black, converted to the model's mode "
    "(grey by ITU-R 601 luma, or RGB), 16-bit grey reduced to its upper 8 bits, resized without keeping "
    "the aspect ratio by an antialiased bilinear filter"
)
#: Modes of at most 8 bits per channel that Pillow converts to grey and RGB.
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})


def fit_image(image: Image.Image, data: ImageData, *, strict: bool = False) -> NDArray[np.uint8]:
    """Convert a picture to the bytes of one sample, channels x height x width, as `CONVERSION` says.

    Raises:
        InputError: size or mode differ and `strict` is set, or the mode has no conversion (floats, Lab).
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


def to_pil(sample: Array) -> Image.Image:
    """Convert one sample, channels x height x width of bytes or of floats in [0, 1], to a grey or RGB picture."""
    pixels = sample if sample.dtype == np.uint8 else np.rint(sample.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied, read without decoding the picture."""
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
    return (image.height, image.width) if sideways else (image.width, image.height)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which would turn most of the picture white.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode not in MODES:
        raise InputError(f"the image has mode {image.mode}, which has no conversion; save it as 8-bit grey or RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image if image.mode == mode else image.convert(mode)
