"""JSON bodies: accepted arrays, and error messages that name the place."""

import json as stdlib_json
from typing import Any

import numpy as np
import pytest

from app.codecs import json
from app.codecs.errors import CodecError, Invalid, Malformed, TooLarge
from app.codecs.json import decode_json
from app.codecs.spec import InputSpec, input_spec, latent_spec
from model.config import VectorData
from tests.support.codecs import GREY, RGB, TABLE

FOUR = input_spec(VectorData(columns=("a", "b", "c", "d"), mean=(0.0,) * 4, std=(1.0,) * 4), max_rows=8, max_pixels=1)
LATENT = latent_spec(3, max_rows=8)


def body(name: str, rows: Any) -> bytes:
    return stdlib_json.dumps({name: rows}).encode()


def test_rgb_images_have_channels_last_in_the_body_and_first_in_the_result() -> None:
    x = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    rows = decode_json(body("inputs", x.tolist()), RGB)
    assert rows.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(rows.transpose(0, 2, 3, 1), x, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 1)])
def test_grey_images_may_have_a_last_axis_of_one(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, np.float32)
    rows = decode_json(body("inputs", x.tolist()), GREY)
    assert rows.shape == (2, 1, 4, 5)
    np.testing.assert_array_equal(rows.ravel(), x.ravel())


def test_integers_of_vectors_are_not_rescaled() -> None:
    np.testing.assert_array_equal(decode_json(b'{"inputs": [[3, 5]]}', TABLE), [[3, 5]])


ERRORS: list[tuple[InputSpec, bytes, type[CodecError], str]] = [
    (TABLE, b"", Malformed, "not JSON"),
    (TABLE, b'\xef\xbb\xbf{"inputs": [[1, 5]]}', Malformed, "not JSON"),
    (TABLE, b'{"inputs": [[1, NaN]]}', Malformed, "not JSON"),
    (TABLE, b'{"inputs": [[1, 1e400]]}', Malformed, "infinity"),
    (TABLE, b"[" * 5000, Malformed, "depth"),
    (TABLE, b"[[1, 2]]", Invalid, "body: expected an object, got a list"),
    (TABLE, b"{}", Invalid, "body.inputs: missing"),
    (TABLE, b'{"inputs": [[1, 5]], "input": 1}', Invalid, "body.input: unknown key"),
    (TABLE, b'{"inputs": 1}', Invalid, "inputs: expected a list of rows, got a number"),
    (TABLE, b'{"inputs": []}', Invalid, "inputs: empty"),
    (TABLE, b'{"inputs": [1, 5]}', Invalid, "inputs[0]: expected a list of length 2, got a number"),
    (TABLE, b'{"inputs": [[1, 5], [1]]}', Invalid, "inputs[1]: expected a list of length 2, got length 1"),
    (TABLE, b'{"inputs": [[1, 5], [1, 5, 9]]}', Invalid, "inputs[1]: expected a list of length 2, got length 3"),
    (TABLE, b'{"inputs": [[1, [5]]]}', Invalid, "inputs[0][1]: expected a number, got a list"),
    (TABLE, b'{"inputs": [[1, "5"]]}', Invalid, "inputs[0][1]: expected a number, got a string"),
    (TABLE, b'{"inputs": [[1, true]]}', Invalid, "inputs[0][1]: expected a number, got a boolean"),
    (TABLE, b'{"inputs": [[1, null]]}', Invalid, "inputs[0][1]: expected a number, got null"),
    (TABLE, b'{"inputs": [[1, {}]]}', Invalid, "inputs[0][1]: expected a number, got an object"),
    (TABLE, b'{"inputs": ["abc"]}', Invalid, "inputs[0]: expected a list of length 2, got a string"),
    (TABLE, b'{"inputs": [[1e39, 5]]}', Invalid, "inputs[0][0]: 1e+39 is out of range"),
    (TABLE, b'{"inputs": [[1, 5], [1, 1e8]]}', Invalid, "inputs[1][1]: 1e+08 is out of range"),
    (
        TABLE,
        b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}",
        Invalid,
        "inputs[0]: expected a list of length 2, got length 1",
    ),
    (TABLE, body("inputs", [[1, 5]] * 9), TooLarge, "9 rows exceed the limit of 8"),
    (LATENT, b'{"inputs": [[1, 2, 3]]}', Invalid, "body.inputs: unknown key"),
    (LATENT, b'{"latents": [[1, 2, 1e7]]}', Invalid, "latents[0][2]"),
    (GREY, body("inputs", np.full((1, 4, 5), 1.01).tolist()), Invalid, "inputs[0][0][0]: 1.01 is out of range"),
    (
        GREY,
        body("inputs", np.zeros((1, 20)).tolist()),
        Invalid,
        "inputs[0]: expected a list of length 4, got length 20",
    ),
    (
        GREY,
        body("inputs", np.zeros((1, 4, 5, 3)).tolist()),
        Invalid,
        "inputs[0][0][0]: expected a list of length 1, got length 3",
    ),
]


@pytest.mark.parametrize(("spec", "bad", "kind", "message"), ERRORS, ids=[case[3] for case in ERRORS])
def test_errors_name_the_place(spec: InputSpec, bad: bytes, kind: type[CodecError], message: str) -> None:
    with pytest.raises(kind) as error:
        decode_json(bad, spec)
    assert message in error.value.detail


@pytest.mark.parametrize("row", ["1, 2, [], [3, 4]", "1, 2, 3, [4]", "1, 2, 3, {}", "1, [2], 3, 4", "[1, 2, 3, 4]"])
def test_a_list_in_place_of_a_number_is_rejected_even_if_the_count_of_numbers_is_right(row: str) -> None:
    with pytest.raises(Invalid, match=r"inputs\[1\]"):
        decode_json(f'{{"inputs": [[1, 2, 3, 4], [{row}]]}}'.encode(), FOUR)


@pytest.mark.parametrize("fast", [True, False], ids=["with simdjson", "without"])
def test_results_are_equal_with_and_without_simdjson(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(json, "simdjson", None)
    x = np.random.default_rng(0).random((3, 4, 5, 3))
    text = body("inputs", x.tolist())
    assert (json.parse_numbers(text, RGB) is not None) == fast
    np.testing.assert_array_equal(decode_json(text, RGB), x.transpose(0, 3, 1, 2).astype(np.float32))
    whole = b' {"inp\\u0075ts" : [[3, -18446744073709551615e-30],\n[0, 5E0]]} '
    np.testing.assert_array_equal(decode_json(whole, TABLE), np.array([[3, -18446744073709551615e-30], [0, 5]], "f4"))
    # Rounding to float32 brings the value into range, as for npy.
    np.testing.assert_array_equal(decode_json(body("inputs", np.full((1, 4, 5), 1 + 1e-9).tolist()), GREY), 1)


def test_a_long_string_is_rejected_before_numpy_allocates_an_array_of_strings() -> None:
    """numpy would allocate the length of the longest string for every item."""
    rows = [[1.0] * 4 for _ in range(8)]
    bad = body("inputs", [*rows[:7], ["x" * 1_000_000, 1, 1, 1]])
    with pytest.raises(Invalid, match=r"inputs\[7\]\[0\]: expected a number, got a string"):
        decode_json(bad, FOUR)
