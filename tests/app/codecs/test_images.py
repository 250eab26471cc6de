"""Decoding of images: formats, limits, damaged and hostile files; encoding to PNG."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.codecs import images
from app.codecs.errors import CodecError, Invalid, Malformed, TooLarge, UnsupportedMedia
from app.codecs.images import IMAGE_FORMATS, PixelBudget, decode_base64, decode_image, encode_png
from app.codecs.spec import input_spec, latent_spec
from app.settings import Settings
from model.config import ImageData
from tests.support.codecs import PICTURE, picture

STRICT = input_spec(ImageData(height=8, width=6), max_rows=8, max_pixels=10_000, strict=True)


@pytest.mark.parametrize(("media", "kind"), IMAGE_FORMATS.items())
def test_every_supported_format_is_decoded(media: str, kind: str) -> None:
    row = decode_image(picture(kind), media, PICTURE, PixelBudget(10_000))
    assert row.shape == (1, 1, 8, 6)
    np.testing.assert_allclose(row.ravel(), np.linspace(0, 1, 48), atol=0.05)


def test_images_of_another_size_and_mode_are_converted_unless_strict() -> None:
    other = picture(size=(20, 30), mode="RGB")
    assert decode_image(other, "image/png", PICTURE, PixelBudget(10_000)).shape == (1, 1, 8, 6)
    with pytest.raises(Invalid, match="8x6 of mode L"):
        decode_image(other, "image/png", STRICT, PixelBudget(10_000))
    assert decode_image(picture(), "image/png", STRICT, PixelBudget(10_000)).shape == (1, 1, 8, 6)


def test_an_image_of_another_format_than_its_content_type_is_rejected() -> None:
    with pytest.raises(Malformed, match="the content type is image/png, but the image is JPEG"):
        decode_image(picture("JPEG"), "image/png", PICTURE, PixelBudget(10_000))


@pytest.mark.parametrize("kind", sorted(set(IMAGE_FORMATS.values())))
def test_truncated_images_are_rejected(kind: str) -> None:
    whole = picture(kind, size=(60, 80))
    with pytest.raises(Malformed):
        decode_image(whole[: len(whole) // 2], "image/*", PICTURE, PixelBudget(10_000))


@pytest.mark.parametrize("bad", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.4", b"<svg/>", b"\0" * 100])
def test_bytes_that_are_not_an_image_are_rejected(bad: bytes) -> None:
    with pytest.raises(Malformed):
        decode_image(bad, "image/*", PICTURE, PixelBudget(10_000))


def test_unsupported_formats_are_not_opened() -> None:
    with pytest.raises(Malformed, match="not an image of a supported format"):
        decode_image(picture("ICO"), "image/*", PICTURE, PixelBudget(10_000))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("side", [101, 9_000, 60_000])
def test_a_decompression_bomb_is_rejected_by_its_header(side: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    with pytest.raises(TooLarge):
        decode_image(bomb, "image/png", PICTURE, PixelBudget(10_000))


def test_the_pixels_of_all_images_of_a_request_are_counted() -> None:
    text = base64.b64encode(picture(size=(60, 80))).decode()
    assert len(decode_base64([text] * 2, PICTURE)) == 2
    with pytest.raises(TooLarge, match=r"inputs\[2\]: with this image of 60 x 80"):
        decode_base64([text] * 3, PICTURE)


def test_memory_is_held_for_each_image_at_the_size_that_is_decoded() -> None:
    held: list[int] = []

    @contextmanager
    def hold(size: int) -> Iterator[None]:
        held.append(size)
        yield
        held.append(-size)

    large = input_spec(ImageData(height=10, width=10, channels=3), max_rows=8, max_pixels=1 << 22)
    decode_image(picture("JPEG", (800, 640), "RGB"), "image/jpeg", large, PixelBudget(1 << 22, hold))
    assert held == [100 * 80 * 5, -100 * 80 * 5]
    held.clear()
    text = base64.b64encode(picture("PNG", (800, 640), "RGB")).decode()
    decode_base64([text, text], large, hold)
    assert held == [800 * 640 * 5, -800 * 640 * 5] * 2


def test_what_refuses_the_memory_is_raised_as_it_is() -> None:
    def refuse(size: int) -> AbstractContextManager[None]:
        raise ConnectionError("no memory")

    with pytest.raises(ConnectionError):
        decode_image(picture(), "image/png", PICTURE, PixelBudget(10_000, refuse))


def test_memory_that_runs_out_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "fit_image", fail)
    with pytest.raises(MemoryError):
        decode_image(picture(), "image/png", PICTURE, PixelBudget(10_000))


def test_a_photo_of_a_phone_with_48_megapixels_is_within_the_default_limit() -> None:
    limit = Settings(model="").max_pixels
    photo = io.BytesIO()
    Image.new("L", (8000, 6000), 99).save(photo, "JPEG")
    row = decode_image(photo.getvalue(), "image/jpeg", PICTURE, PixelBudget(limit))
    np.testing.assert_allclose(row, 99 / 255, atol=0.01)


def test_animated_images_are_rejected() -> None:
    frames = [Image.new("L", (6, 8), shade) for shade in (0, 99)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(Invalid, match="2 frames"):
        decode_image(file.getvalue(), "image/gif", PICTURE, PixelBudget(10_000))


def two_frames(kind: str) -> bytes:
    frames = [Image.new("L", (12, 12), shade) for shade in (0, 200)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_images_raise_only_codec_errors(kind: str) -> None:
    whole = two_frames(kind)
    damaged = [whole[:end] for end in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :] for i in range(len(whole)) for flip in (1, 0xFF)]
    messages = []
    for body in damaged:
        try:
            assert decode_image(body, "image/*", PICTURE, PixelBudget(10_000)).shape == (1, 1, 8, 6)
        except CodecError as error:
            messages.append(error.detail)
    assert messages
    assert all(message.startswith("body: ") for message in messages)


def test_only_the_first_image_of_an_mpo_file_is_used() -> None:
    row = decode_image(two_frames("MPO"), "image/jpeg", PICTURE, PixelBudget(10_000))
    np.testing.assert_array_equal(row, np.zeros((1, 1, 8, 6)))


def test_an_image_with_a_side_that_is_too_long_is_rejected() -> None:
    body = picture(size=(1, (1 << 15) + 1))
    with pytest.raises(TooLarge, match="at most 32,768 a side"):
        decode_image(body, "image/png", PICTURE, PixelBudget(1 << 25))


def test_modes_that_cannot_be_converted_are_rejected() -> None:
    file = io.BytesIO()
    Image.new("F", (6, 8)).save(file, "TIFF")
    with pytest.raises(Invalid, match="mode F"):
        decode_image(file.getvalue(), "image/tiff", PICTURE, PixelBudget(10_000))


def test_an_image_for_a_call_that_takes_none_is_rejected() -> None:
    with pytest.raises(UnsupportedMedia):
        decode_image(picture(), "image/png", latent_spec(3, max_rows=1), PixelBudget(10_000))


def test_base64_is_decoded_with_and_without_the_prefix_of_a_data_url() -> None:
    text = base64.b64encode(picture()).decode()
    rows = decode_base64([text, f"data:image/png;base64,{text}"], PICTURE)
    assert rows.shape == (2, 1, 8, 6)
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("****", "not base64"),
        ("data:image/png,AAAA", "does not declare base64; write data:image/png;base64"),
        ("data:image/png;base64=,AAAA", "does not declare base64"),
        ("data:", "does not declare base64"),
        ("data:image/png;base64,%2", "not base64"),
        ("YWJj", "not an image"),
        (3, "expected a string"),
        ("é", "not base64"),
    ],
)
def test_errors_of_base64_name_the_row(bad: Any, message: str) -> None:
    with pytest.raises(Invalid) as error:
        decode_base64([base64.b64encode(picture()).decode(), bad], PICTURE)
    assert error.value.detail.startswith("inputs[1]: ")
    assert message in error.value.detail


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (9, (3, 3)), (10, (3, 4))])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_a_grid_filled_row_by_row(count: int, grid: tuple[int, int], channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 4, 5)).astype(np.float32) / np.float32(255)
    pixels = np.asarray(Image.open(io.BytesIO(encode_png(images)))).reshape(grid[0] * 4, grid[1] * 5, channels)
    for index, image in enumerate(images):
        row, column = divmod(index, grid[1])
        tile = pixels[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5].transpose(2, 0, 1)
        np.testing.assert_array_equal(tile, np.rint(image * 255))
