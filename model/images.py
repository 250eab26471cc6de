"""Conversion between pictures (PIL images of any size and mode) and samples (channels x height x width)."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from model.data import Array, ImageData
from model.errors import InputError

#: How a picture of another size or mode is converted; part of every image model's card.
CONVERSION = (
    "turned upright by its EXIF orientation, transparency laid on black, 16 bits per channel reduced to the upper 8 "
    "of 0 to 65535 (16-bit grey of depth=12 to the upper 8 of 0 to 4095), converted to the model's mode (grey by "
    "ITU-R 601 luma, or RGB), resized without keeping the aspect ratio by an antialiased bilinear filter; a JPEG of "
    "8 times the model's size or more is decoded at 1/2, 1/4 or 1/8 of its own"
)
#: Modes of at most 8 bits per channel that Pillow converts to grey and RGB.
MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
#: Modes without a conversion: nothing in such a file says which number is white.
UNSCALED = {"F": "floating-point numbers", "I": "32-bit or signed integers"}
#: Width and height of a JPEG that is decoded at a fraction of its size, in multiples of the model's.
OVERSAMPLING = 4
#: Bytes of memory for each pixel while a picture of a mode is decoded and converted, by mode; 8 for all others. Pillow
#: holds every colour in 4, and converts into another picture.
BYTES_PER_PIXEL = {"1": 2, "L": 2, "P": 5, "RGB": 5}
MAX_BYTES_PER_PIXEL = 8
#: Bytes for each pixel that a decoder takes beside the picture, by format.
DECODER_BYTES_PER_PIXEL = {"WEBP": 12}
#: Bits of a pixel in 16-bit modes, and the fewest of them that can be significant.
MAX_DEPTH, MIN_DEPTH = 16, 8


def fit_image(
    image: Image.Image, data: ImageData, *, strict: bool = False, depth: int = MAX_DEPTH
) -> NDArray[np.uint8]:
    """Convert a picture to the bytes of one sample, channels x height x width, as `CONVERSION` says.

    The picture is used up: it may be turned or reduced in place.

    Args:
        strict: refuse a picture of another size, mode or number of bits.
        depth: number of significant bits of 16-bit grey, from 8 to 16; 12 means that 4095 is white.

    Raises:
        InputError: size or mode differ and `strict` is set, the mode has no conversion (floats, Lab), a pixel exceeds
            `depth`, or `depth` is below 16 and the picture has 16 bits per channel but is not grey.
    """
    mode = "L" if data.channels == 1 else "RGB"
    raw_mode = _raw_mode(image)  # before the orientation is read, which decodes some PNG files
    _scale_transparent_colour(image, raw_mode)
    width, height = upright_size(image)
    transparent = image.has_transparency_data
    deep_colour = ";16" in raw_mode and not image.mode.startswith("I")
    fits = (width, height) == (data.width, data.height) and image.mode == mode and not (transparent or deep_colour)
    if strict and not fits:
        details = (" of 16 bits" if deep_colour else "") + (" with transparency" if transparent else "")
        raise InputError(
            f"the image is {height}x{width} of mode {image.mode}{details}; this model takes "
            f"{data.height}x{data.width} of mode {mode}: send that, or leave out strict=true to have it converted"
        )
    if image.mode not in MODES and not image.mode.startswith("I;16"):
        reason = f" ({UNSCALED[image.mode]}, of which none is known to be white)" if image.mode in UNSCALED else ""
        raise InputError(
            f"the image has mode {image.mode}{reason}, which has no conversion; save it as grey of 8 or 16 bits, or RGB"
        )
    if deep_colour and depth < MAX_DEPTH:
        raise InputError(
            f"depth={depth} is for 16-bit grey, but the image has 16 bits of {image.mode}; leave out depth"
        )
    if (scale := _decoding_scale(image, data)) > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image, min(depth, 12) if raw_mode == "I;12" else depth)
    pixels = np.asarray(_resize(image, data, mode), dtype=np.uint8).reshape(data.height, data.width, data.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_pil(sample: Array) -> Image.Image:
    """Convert one sample, channels x height x width of bytes or of floats in [0, 1], to a grey or RGB picture."""
    pixels = sample if sample.dtype == np.uint8 else np.rint(sample.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied. A PNG without one in its head is decoded for it."""
    return (image.height, image.width) if _lies(image) else (image.width, image.height)


def decoding_bytes(image: Image.Image, data: ImageData) -> int:
    """Bytes of memory that decoding and converting a picture takes, about: the measured peaks of each mode."""
    scale = _decoding_scale(image, data)
    transparent = image.has_transparency_data
    per_pixel = MAX_BYTES_PER_PIXEL if transparent else BYTES_PER_PIXEL.get(image.mode, MAX_BYTES_PER_PIXEL)
    per_pixel += DECODER_BYTES_PER_PIXEL.get(image.format or "", 0)
    coefficients = image.width * image.height * _coefficient_bytes_per_pixel(image)
    return math.ceil(image.width * image.height * per_pixel / scale**2 + coefficients)


def _decoding_scale(image: Image.Image, data: ImageData) -> int:
    """1, 2, 4 or 8: the part of its width and height at which a JPEG is decoded, `OVERSAMPLING` the model's at least.

    On photographs the result differs from that of the whole picture by at most 5 of 255, and by 0.5 in the mean.
    """
    if not isinstance(image, JpegImageFile):
        return 1
    width, height = upright_size(image)
    ratio = min(width / data.width, height / data.height) / OVERSAMPLING
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _coefficient_bytes_per_pixel(image: Image.Image) -> float:
    """Bytes per pixel that libjpeg keeps of a progressive JPEG, whatever size it decodes to: 2 for each sample."""
    if not isinstance(image, JpegImageFile) or "progressive" not in image.info:
        return 0.0
    samples = [horizontal * vertical for _, horizontal, vertical, _ in image.layer]
    return 2 * sum(samples) / max(1, *samples)


def _lies(image: Image.Image) -> bool:
    """True if the EXIF orientation turns the picture by a quarter."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of how the file holds pixels, such as `L;4`; empty for a picture that is decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _scale_transparent_colour(image: Image.Image, raw_mode: str) -> None:
    """Bring the transparent colour of a PNG from the bits of the file to those of Pillow's mode, which leaves it."""
    colour = image.info.get("transparency")
    if raw_mode in {"L;2", "L;4"} and isinstance(colour, int):
        highest = (1 << int(raw_mode[2:])) - 1
        image.info["transparency"] = (colour & highest) * 255 // highest
    elif raw_mode == "RGB;16B" and isinstance(image, PngImageFile) and isinstance(colour, tuple):
        _make_transparent(image, colour)


def _make_transparent(image: PngImageFile, colour: tuple[int, ...]) -> None:
    """Give 16-bit RGB an alpha channel for its transparent colour. Pillow decodes the upper bytes; both have to match.

    The lower bytes are what Pillow takes for the upper ones if it reads the pixels in the other byte order.
    """
    assert image.fp is not None, "the picture is not decoded yet"
    position = image.fp.tell()
    image.fp.seek(0)
    swapped = PngImageFile(io.BytesIO(image.fp.read()))
    image.fp.seek(position)
    swapped.tile = [tile._replace(args="RGB;16L") for tile in swapped.tile]
    upper, lower = (np.array(colour, np.uint16) >> 8, np.array(colour, np.uint16) & 255)
    matches = (np.asarray(image) == upper).all(axis=2) & (np.asarray(swapped) == lower).all(axis=2)
    del image.info["transparency"]
    image.putalpha(Image.fromarray(np.where(matches, 0, 255).astype(np.uint8)))


def _to_8_bits(image: Image.Image, depth: int) -> Image.Image:
    """Reduce 16-bit grey to the upper 8 of its significant bits. Pillow would clip at 255: most would turn white."""
    values = np.asarray(image).astype(np.uint16, copy=False)
    if (highest := int(values.max(initial=0))) >> depth:
        raise InputError(
            f"a pixel of the image is {highest}, but depth={depth} allows at most {(1 << depth) - 1}; "
            f"send depth={highest.bit_length()}, or leave it out if white is 65535"
        )
    if getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        values = ((1 << depth) - 1) - values  # white is zero, which Pillow heeds up to 8 bits only
    pixels = (values >> (depth - 8)).astype(np.uint8)
    if (colour := image.info.get("transparency")) is not None:
        pixels[np.asarray(image) == colour] = 0
    return Image.fromarray(pixels)


def _resize(image: Image.Image, data: ImageData, mode: str) -> Image.Image:
    """Lay transparency on black, and convert to size and mode, in few copies of a picture that may be large."""
    if image.has_transparency_data:
        # Premultiplied by alpha, a colour is what it looks like on black.
        if image.mode not in {"LA", "La", "RGBA", "RGBa"}:
            image = image.convert("RGBA")
        image = image.convert("La" if image.mode in {"LA", "La"} else "RGBa")
    elif image.mode not in {mode, "L"}:
        image = image.convert(mode)
    if image.size != (data.width, data.height):
        image = image.resize((data.width, data.height), Image.Resampling.BILINEAR)
    if image.mode in {"La", "RGBa"}:
        bands = np.asarray(image)
        image = Image.fromarray(np.ascontiguousarray(bands[..., 0] if image.mode == "La" else bands[..., :3]))
    return image if image.mode == mode else image.convert(mode)
