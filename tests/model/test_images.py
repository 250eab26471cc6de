"""Conversion of images of any size and mode to samples."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.config import ImageData
from model.errors import InputError
from model.images import decoding_bytes, fit_image

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


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16B", "I;16L"])
@pytest.mark.parametrize("data", [GREY, RGB], ids=["grey", "rgb"])
def test_every_mode_of_8_or_16_bits_becomes_bytes_of_the_right_shape(mode: str, data: ImageData) -> None:
    fitted = fit_image(Image.new(mode, (9, 5)), data)
    assert fitted.dtype == np.uint8 and fitted.shape == data.shape
    assert fitted.flags.c_contiguous


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in {"RGBa", "La"}])
@pytest.mark.parametrize("data", [GREY, RGB], ids=["grey", "rgb"])
def test_opaque_pictures_become_what_pillow_converts_them_to(mode: str, data: ImageData) -> None:
    image = Image.fromarray(COLOURS).convert("L" if mode in {"LA", "PA"} else "RGB").convert(mode)
    expected = np.asarray(image.convert("RGB").convert("L" if data is GREY else "RGB")).reshape(6, 4, -1)
    close = 1 if mode == "YCbCr" else 0  # its own conversion to grey takes the luma as it is
    assert np.abs(fit_image(image, data).transpose(1, 2, 0).astype(int) - expected).max() <= close


@pytest.mark.parametrize(
    ("mode", "reason"), [("F", "floating-point"), ("I", "32-bit or signed integers"), ("LAB", "no conversion")]
)
def test_a_mode_without_a_conversion_is_refused_by_its_name(mode: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"mode {mode}.*{reason}"):
        fit_image(Image.new(mode, (4, 6)), RGB)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_row(depth: int, kind: int, row: bytes, width: int, transparency: bytes, palette: bytes = b"") -> Image.Image:
    """A PNG of one row, repeated 4 times, in a bit depth and colour type that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 4, depth, kind, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *([chunk(b"PLTE", palette)] if palette else []), chunk(b"tRNS", transparency)]
    data = zlib.compress(4 * (b"\0" + row))
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")))


GREYS = {  # bit depth -> a row of 4 pixels, the shades of which the card speaks
    1: (b"\x50", [0, 255, 0, 255]),
    2: (b"\x1b", [0, 85, 170, 255]),
    4: (b"\x03\xcf", [0, 51, 204, 255]),
    8: (bytes([0, 51, 204, 255]), [0, 51, 204, 255]),
    16: (struct.pack(">4H", 0, 0x3300, 0xCC01, 0xFFFF), [0, 0x33, 0xCC, 0xFF]),
}


@pytest.mark.parametrize("depth", GREYS)
@pytest.mark.parametrize("pixel", range(4))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_grey_of_a_png_lies_on_black_at_every_bit_depth(depth: int, pixel: int, channels: int) -> None:
    row, shades = GREYS[depth]
    numbers = {
        1: [0, 1, 0, 1],
        2: [0, 1, 2, 3],
        4: [0, 3, 12, 15],
        8: [0, 51, 204, 255],
        16: [0, 0x3300, 0xCC01, 0xFFFF],
    }[depth]
    expected = [0 if number == numbers[pixel] else shade for number, shade in zip(numbers, shades, strict=True)]
    image = png_row(depth, 0, row, 4, struct.pack(">H", numbers[pixel]))
    fitted = fit_image(image, ImageData(height=4, width=4, channels=channels))
    assert fitted.tolist() == [[expected] * 4] * channels


def test_a_grey_near_the_transparent_one_is_kept() -> None:
    image = png_row(16, 0, struct.pack(">4H", 0xFFFE, 0xFFFF, 0xFFFF, 0xFF00), 4, struct.pack(">H", 0xFFFF))
    assert fit_image(image, ImageData(height=4, width=4))[0, 0].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_lies_on_black_at_both_bit_depths(depth: int) -> None:
    colours = np.array([[10, 200, 30], [10, 200, 31], [255, 255, 255], [0, 0, 0]]) * (257 if depth == 16 else 1)
    if depth == 16:
        colours[1] = colours[0] + [0, 0, 1]  # equal in its upper bytes
    row = colours.astype(">u2" if depth == 16 else "u1").tobytes()
    image = png_row(depth, 2, row, 4, struct.pack(">3H", *colours[0]))
    fitted = fit_image(image, ImageData(height=4, width=4, channels=3)).transpose(1, 2, 0)
    upper = colours >> 8 if depth == 16 else colours
    assert fitted[0].tolist() == [[0, 0, 0], *upper[1:].tolist()]


@pytest.mark.parametrize(("depth", "row"), [(1, b"\x50"), (2, b"\x11"), (4, b"\x01\x01"), (8, b"\0\1\0\1")])
def test_the_alpha_of_a_palette_lies_on_black_at_every_bit_depth(depth: int, row: bytes) -> None:
    image = png_row(depth, 3, row, 4, bytes([0, 128]), bytes([255, 255, 255, 200, 100, 50]))
    fitted = fit_image(image, ImageData(height=4, width=4, channels=3)).transpose(1, 2, 0)
    assert np.abs(fitted[0].astype(int) - [[0, 0, 0], [100, 50, 25]] * 2).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
@pytest.mark.parametrize("data", [GREY, RGB], ids=["grey", "rgb"])
def test_every_mode_with_alpha_lies_on_black(mode: str, data: ImageData) -> None:
    image = Image.new("LA", (4, 6), (200, 128))
    if mode == "PA":
        image = Image.new("L", (4, 6), 200).convert("PA")
        image.putalpha(Image.new("L", (4, 6), 128))
    elif mode != "LA":
        image = image.convert("La" if mode == "La" else "RGBA").convert(mode)
    assert (np.abs(fit_image(image, data).astype(int) - 100) <= 1).all()


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


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("depth", range(8, 17))
def test_16_bit_grey_is_reduced_to_the_upper_8_of_its_significant_bits(mode: str, depth: int) -> None:
    values = np.linspace(0, (1 << depth) - 1, 24).astype(np.uint16).reshape(6, 4)
    image = Image.frombytes(mode, (4, 6), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    file = through_file(image, "TIFF")
    assert file.mode == mode
    for given in (file, image):
        assert np.array_equal(fit_image(given, GREY, depth=depth)[0], values >> (depth - 8))


def test_a_pixel_that_exceeds_the_depth_is_refused_with_the_depth_it_needs() -> None:
    image = Image.fromarray(np.full((6, 4), 5000, np.uint16))
    with pytest.raises(InputError, match=r"is 5000, but depth=12 allows at most 4095; send depth=13"):
        fit_image(image, GREY, depth=12)
    assert (fit_image(image, GREY, depth=13) == 5000 >> 5).all()


def test_the_depth_of_pictures_of_8_bits_changes_nothing() -> None:
    assert np.array_equal(fit_image(Image.fromarray(SHADES), GREY, depth=12)[0], SHADES)


def tiff(bits: int, photometric: int, samples: int, pixels: bytes) -> Image.Image:
    """An uncompressed little-endian TIFF of 4 x 6, such as Pillow does not write."""
    tags = [(256, 4), (257, 6), (258, bits), (259, 1), (262, photometric), (273, 200), (277, samples), (278, 6)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(pixels))]]
    if samples == 3:
        entries[2] = struct.pack("<HHII", 258, 3, 3, 190)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    head = head.ljust(190, b"\0") + struct.pack("<3H", *[bits] * 3)
    return Image.open(io.BytesIO(head.ljust(200, b"\0") + pixels))


def test_a_tiff_of_12_bits_is_reduced_to_the_upper_8_of_them() -> None:
    values = np.linspace(0, 4095, 24).astype(np.uint16)
    pairs = values.reshape(-1, 2).astype(int)
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    for depth in (12, 16):
        assert np.array_equal(fit_image(tiff(12, 1, 1, packed), GREY, depth=depth).ravel(), values >> 4)


def test_a_16_bit_tiff_whose_white_is_zero_is_inverted_as_one_of_8_bits_is() -> None:
    values = np.linspace(0, 4095, 24).astype("<u2")
    eight = fit_image(tiff(8, 0, 1, (values >> 4).astype(np.uint8).tobytes()), GREY)
    assert np.array_equal(eight.ravel(), 255 - (values >> 4))
    assert np.array_equal(fit_image(tiff(16, 0, 1, values.tobytes()), GREY, depth=12), eight)
    assert np.array_equal(fit_image(tiff(16, 0, 1, (values * 16).tobytes()), GREY).ravel(), 255 - (values >> 4))


def test_16_bit_colour_is_no_grey_of_fewer_bits_nor_strictly_8_bits() -> None:
    values = np.full(72, 0x1234, "<u2").tobytes()
    assert (fit_image(tiff(16, 2, 3, values), RGB) == 0x12).all()
    with pytest.raises(InputError, match="depth=12 is for 16-bit grey"):
        fit_image(tiff(16, 2, 3, values), RGB, depth=12)
    with pytest.raises(InputError, match="of mode RGB of 16 bits"):
        fit_image(tiff(16, 2, 3, values), RGB, strict=True)
    with pytest.raises(InputError, match="of mode I;16"):
        fit_image(Image.new("I;16", (4, 6)), GREY, strict=True)


def photograph(width: int, height: int, **options: Any) -> Image.Image:
    """A JPEG with smooth areas, edges, saturated colours and noise."""
    generator = np.random.default_rng(1)
    blobs = Image.fromarray(generator.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    y, x = np.mgrid[:height, :width]
    edges = (x // 37 + y // 53) % 7 == 0
    pixels[edges] = 255 - pixels[edges]
    pixels += generator.normal(0, 8, pixels.shape).astype(np.int16)
    return through_file(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=90, **options)


@pytest.mark.parametrize("side", [16, 25, 50, 64, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_decoded_at_a_fraction_of_its_size_looks_the_same(side: int, channels: int) -> None:
    data = ImageData(height=side, width=side, channels=channels)
    whole = photograph(1200, 800)
    whole.load()
    reduced = photograph(1200, 800)
    difference = fit_image(reduced, data).astype(int) - fit_image(whole, data)
    assert whole.size == (1200, 800) and reduced.width < 1200
    assert min(reduced.size) >= 4 * side
    assert np.abs(difference).max() <= (3 if channels == 1 else 5)
    assert np.abs(difference).mean() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_decoded_at_a_fraction_of_its_size_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = ImageData(height=20, width=75, channels=3)
    whole = photograph(1200, 800, exif=exif)
    whole.load()
    reduced = photograph(1200, 800, exif=exif)
    fitted = fit_image(reduced, data)
    assert np.abs(fitted.astype(int) - fit_image(whole, data)).max() <= 5
    assert reduced.width * reduced.height < 1200 * 800


@pytest.mark.parametrize(
    ("side", "size"), [(101, 800), (100, 400), (51, 400), (50, 200), (26, 200), (25, 100), (4, 100)]
)
def test_a_jpeg_is_decoded_at_4_times_the_size_of_the_model_at_least(side: int, size: int) -> None:
    picture = photograph(1200, 800)
    before = decoding_bytes(picture, ImageData(height=side, width=side, channels=3))
    fit_image(picture, ImageData(height=side, width=side, channels=3))
    assert picture.height == size
    assert before == picture.width * picture.height * 5


def test_a_strict_refusal_of_a_large_jpeg_names_its_own_size() -> None:
    with pytest.raises(InputError, match="the image is 800x1200"):
        fit_image(photograph(1200, 800), GREY, strict=True)


@pytest.mark.parametrize(("subsampling", "bytes_per_pixel"), [(0, 6), (1, 4), (2, 3)])
def test_a_progressive_jpeg_keeps_its_coefficients(subsampling: int, bytes_per_pixel: int) -> None:
    data, options = ImageData(height=25, width=25), {"subsampling": subsampling}
    plain = decoding_bytes(photograph(1200, 800, **options), data)
    progressive = decoding_bytes(photograph(1200, 800, progressive=True, **options), data)
    assert progressive - plain == 1200 * 800 * bytes_per_pixel


@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel"), [("L", 2), ("P", 5), ("RGB", 5), ("RGBA", 8), ("LA", 8), ("I;16", 8), ("1", 2)]
)
def test_decoding_takes_at_least_what_pillow_stores(mode: str, bytes_per_pixel: int) -> None:
    assert decoding_bytes(Image.new(mode, (30, 20)), GREY) == 600 * bytes_per_pixel
    transparent = through_file(Image.fromarray(SHADES), transparency=3)
    assert decoding_bytes(transparent, GREY) == 24 * 8
    assert decoding_bytes(through_file(Image.fromarray(SHADES), "WEBP"), GREY) == 24 * 17


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
