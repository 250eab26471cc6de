"""Conversion of images of any size and mode to samples."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.config import ImageData
from model.errors import InputError
from model.images import fit_image

GREY = ImageData(height=6, width=4)
RGB = ImageData(height=6, width=4, channels=3)
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
SHADES = COLOURS[..., 0]


def through_file(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """As a decoder opens it, which is not always of the mode that it was saved from."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return through_file(image, exif=exif)


def test_an_image_of_the_right_size_and_mode_is_unchanged() -> None:
    assert np.array_equal(fit_image(Image.fromarray(SHADES), GREY, strict=True), SHADES[None])
    assert np.array_equal(fit_image(Image.fromarray(COLOURS), RGB, strict=True), COLOURS.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"])
@pytest.mark.parametrize("data", [GREY, RGB], ids=["grey", "rgb"])
def test_every_mode_of_8_or_16_bits_becomes_bytes_of_the_right_shape(mode: str, data: ImageData) -> None:
    image = Image.new("I;16", (9, 5)) if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)
    fitted = fit_image(image, data)
    assert fitted.dtype == np.uint8 and fitted.shape == data.shape
    assert fitted.flags.c_contiguous


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_a_mode_without_a_conversion_is_refused_by_its_name(mode: str) -> None:
    with pytest.raises(InputError, match=mode):
        fit_image(Image.new(mode, (4, 6)), RGB)


def test_transparent_pixels_are_composed_on_black() -> None:
    alpha = np.dstack([COLOURS, np.where(np.arange(4) < 2, 0, 255)[None].repeat(6, 0)]).astype(np.uint8)
    fitted = fit_image(Image.fromarray(alpha), RGB).transpose(1, 2, 0)
    assert (fitted[:, :2] == 0).all()
    assert np.array_equal(fitted[:, 2:], COLOURS[:, 2:])
    half = Image.new("LA", (4, 6), (200, 128))
    assert (np.abs(fit_image(half, GREY).astype(int) - 100) <= 1).all()


def test_a_colour_of_a_palette_that_is_declared_transparent_lies_on_black() -> None:
    image = Image.new("P", (4, 6), 1)
    image.putpalette([255, 255, 255, 10, 200, 30])
    assert fit_image(through_file(image), RGB)[:, 0, 0].tolist() == [10, 200, 30]
    assert fit_image(through_file(image, transparency=1), RGB)[:, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_bits(kind: str) -> None:
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(6, 4)
    image = through_file(Image.fromarray(values), kind)
    assert np.array_equal(fit_image(image, GREY)[0], values >> 8)


def test_rgb_is_converted_to_grey_by_luma() -> None:
    greys = [
        int(fit_image(Image.new("RGB", (4, 6), colour), GREY).max()) for colour in ("#ff0000", "#00ff00", "#0000ff")
    ]
    assert greys == [round(255 * share) for share in (0.299, 0.587, 0.114)]


def test_a_grey_picture_is_the_same_in_each_channel() -> None:
    assert np.array_equal(fit_image(Image.fromarray(SHADES), RGB), np.stack([SHADES] * 3))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(orientation: int, upright: Any) -> None:
    expected: NDArray[np.uint8] = upright(COLOURS)
    data = ImageData(height=expected.shape[0], width=expected.shape[1], channels=3)
    assert np.array_equal(fit_image(turned(Image.fromarray(COLOURS), orientation), data).transpose(1, 2, 0), expected)


def test_another_size_is_resized_with_antialiasing() -> None:
    checks = np.kron(np.indices((12, 8)).sum(0) % 2, np.ones((4, 4))).astype(np.uint8) * 255
    small = fit_image(Image.fromarray(checks), GREY)
    # Each new pixel covers as much black as white; picking pixels instead would give one or the other.
    assert (np.abs(small[0, 1:-1, 1:-1].astype(int) - 128) < 40).all()
    assert (fit_image(Image.new("L", (1, 1), 77), GREY) == 77).all()


@pytest.mark.parametrize(
    "image", [Image.new("L", (6, 4)), Image.new("RGB", (4, 6)), Image.new("1", (4, 6)), Image.new("LA", (4, 6))]
)
def test_strict_refuses_what_would_be_converted(image: Image.Image) -> None:
    with pytest.raises(InputError) as error:
        fit_image(image, GREY, strict=True)
    message = str(error.value)
    assert f"{image.height}x{image.width} of mode {image.mode}" in message
    assert "6x4 of mode L" in message and "strict=true" in message


def test_strict_judges_a_picture_as_it_stands_upright() -> None:
    lying = turned(Image.fromarray(COLOURS), 6)
    with pytest.raises(InputError, match="4x6"):
        fit_image(lying, RGB, strict=True)
    assert fit_image(lying, ImageData(height=4, width=6, channels=3), strict=True).shape == (3, 4, 6)


def test_strict_refuses_transparency_that_would_be_laid_on_black() -> None:
    with pytest.raises(InputError):
        fit_image(through_file(Image.fromarray(SHADES), transparency=int(SHADES[0, 0])), GREY, strict=True)


def test_a_truncated_image_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(file, "PNG")
    with pytest.raises(OSError, match="truncated"):
        fit_image(Image.open(io.BytesIO(file.getvalue()[:-1000])), GREY)
