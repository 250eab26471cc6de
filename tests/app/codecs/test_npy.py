"""npy bodies: accepted types and layouts, and error messages that name the place."""

import io
from typing import Any

import numpy as np
import pytest

from app.codecs.errors import Invalid, Malformed, TooLarge
from app.codecs.npy import decode_npy
from tests.support.codecs import GREY, RGB, TABLE


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_rgb_images_have_channels_last_in_the_body_and_first_in_the_result() -> None:
    x = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    rows = decode_npy(npy(x), RGB)
    assert rows.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(rows.transpose(0, 2, 3, 1), x)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 1)])
def test_grey_images_may_have_a_last_axis_of_one(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, np.float32)
    rows = decode_npy(npy(x), GREY)
    assert rows.shape == (2, 1, 4, 5)
    np.testing.assert_array_equal(rows.ravel(), x.ravel())


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i4", "<u8"])
def test_integers_of_images_are_bytes(dtype: str) -> None:
    x = np.arange(20).reshape(1, 4, 5) * 13
    np.testing.assert_allclose(decode_npy(npy(x.astype(dtype)), GREY).ravel(), np.arange(20) * 13 / 255, rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8"])
def test_floats_of_any_size_byte_order_and_memory_order_are_accepted(dtype: str, order: Any) -> None:
    x = np.random.default_rng(0).random((3, 4, 5)).astype(dtype)
    np.testing.assert_allclose(decode_npy(npy(np.asarray(x, order=order)), GREY)[:, 0], x.astype(np.float32))


def test_integers_of_vectors_are_not_rescaled() -> None:
    np.testing.assert_array_equal(decode_npy(npy(np.array([[3, 5]])), TABLE), [[3, 5]])


def test_pickled_objects_are_never_read() -> None:
    with pytest.raises(Invalid, match="pickled"):
        decode_npy(npy(np.array([[{}]], dtype=object)), TABLE)


@pytest.mark.parametrize("dtype", ["?", "c8", "U3", "M8[s]", [("a", "f4")]])
def test_other_types_are_rejected(dtype: Any) -> None:
    with pytest.raises((Invalid, Malformed)):
        decode_npy(npy(np.zeros((1, 2), dtype)), TABLE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_errors_name_the_place_of_a_value_that_is_not_finite(value: float) -> None:
    x = np.zeros((3, 2))
    x[:, 1] = 5
    x[2, 1] = value
    with pytest.raises(Invalid, match=r"inputs\[2\]\[1\]"):
        decode_npy(npy(x), TABLE)


def test_errors_name_the_place_of_a_byte_out_of_range() -> None:
    x = np.zeros((2, 4, 5), np.int64)
    x[1, 2, 3] = 256
    with pytest.raises(Invalid, match=r"inputs\[1\]\[2\]\[3\]: 256 is out of range"):
        decode_npy(npy(x), GREY)


def test_the_length_of_the_body_is_checked_against_the_header_before_allocation() -> None:
    good = npy(np.zeros((8, 2)))
    wrong = good.replace(b"(8, 2), }", b"(7, 2), }")
    for bad in (good[:-1], good + b"\0", wrong):
        with pytest.raises(Malformed, match="announces"):
            decode_npy(bad, TABLE)
    with pytest.raises(TooLarge):
        decode_npy(npy(np.zeros((9, 2))), TABLE)
    huge = good.replace(b"(8, 2), }     ", b"(8000000, 2), }")
    with pytest.raises((TooLarge, Malformed)):
        decode_npy(huge, TABLE)


@pytest.mark.parametrize(
    "bad", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", npy(np.zeros(3))[:40]]
)
def test_bytes_that_are_not_npy_are_rejected(bad: bytes) -> None:
    with pytest.raises(Malformed, match="not an npy file"):
        decode_npy(bad, TABLE)


def test_a_shape_of_booleans_is_rejected() -> None:
    body = npy(np.zeros((1, 2))).replace(b"(1, 2), }   ", b"(True, 2), }")
    with pytest.raises(Malformed, match="not an npy file"):
        decode_npy(body, TABLE)


def test_wrong_shapes_are_rejected() -> None:
    for shape in ((), (2,), (1, 3), (1, 2, 1)):
        with pytest.raises(Invalid, match="expected rows x 2"):
            decode_npy(npy(np.zeros(shape)), TABLE)
