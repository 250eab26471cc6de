"""npy, npz and idx files: accepted layouts, and errors that name the place."""

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.datasets import arrays, open_dataset
from model.errors import DataError
from tests.support.checkpoints import flipped, refusal
from tests.support.data import saved_array
from tests.support.datasets import (
    FILES,
    PICTURES,
    RNG,
    TABLE,
    WRITERS,
    Array,
    attempt,
    idx,
    vector,
    write_idx,
    write_npy,
)


@pytest.mark.parametrize("kind", FILES)
class TestDamage:
    def test_every_truncated_file_is_refused_with_its_name(self, kind: str, tmp_path: Path) -> None:
        path = Path(WRITERS[kind](tmp_path))
        whole = path.read_bytes()
        for end in [0, 3, 10, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
            path.write_bytes(whole[:end])
            with pytest.raises(DataError) as error:
                open_dataset(str(path)).load()
            assert str(path) in refusal(error)

    def test_altered_bytes_raise_only_data_errors(self, kind: str, tmp_path: Path) -> None:
        path = Path(WRITERS[kind](tmp_path))
        whole = path.read_bytes()
        for place in {*range(128), *range(len(whole) - 120, len(whole), 2)}:
            path.write_bytes(flipped(whole, place))
            assert attempt(path) in {None, str(path)}


@pytest.mark.parametrize("kind", ["gz", "npz", "packed npz"])
def test_altered_samples_of_formats_with_checksums_are_refused(kind: str, tmp_path: Path) -> None:
    path = Path(WRITERS[kind](tmp_path))
    whole = path.read_bytes()
    # A byte of the samples themselves, somewhere in the middle of random, hence incompressible, numbers.
    path.write_bytes(flipped(whole, whole.index(PICTURES.tobytes()[:8]) + 50 if kind == "npz" else len(whole) // 3))
    with pytest.raises(DataError):
        open_dataset(str(path)).load()


class TestArrays:
    @pytest.mark.parametrize(
        ("raw", "shape"),
        [
            (RNG.integers(0, 256, (4, 9, 10, 3)), (3, 9, 10)),
            (RNG.integers(0, 256, (4, 3, 9, 10)), (3, 9, 10)),
            (RNG.integers(0, 256, (4, 9, 10, 1)), (1, 9, 10)),
            (RNG.integers(0, 256, (4, 1, 9, 10)), (1, 9, 10)),
            (RNG.integers(0, 256, (4, 9, 10)), (1, 9, 10)),
        ],
    )
    @pytest.mark.parametrize("dtype", ["u1", "<i8", ">u2", "<f4", ">f8"])
    def test_channels_may_be_last_or_first(
        self, raw: Array, shape: tuple[int, ...], dtype: str, tmp_path: Path
    ) -> None:
        scale = 255 if "f" in dtype else 1
        dataset = open_dataset(str(saved_array(tmp_path / "x.npy", (raw / scale).astype(dtype))))
        samples = dataset.load()
        assert dataset.shape == samples.shape[1:] == shape
        assert samples.dtype == (np.float32 if "f" in dtype else np.uint8)
        last = raw[..., None] if raw.ndim == 3 else raw if raw.shape[1:] != shape else raw.transpose(0, 2, 3, 1)
        assert np.allclose(samples.transpose(0, 2, 3, 1) * scale, last, atol=1e-4)

    @pytest.mark.parametrize("shape", [(4,), (), (4, 9, 10, 2), (4, 2, 3, 9, 10), (4, 0)])
    def test_shapes_of_neither_images_nor_vectors_are_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.npy"):
            open_dataset(str(saved_array(tmp_path / "x.npy", np.zeros(shape))))

    @pytest.mark.parametrize(
        ("bad", "place"), [(np.nan, "[9, 2]"), (np.inf, "[9, 2]"), (-np.inf, "[9, 2]"), (1e39, "[9, 2]")]
    )
    def test_a_vector_value_that_is_not_finite_is_named(self, bad: float, place: str, tmp_path: Path) -> None:
        rows = TABLE.astype(np.float64)
        rows[9, 2] = bad
        dataset = open_dataset(str(saved_array(tmp_path / "x.npy", rows)))
        for batch in (1, 4, 100):
            with pytest.raises(DataError) as error:
                list(dataset.batches(batch))
            assert place in refusal(error) and str(bad) in refusal(error) and "x.npy" in refusal(error)

    @pytest.mark.parametrize(
        ("dtype", "bad"), [("f4", 1.5), ("f4", -0.1), ("f4", np.nan), ("i4", 256), ("i4", -1), ("i8", 1 << 40)]
    )
    def test_an_image_value_out_of_range_is_named(self, dtype: str, bad: float, tmp_path: Path) -> None:
        pictures = np.zeros((7, 5, 6), dtype)
        pictures[4, 3, 2] = bad
        with pytest.raises(DataError, match=r"\[4, 3, 2\] is"):
            list(open_dataset(str(saved_array(tmp_path / "x.npy", pictures))).batches(3))

    def test_integers_of_vectors_are_not_rescaled(self, tmp_path: Path) -> None:
        rows = np.array([[300, -5], [70_000, 2]])
        samples = open_dataset(str(saved_array(tmp_path / "x.npy", rows))).load()
        assert samples.dtype == np.float32
        assert np.array_equal(samples, rows)

    @pytest.mark.parametrize("dtype", ["<U3", "c8", "M8[s]"])
    def test_arrays_that_are_not_numeric_are_refused_with_their_type(self, dtype: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="integers and floats"):
            open_dataset(str(saved_array(tmp_path / "x.npy", np.zeros((3, 2), dtype)))).load()

    def test_pickles_are_refused_without_unpickling(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path(tmp_path / "sprung").touch, ())

        saved_array(tmp_path / "x.npy", np.array([[Trap()]], dtype=object))
        with pytest.raises(DataError, match="pickled"):
            open_dataset(str(tmp_path / "x.npy")).load()
        assert not (tmp_path / "sprung").exists()

    def test_columns_in_memory_order_are_refused_with_the_remedy(self, tmp_path: Path) -> None:
        saved_array(tmp_path / "x.npy", np.asfortranarray(TABLE))
        with pytest.raises(DataError, match="ascontiguousarray"):
            open_dataset(str(tmp_path / "x.npy"))

    def test_no_samples_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no samples"):
            open_dataset(str(saved_array(tmp_path / "x.npy", np.zeros((0, 3))))).load()

    def test_a_header_of_more_bytes_than_memory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x-idx3").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 0xFFFFFFFF, 0xFFFFFFF))
        with pytest.raises(DataError, match="x-idx3"):
            open_dataset(str(tmp_path / "x-idx3")).load()

    @pytest.mark.parametrize("kind", FILES)
    def test_trailing_bytes_are_refused(self, kind: str, tmp_path: Path) -> None:
        path = Path(WRITERS[kind](tmp_path))
        if kind.endswith("npz"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.npy", Path(write_npy(tmp_path)).read_bytes() + b"more")
        else:
            longer = gzip.decompress(path.read_bytes()) if kind == "gz" else path.read_bytes()
            path.write_bytes(gzip.compress(longer + b"more") if kind == "gz" else longer + b"more")
        with pytest.raises(DataError, match=path.name):
            open_dataset(str(path)).load()

    def test_a_negative_number_of_samples_is_refused(self, tmp_path: Path) -> None:
        path = saved_array(tmp_path / "x.npy", TABLE)
        path.write_bytes(path.read_bytes().replace(b"(11, 3), ", b"(-1, 3), "))
        with pytest.raises(DataError, match=r"x\.npy"):
            open_dataset(str(path))

    def test_columns_are_named_by_the_model_or_by_number(self, tmp_path: Path) -> None:
        path = str(saved_array(tmp_path / "x.npy", TABLE))
        assert open_dataset(path).columns == ("x0", "x1", "x2")
        assert open_dataset(path, vector("age", "height", "weight")).columns == ("age", "height", "weight")
        assert open_dataset(path).name_of(7) == "7"

    def test_newer_versions_of_npy_are_read(self, tmp_path: Path) -> None:
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, TABLE, version=(2, 0))
        assert np.array_equal(open_dataset(str(tmp_path / "x.npy")).load(), TABLE)


class TestNpz:
    def test_an_ambiguous_archive_is_refused_with_the_names_of_its_arrays(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez(path, train=PICTURES, test=PICTURES[:3])
        with pytest.raises(DataError) as error:
            open_dataset(str(path))
        assert "train, test" in refusal(error) and f"{path}:NAME" in refusal(error)
        assert len(open_dataset(f"{path}:test")) == 3
        with pytest.raises(DataError, match=r"no array 'valid' in it; it has train, test"):
            open_dataset(f"{path}:valid")

    def test_labels_that_are_not_classes_are_ignored(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=PICTURES, y=np.linspace(0, 1, 11))
        assert open_dataset(str(tmp_path / "x.npz")).labels() is None

    def test_an_archive_without_arrays_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("readme.txt", "nothing here")
        with pytest.raises(DataError, match=r"\(none\)"):
            open_dataset(str(tmp_path / "x.npz"))

    @pytest.mark.parametrize("count", [5, 12])
    def test_another_number_of_labels_than_samples_is_refused(self, count: int, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=PICTURES, labels=np.arange(count))
        with pytest.raises(DataError, match="labels"):
            open_dataset(str(tmp_path / "x.npz"))


def test_truncated_labels_are_refused(tmp_path: Path) -> None:
    source = write_idx(tmp_path)
    labels = tmp_path / "some-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-3])
    with pytest.raises(DataError, match="labels-idx1"):
        open_dataset(source)


@pytest.mark.parametrize("start", [b"\0\0\x08", b"\1\0\x08\x03", b"\0\0\x07\x03", b"\0\0\x08\0", b"\0\0\x08\x03\0\0"])
def test_files_that_are_not_idx_are_refused(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "x-idx3-ubyte").write_bytes(start)
    with pytest.raises(DataError, match="x-idx3-ubyte"):
        open_dataset(str(tmp_path / "x-idx3-ubyte"))


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">f4", ">f8"])
def test_idx_files_of_wider_types_are_read(dtype: str, tmp_path: Path) -> None:
    values = np.array([[[0, 1], [1, 0]]], dtype)
    (tmp_path / "x.idx").write_bytes(idx(values))
    assert np.array_equal(open_dataset(str(tmp_path / "x.idx")).load()[:, 0], values)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    def opener() -> Any:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(DataError, match="here: cannot be opened"):
        arrays.ArrayFile("here", opener, lambda file: ((1, 1), np.dtype("f4"), False))


def test_a_stream_without_a_header_is_refused() -> None:
    with pytest.raises(DataError, match="somewhere: not an npy file"):
        arrays.ArrayFile("somewhere", lambda: io.BytesIO(b"\x93NUMPX"), arrays.read_npy_header)
