"""npz files, as read by numpy and zipfile."""

import io
import zipfile

import numpy as np
import pytest

from app.codecs import npz
from app.codecs.npz import encode_npz

ARRAYS = {
    "mean": np.arange(6, dtype=np.float32).reshape(2, 3),
    "p_values.free_energy": np.array([0.5, np.nan]),
    "empty": np.zeros((0, 4), np.float32),
    "single": np.array(7),
    "large": np.random.default_rng(0).random((100, 1000)),
    "transposed": np.arange(12.0).reshape(3, 4).T,
}


def check(data: bytes) -> None:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert file.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert file[name].dtype == array.dtype
            np.testing.assert_array_equal(file[name], array)


def test_numpy_reads_the_arrays() -> None:
    check(encode_npz(ARRAYS))


def test_zipfile_finds_valid_uncompressed_members() -> None:
    with zipfile.ZipFile(io.BytesIO(encode_npz(ARRAYS))) as file:
        assert file.testzip() is None
        assert file.namelist() == [f"{name}.npy" for name in ARRAYS]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())


def test_no_arrays_give_an_empty_archive() -> None:
    with np.load(io.BytesIO(encode_npz({}))) as file:
        assert file.files == []


def test_arrays_too_large_for_32_bit_zip_are_written_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_ZIP32_BYTES", 100)
    check(encode_npz(ARRAYS))
