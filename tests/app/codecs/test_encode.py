"""Encoding of arrays, plain values and groups of arrays as JSON, npz and png."""

import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.codecs.encode import Fields, encode

FIELDS: Fields = {
    "samples": 4,
    "reason": "because",
    "free_energy": np.array([1.5, -2.25]),
    "typicality": None,
    "p_values": {"free_energy": np.array([0.25, 1.0]), "regret": np.array([0.5, 0.125])},
}


def test_json_writes_groups_as_objects_and_none_as_null() -> None:
    body, media = encode("json", FIELDS)
    assert media == "application/json"
    assert json.loads(body) == {
        "samples": 4,
        "reason": "because",
        "free_energy": [1.5, -2.25],
        "typicality": None,
        "p_values": {"free_energy": [0.25, 1.0], "regret": [0.5, 0.125]},
    }


def test_npz_joins_names_of_groups_and_arrays_and_leaves_none_out() -> None:
    body, media = encode("npz", FIELDS)
    assert media == "application/x-npz"
    arrays = np.load(io.BytesIO(body), allow_pickle=False)
    assert set(arrays) == {"samples", "reason", "free_energy", "p_values.free_energy", "p_values.regret"}
    assert arrays["samples"] == 4
    assert arrays["reason"] == "because"
    np.testing.assert_array_equal(arrays["free_energy"], [1.5, -2.25])
    np.testing.assert_array_equal(arrays["p_values.free_energy"], [0.25, 1.0])
    np.testing.assert_array_equal(arrays["p_values.regret"], [0.5, 0.125])


@pytest.mark.parametrize("name", ["json", "npz"])
def test_arrays_that_are_not_contiguous_are_encoded(name: str) -> None:
    strided: NDArray[np.float64] = np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1)
    body, _ = encode(name, dict[str, Any](outer=strided, group={"inner": strided[:, ::2]}))
    if name == "json":
        document: dict[str, Any] = json.loads(body)
        outer, inner = document["outer"], document["group"]["inner"]
    else:
        arrays = np.load(io.BytesIO(body), allow_pickle=False)
        outer, inner = arrays["outer"], arrays["group.inner"]
    np.testing.assert_array_equal(outer, strided)
    np.testing.assert_array_equal(inner, strided[:, ::2])


def test_an_empty_group_is_an_empty_object_and_no_array() -> None:
    assert json.loads(encode("json", {"p_values": {}})[0]) == {"p_values": {}}
    assert not np.load(io.BytesIO(encode("npz", {"p_values": {}})[0])).files


def test_png_holds_only_the_pictures() -> None:
    body, media = encode("png", FIELDS, np.ones((1, 1, 5, 7), np.float32))
    assert media == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(body)))
    assert picture.shape == (5, 7)
    assert (picture == 255).all()


def test_an_unsupported_type_is_rejected() -> None:
    with pytest.raises(TypeError, match="set"):
        encode("json", {"group": {"set": {1, 2}}})  # type: ignore[dict-item]
