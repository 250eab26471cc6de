"""Numbers as JSON and npy: what is read, and that every refusal names the place."""

import io
import json
from typing import Any

import numpy as np
import pytest

from app.api.problems import Invalid, Malformed, Refusal, TooLarge
from app.codecs import numbers
from app.codecs.numbers import from_json, from_npy
from app.codecs.spec import Expect, expect_inputs, expect_latents
from model.config import ImageData, VectorData

GREY = expect_inputs(ImageData(height=4, width=5), max_rows=8, max_pixels=100)
RGB = expect_inputs(ImageData(height=4, width=5, channels=3), max_rows=8, max_pixels=100)
TABLE = expect_inputs(VectorData(columns=("a", "b"), mean=(0.0, 5.0), std=(1.0, 1e-3)), max_rows=8, max_pixels=1)
FOUR = VectorData(columns=("a", "b", "c", "d"), mean=(0.0,) * 4, std=(1.0,) * 4)
LATENT = expect_latents(3, max_rows=8)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def body(name: str, rows: Any) -> bytes:
    return json.dumps({name: rows}).encode()


def test_rgb_comes_with_channels_last_and_goes_with_channels_first() -> None:
    x = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    for read in (from_json(body("inputs", x.tolist()), RGB), from_npy(npy(x), RGB)):
        assert read.shape == (2, 3, 4, 5)
        np.testing.assert_allclose(read.transpose(0, 2, 3, 1), x, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 1)])
def test_grey_comes_with_or_without_a_last_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, np.float32)
    for read in (from_json(body("inputs", x.tolist()), GREY), from_npy(npy(x), GREY)):
        assert read.shape == (2, 1, 4, 5)
        np.testing.assert_array_equal(read.ravel(), x.ravel())


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i4", "<u8"])
def test_integers_of_images_are_bytes(dtype: str) -> None:
    x = np.arange(20).reshape(1, 4, 5) * 13
    np.testing.assert_allclose(from_npy(npy(x.astype(dtype)), GREY).ravel(), np.arange(20) * 13 / 255, rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8"])
def test_floats_of_any_size_byte_order_and_memory_order(dtype: str, order: Any) -> None:
    x = np.random.default_rng(0).random((3, 4, 5)).astype(dtype)
    np.testing.assert_allclose(from_npy(npy(np.asarray(x, order=order)), GREY)[:, 0], x.astype(np.float32))


def test_whole_numbers_of_vectors_are_in_their_own_units() -> None:
    np.testing.assert_array_equal(from_npy(npy(np.array([[3, 5]])), TABLE), [[3, 5]])
    np.testing.assert_array_equal(from_json(b'{"inputs": [[3, 5]]}', TABLE), [[3, 5]])


JSON_REFUSALS: list[tuple[Expect, bytes, type[Refusal], str]] = [
    (TABLE, b"", Malformed, "not JSON"),
    (TABLE, b'\xef\xbb\xbf{"inputs": [[1, 5]]}', Malformed, "not JSON"),
    (TABLE, b'{"inputs": [[1, NaN]]}', Malformed, "not JSON"),
    (TABLE, b'{"inputs": [[1, 1e400]]}', Malformed, "infinity"),
    (TABLE, b"[" * 5000, Malformed, "depth"),
    (TABLE, b"[[1, 2]]", Invalid, "not an object"),
    (TABLE, b"{}", Invalid, "body.inputs: is missing"),
    (TABLE, b'{"inputs": [[1, 5]], "input": 1}', Invalid, "body.input: is not known"),
    (TABLE, b'{"inputs": 1}', Invalid, "inputs: is not a list"),
    (TABLE, b'{"inputs": []}', Invalid, "inputs: is empty"),
    (TABLE, b'{"inputs": [1, 5]}', Invalid, "inputs[0]: is a number where a list"),
    (TABLE, b'{"inputs": [[1, 5], [1]]}', Invalid, "inputs[1]: has 1 entries instead of 2"),
    (TABLE, b'{"inputs": [[1, 5], [1, 5, 9]]}', Invalid, "inputs[1]: has 3 entries"),
    (TABLE, b'{"inputs": [[1, [5]]]}', Invalid, "inputs[0][1]: is a list where a number"),
    (TABLE, b'{"inputs": [[1, "5"]]}', Invalid, "inputs[0][1]: is a string"),
    (TABLE, b'{"inputs": [[1, true]]}', Invalid, "inputs[0][1]: is a boolean"),
    (TABLE, b'{"inputs": [[1, null]]}', Invalid, "inputs[0][1]: is null"),
    (TABLE, b'{"inputs": [[1, {}]]}', Invalid, "inputs[0][1]: is an object"),
    (TABLE, b'{"inputs": ["abc"]}', Invalid, "inputs[0]: is a string where a list of 2"),
    (TABLE, b'{"inputs": [[1e39, 5]]}', Invalid, "inputs[0][0]: is 1e+39"),
    (TABLE, b'{"inputs": [[1, 5], [1, 1e8]]}', Invalid, "inputs[1][1]: is 1e+08"),
    (TABLE, b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", Invalid, "inputs[0]: has 1 entries"),
    (TABLE, body("inputs", [[1, 5]] * 9), TooLarge, "9 rows are more than the 8"),
    (LATENT, b'{"inputs": [[1, 2, 3]]}', Invalid, "body.inputs: is not known"),
    (LATENT, b'{"latents": [[1, 2, 1e7]]}', Invalid, "latents[0][2]"),
    (GREY, body("inputs", np.full((1, 4, 5), 1.01).tolist()), Invalid, "inputs[0][0][0]: is 1.01"),
    (GREY, body("inputs", np.zeros((1, 20)).tolist()), Invalid, "inputs[0]: has 20 entries instead of 4"),
    (GREY, body("inputs", np.zeros((1, 4, 5, 3)).tolist()), Invalid, "inputs[0][0][0]: has 3 entries instead of 1"),
]


@pytest.mark.parametrize(("expect", "bad", "kind", "said"), JSON_REFUSALS, ids=[case[3] for case in JSON_REFUSALS])
def test_json_that_is_refused(expect: Expect, bad: bytes, kind: type[Refusal], said: str) -> None:
    with pytest.raises(kind) as refused:
        from_json(bad, expect)
    assert said in refused.value.detail


@pytest.mark.parametrize("row", ["1, 2, [], [3, 4]", "1, 2, 3, [4]", "1, 2, 3, {}", "1, [2], 3, 4", "[1, 2, 3, 4]"])
def test_lists_among_numbers_are_refused_though_they_hold_as_many_numbers(row: str) -> None:
    expect = expect_inputs(FOUR, max_rows=8, max_pixels=1)
    with pytest.raises(Invalid, match=r"inputs\[1\]"):
        from_json(f'{{"inputs": [[1, 2, 3, 4], [{row}]]}}'.encode(), expect)


@pytest.mark.parametrize("fast", [True, False], ids=["with simdjson", "without"])
def test_numbers_are_read_alike_with_and_without_simdjson(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(numbers, "simdjson", None)
    x = np.random.default_rng(0).random((3, 4, 5, 3))
    text = body("inputs", x.tolist())
    assert (numbers._plain(text, RGB) is not None) == fast
    np.testing.assert_array_equal(from_json(text, RGB), x.transpose(0, 3, 1, 2).astype(np.float32))
    whole = b' {"inp\\u0075ts" : [[3, -18446744073709551615e-30],\n[0, 5E0]]} '
    np.testing.assert_array_equal(from_json(whole, TABLE), np.array([[3, -18446744073709551615e-30], [0, 5]], "f4"))
    # Rounded to float32 it is inside, as it would be from npy.
    np.testing.assert_array_equal(from_json(body("inputs", np.full((1, 4, 5), 1 + 1e-9).tolist()), GREY), 1)


def test_a_long_string_among_numbers_is_found_before_numpy_makes_room_for_it() -> None:
    """numpy would give every number of the array as many bytes as the longest string."""
    rows = [[1.0] * 4 for _ in range(8)]
    bad = body("inputs", [*rows[:7], ["x" * 1_000_000, 1, 1, 1]])
    with pytest.raises(Invalid, match=r"inputs\[7\]\[0\]: is a string"):
        from_json(bad, expect_inputs(FOUR, max_rows=8, max_pixels=1))


def test_pickled_objects_are_never_read() -> None:
    with pytest.raises(Invalid, match="pickled"):
        from_npy(npy(np.array([[{}]], dtype=object)), TABLE)


@pytest.mark.parametrize("dtype", ["?", "c8", "U3", "M8[s]", [("a", "f4")]])
def test_other_types_of_npy_are_refused(dtype: Any) -> None:
    with pytest.raises((Invalid, Malformed)):
        from_npy(npy(np.zeros((1, 2), dtype)), TABLE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_of_npy_that_are_not_finite_name_their_place(value: float) -> None:
    x = np.zeros((3, 2))
    x[:, 1] = 5
    x[2, 1] = value
    with pytest.raises(Invalid, match=r"inputs\[2\]\[1\]"):
        from_npy(npy(x), TABLE)


def test_bytes_out_of_range_name_their_place() -> None:
    x = np.zeros((2, 4, 5), np.int64)
    x[1, 2, 3] = 256
    with pytest.raises(Invalid, match=r"inputs\[1\]\[2\]\[3\]: is 256"):
        from_npy(npy(x), GREY)


def test_a_header_that_claims_more_than_there_is_costs_no_memory() -> None:
    good = npy(np.zeros((8, 2)))
    lying = good.replace(b"(8, 2), }", b"(7, 2), }")
    for bad in (good[:-1], good + b"\0", lying):
        with pytest.raises(Malformed, match="announces"):
            from_npy(bad, TABLE)
    with pytest.raises(TooLarge):
        from_npy(npy(np.zeros((9, 2))), TABLE)
    huge = good.replace(b"(8, 2), }     ", b"(8000000, 2), }")
    with pytest.raises((TooLarge, Malformed)):
        from_npy(huge, TABLE)


@pytest.mark.parametrize(
    "bad", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", npy(np.zeros(3))[:40]]
)
def test_what_is_not_npy(bad: bytes) -> None:
    with pytest.raises(Malformed, match="not an npy file"):
        from_npy(bad, TABLE)


def test_a_shape_of_booleans_is_no_shape() -> None:
    body = npy(np.zeros((1, 2))).replace(b"(1, 2), }   ", b"(True, 2), }")
    with pytest.raises(Malformed, match="boolean"):
        from_npy(body, TABLE)


def test_shapes_that_do_not_fit() -> None:
    for shape in ((), (2,), (1, 3), (1, 2, 1)):
        with pytest.raises(Invalid, match="must be rows x 2"):
            from_npy(npy(np.zeros(shape)), TABLE)
