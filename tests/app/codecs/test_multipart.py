"""multipart/form-data bodies, and the choice of a decoder by content type."""

import numpy as np
import pytest

from app.codecs.decode import decode
from app.codecs.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from app.codecs.images import IMAGE_ALIASES, IMAGE_FORMATS
from app.codecs.multipart import decode_multipart
from tests.support.codecs import PICTURE, picture

TYPE = "multipart/form-data; boundary=xyz"


def part(content: bytes, name: str = "inputs", media: str = "image/png") -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\nContent-Type: {media}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def test_each_part_is_a_row_in_order() -> None:
    body = part(picture()) + part(picture("JPEG"), media="image/jpeg") + part(picture("BMP"), media="application/x")
    rows = decode_multipart(body + b"--xyz--\r\n", TYPE, PICTURE)
    assert rows.shape == (3, 1, 8, 6)
    np.testing.assert_array_equal(rows[0], rows[2])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (part(picture()), "ends before its last boundary"),
        (b"", "ends before its last boundary"),
        (b"nonsense", "multipart"),
        (part(b"no image") + b"--xyz--\r\n", "part[0]: not an image"),
        (part(picture("JPEG")) + b"--xyz--\r\n", "part[0]: the content type is image/png"),
    ],
)
def test_malformed_bodies_are_rejected(body: bytes, message: str) -> None:
    with pytest.raises(Malformed) as error:
        decode_multipart(body, TYPE, PICTURE)
    assert message in error.value.detail


@pytest.mark.parametrize("media", ["image/jpg", "image/pjpeg", "IMAGE/JPG; name=a.jpg"])
def test_other_names_of_a_media_type_are_accepted(media: str) -> None:
    content = picture("JPEG")
    single = decode(content, media, PICTURE)
    np.testing.assert_array_equal(single, decode(content, "image/jpeg", PICTURE))
    np.testing.assert_array_equal(single, decode_multipart(part(content, media=media) + b"--xyz--\r\n", TYPE, PICTURE))
    for wrong in (picture("PNG"), picture("GIF")):
        with pytest.raises(Malformed, match="the content type is image/jpeg, but the image is"):
            decode(wrong, media, PICTURE)
        with pytest.raises(Malformed, match="the content type is image/jpeg, but the image is"):
            decode_multipart(part(wrong, media=media) + b"--xyz--\r\n", TYPE, PICTURE)


@pytest.mark.parametrize(("alias", "media"), IMAGE_ALIASES.items())
def test_every_alias_names_a_supported_format(alias: str, media: str) -> None:
    assert decode(picture(IMAGE_FORMATS[media]), alias, PICTURE).shape == (1, 1, 8, 6)


@pytest.mark.parametrize("media", ["application/octet-stream", "image/*", "image/heic", "image/svg+xml"])
def test_types_that_name_no_supported_format_are_rejected(media: str) -> None:
    with pytest.raises(UnsupportedMedia, match="image/png, image/jpeg"):
        decode(picture(), media, PICTURE)


def test_parts_of_other_names_are_rejected() -> None:
    with pytest.raises(Invalid, match=r"part\[1\]: unknown name 'file'"):
        decode_multipart(part(picture()) + part(picture(), name="file") + b"--xyz--\r\n", TYPE, PICTURE)


def test_a_body_without_parts_or_with_too_many_is_rejected() -> None:
    with pytest.raises((Invalid, Malformed)):
        decode_multipart(b"--xyz--\r\n", TYPE, PICTURE)
    with pytest.raises(TooLarge, match="more than 8 parts"):
        decode_multipart(part(b"") * 9 + b"--xyz--\r\n", TYPE, PICTURE)


def test_a_content_type_without_boundary_is_rejected() -> None:
    with pytest.raises(Malformed, match="boundary"):
        decode_multipart(part(picture()), "multipart/form-data", PICTURE)


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded", "image/svg+xml", "json"])
def test_unsupported_content_types_are_rejected_with_the_supported_ones(media: str) -> None:
    with pytest.raises(UnsupportedMedia, match="application/json, application/x-npy"):
        decode(b"{}", media, PICTURE)


def test_parameters_of_a_content_type_are_ignored() -> None:
    with pytest.raises(Invalid, match="missing"):
        decode(b"{}", "Application/JSON; charset=utf-8", PICTURE)
