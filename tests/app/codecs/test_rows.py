"""Bounds on the number of rows from the head of a body."""

import io

import numpy as np
import orjson
import pytest

from app.codecs.rows import row_bounds
from app.codecs.spec import input_spec
from model.config import ImageData, VectorData

VECTORS = input_spec(
    VectorData(columns=[f"c{i}" for i in range(20)], mean=[0.0] * 20, std=[1.0] * 20), max_rows=500, max_pixels=1
)
IMAGES = input_spec(ImageData(channels=1, height=8, width=8), max_rows=500, max_pixels=1)


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8", "i8", "longdouble"])
@pytest.mark.parametrize("rows", [1, 2, 100, 500])
def test_arrays_have_as_many_rows_as_their_bytes_allow(dtype: str, rows: int) -> None:
    for spec in (VECTORS, IMAGES):
        file = io.BytesIO()
        np.save(file, np.zeros((rows, *spec.shape), dtype))
        fewest, most = row_bounds("application/x-npy", "", len(file.getvalue()), spec)
        assert 1 <= fewest <= rows <= most <= 500
    if rows == 500 and dtype == "f8":
        assert fewest > 240


@pytest.mark.parametrize("rows", [1, 7, 500])
@pytest.mark.parametrize("value", [0, 0.5, -1.2345678901234567e-300])
def test_json_has_as_many_rows_as_its_characters_allow(rows: int, value: float) -> None:
    body = orjson.dumps({"inputs": [[value] * 20] * rows})
    fewest, most = row_bounds("application/json", "", len(body), VECTORS)
    assert fewest <= rows <= most
    assert row_bounds("application/json", "", len(body), IMAGES)[0] == 1


def test_what_the_head_does_not_tell_is_unknown() -> None:
    assert row_bounds("image/png", "", 10_000_000, IMAGES) == (1, 1)
    assert row_bounds("application/x-npy", "", None, IMAGES) == (1, 500)
    assert row_bounds("application/x-npy", "gzip", 100_000, IMAGES) == (1, 500)


@pytest.mark.parametrize("spelled", ["Application/JSON", "application/json; charset=utf-8", "application/json ;a=b"])
def test_case_and_parameters_of_a_type_change_nothing(spelled: str) -> None:
    assert row_bounds(spelled, "", 5000, VECTORS) == row_bounds("application/json", "", 5000, VECTORS) != (1, 500)
