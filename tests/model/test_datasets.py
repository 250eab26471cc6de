"""Every kind of data on disk: read whole, read in batches, and refused by the place that is wrong."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model import datasets
from model.config import ImageData, VectorData
from model.datasets import arrays, open_dataset
from model.datasets.folders import ImageFolder
from model.errors import DataError
from tests.model.conftest import flipped, refusal, saved_array

Array = NDArray[Any]
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (11, 5, 6), dtype=np.uint8)
TABLE = RNG.normal(size=(11, 3)).astype(np.float32)
CLASSES = np.arange(11) % 4
GREY = ImageData(height=5, width=6)


def vector(*columns: str) -> VectorData:
    return VectorData(columns=columns, mean=(0,) * len(columns), std=(1,) * len(columns))


def idx(array: Array) -> bytes:
    code = {np.dtype(dtype): number for number, dtype in arrays.IDX_TYPES.items()}[array.dtype.newbyteorder(">")]
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def attempt(source: Path, named: Path | None = None) -> str | None:
    """Read all there is: None where that works, the name of the file where it is refused by it, else the refusal."""
    try:
        dataset = open_dataset(str(source))
        dataset.load()
        dataset.describe()
    except DataError as error:
        name = str(named or source)
        return name if name in str(error) else str(error)
    return None


def write_npy(folder: Path) -> str:
    return str(saved_array(folder / "pictures.npy", PICTURES))


def write_npz(folder: Path) -> str:
    np.savez(folder / "pictures.npz", x=PICTURES, labels=CLASSES)
    return str(folder / "pictures.npz")


def write_packed_npz(folder: Path) -> str:
    np.savez_compressed(folder / "packed.npz", x=PICTURES, y=CLASSES)
    return str(folder / "packed.npz")


def write_idx(folder: Path) -> str:
    (folder / "some-labels-idx1-ubyte").write_bytes(idx(CLASSES.astype(np.uint8)))
    (folder / "some-images-idx3-ubyte").write_bytes(idx(PICTURES))
    return str(folder / "some-images-idx3-ubyte")


def write_gz(folder: Path) -> str:
    (folder / "some-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES.astype(np.uint8))))
    (folder / "some-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES)))
    return str(folder / "some-images-idx3-ubyte.gz")


def write_folder(folder: Path) -> str:
    for i, picture in enumerate(PICTURES):
        (folder / f"class{CLASSES[i]}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"class{CLASSES[i]}" / f"{i:02}.png")
    return str(folder)


def write_csv(folder: Path) -> str:
    lines = ["a,b,c", *(",".join(repr(float(cell)) for cell in row) for row in TABLE)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


WRITERS: dict[str, Callable[[Path], str]] = {
    "npy": write_npy,
    "npz": write_npz,
    "packed npz": write_packed_npz,
    "idx": write_idx,
    "gz": write_gz,
    "folder": write_folder,
    "csv": write_csv,
}
FILES = [name for name in WRITERS if name not in {"folder", "csv"}]


@pytest.mark.parametrize("kind", WRITERS)
class TestEveryKind:
    def test_samples_are_what_was_written(self, kind: str, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        expected = TABLE if kind == "csv" else PICTURES[:, None]
        found = dataset.load()
        if kind == "folder":
            expected = expected[np.argsort(CLASSES, kind="stable")]
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
        assert (len(dataset), dataset.shape) == (11, expected.shape[1:])
        assert str(tmp_path) in dataset.describe() and "11 samples" in dataset.describe()

    @pytest.mark.parametrize("rows", [1, 4, 11, 100])
    def test_batches_of_any_size_hold_the_same_samples_in_order(self, kind: str, rows: int, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        parts = list(dataset.batches(rows))
        assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
        assert np.array_equal(np.concatenate(parts), dataset.load())

    def test_can_be_read_twice(self, kind: str, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        next(dataset.batches(2))
        assert np.array_equal(dataset.load(), dataset.load())

    def test_a_label_for_each_sample_where_there_are_labels(self, kind: str, tmp_path: Path) -> None:
        labels = open_dataset(WRITERS[kind](tmp_path)).labels()
        expected = {"npy": None, "csv": None, "folder": np.sort(CLASSES)}.get(kind, CLASSES)
        assert (labels is None) if expected is None else np.array_equal(np.asarray(labels), expected)

    def test_a_model_of_other_data_is_refused(self, kind: str, tmp_path: Path) -> None:
        source = WRITERS[kind](tmp_path)
        like = vector("a", "b") if kind != "csv" else GREY
        if kind == "folder":
            assert open_dataset(source, ImageData(height=7, width=8, channels=3)).shape == (3, 7, 8)
        with pytest.raises(DataError) as error:
            open_dataset(source, like)
        assert source in refusal(error) and like.describe() in refusal(error)


@pytest.mark.parametrize("kind", FILES)
class TestDamage:
    def test_every_truncation_is_refused_by_the_name_of_the_file(self, kind: str, tmp_path: Path) -> None:
        path = Path(WRITERS[kind](tmp_path))
        whole = path.read_bytes()
        for end in [0, 3, 10, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
            path.write_bytes(whole[:end])
            with pytest.raises(DataError) as error:
                open_dataset(str(path)).load()
            assert str(path) in refusal(error)

    def test_no_altered_byte_raises_anything_but_a_data_error(self, kind: str, tmp_path: Path) -> None:
        path = Path(WRITERS[kind](tmp_path))
        whole = path.read_bytes()
        for place in {*range(128), *range(len(whole) - 120, len(whole), 2)}:
            path.write_bytes(flipped(whole, place))
            assert attempt(path) in {None, str(path)}


@pytest.mark.parametrize("kind", ["gz", "npz", "packed npz"])
def test_an_altered_sample_is_found_where_the_file_has_a_checksum(kind: str, tmp_path: Path) -> None:
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
        found = dataset.load()
        assert dataset.shape == found.shape[1:] == shape
        assert found.dtype == (np.float32 if "f" in dtype else np.uint8)
        last = raw[..., None] if raw.ndim == 3 else raw if raw.shape[1:] != shape else raw.transpose(0, 2, 3, 1)
        assert np.allclose(found.transpose(0, 2, 3, 1) * scale, last, atol=1e-4)

    @pytest.mark.parametrize("shape", [(4,), (), (4, 9, 10, 2), (4, 2, 3, 9, 10), (4, 0)])
    def test_what_is_neither_images_nor_vectors_is_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.npy"):
            open_dataset(str(saved_array(tmp_path / "x.npy", np.zeros(shape))))

    @pytest.mark.parametrize(
        ("bad", "place"), [(np.nan, "[9, 2]"), (np.inf, "[9, 2]"), (-np.inf, "[9, 2]"), (1e39, "[9, 2]")]
    )
    def test_a_value_of_a_vector_that_is_not_finite_is_named(self, bad: float, place: str, tmp_path: Path) -> None:
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
    def test_a_value_of_a_picture_out_of_range_is_named(self, dtype: str, bad: float, tmp_path: Path) -> None:
        pictures = np.zeros((7, 5, 6), dtype)
        pictures[4, 3, 2] = bad
        with pytest.raises(DataError, match=r"\[4, 3, 2\] is"):
            list(open_dataset(str(saved_array(tmp_path / "x.npy", pictures))).batches(3))

    def test_integers_of_a_table_are_numbers_of_their_own_units(self, tmp_path: Path) -> None:
        rows = np.array([[300, -5], [70_000, 2]])
        found = open_dataset(str(saved_array(tmp_path / "x.npy", rows))).load()
        assert found.dtype == np.float32
        assert np.array_equal(found, rows)

    @pytest.mark.parametrize("dtype", ["<U3", "c8", "M8[s]"])
    def test_what_is_no_number_is_refused_by_its_type(self, dtype: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="integers and floats"):
            open_dataset(str(saved_array(tmp_path / "x.npy", np.zeros((3, 2), dtype)))).load()

    def test_pickles_are_refused_unread(self, tmp_path: Path) -> None:
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

    def test_a_header_that_promises_more_than_memory_holds_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x-idx3").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 0xFFFFFFFF, 0xFFFFFFF))
        with pytest.raises(DataError, match="x-idx3"):
            open_dataset(str(tmp_path / "x-idx3")).load()

    @pytest.mark.parametrize("kind", FILES)
    def test_more_bytes_than_the_header_says_are_refused(self, kind: str, tmp_path: Path) -> None:
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
    def test_arrays_to_choose_from_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez(path, train=PICTURES, test=PICTURES[:3])
        with pytest.raises(DataError) as error:
            open_dataset(str(path))
        assert "train, test" in refusal(error) and f"{path}:NAME" in refusal(error)
        assert len(open_dataset(f"{path}:test")) == 3
        with pytest.raises(DataError, match=r"no array 'valid' in it; it has train, test"):
            open_dataset(f"{path}:valid")

    def test_labels_that_are_no_classes_are_left_out(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=PICTURES, y=np.linspace(0, 1, 11))
        assert open_dataset(str(tmp_path / "x.npz")).labels() is None

    def test_an_archive_without_arrays_is_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("readme.txt", "nothing here")
        with pytest.raises(DataError, match=r"\(none\)"):
            open_dataset(str(tmp_path / "x.npz"))

    @pytest.mark.parametrize("count", [5, 12])
    def test_labels_that_are_not_one_a_sample_are_refused(self, count: int, tmp_path: Path) -> None:
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
def test_what_is_not_idx_is_refused(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "x-idx3-ubyte").write_bytes(start)
    with pytest.raises(DataError, match="x-idx3-ubyte"):
        open_dataset(str(tmp_path / "x-idx3-ubyte"))


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">f4", ">f8"])
def test_wider_numbers_of_idx_are_read(dtype: str, tmp_path: Path) -> None:
    values = np.array([[[0, 1], [1, 0]]], dtype)
    (tmp_path / "x.idx").write_bytes(idx(values))
    assert np.array_equal(open_dataset(str(tmp_path / "x.idx")).load()[:, 0], values)


class TestFolder:
    def test_pictures_of_any_size_and_mode_become_as_the_first(self, tmp_path: Path) -> None:
        Image.fromarray(PICTURES[0]).save(tmp_path / "0.png")
        Image.new("RGB", (50, 40), "#ffffff").save(tmp_path / "1.JPG")
        Image.new("RGBA", (5, 5), (255, 255, 255, 0)).save(tmp_path / "2.webp", lossless=True)
        Image.new("P", (6, 5)).save(tmp_path / "3.gif")
        (tmp_path / "notes.txt").write_text("no picture")
        dataset = open_dataset(str(tmp_path))
        found = dataset.load()
        assert found.shape == (4, 1, 5, 6)
        assert np.array_equal(found[0, 0], PICTURES[0])
        assert (found[1] > 250).all() and (found[2] == 0).all()
        assert dataset.name_of(1) == str(tmp_path / "1.JPG")
        assert dataset.labels() is None

    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("P", 3)])
    def test_the_mode_of_the_first_decides_grey_or_rgb(self, mode: str, channels: int, tmp_path: Path) -> None:
        Image.new(mode, (6, 5)).save(tmp_path / "x.png")
        assert ImageFolder(tmp_path).shape == (channels, 5, 6)

    def test_the_first_decides_the_size_as_it_stands_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(PICTURES[0]).save(tmp_path / "lying.png", exif=exif)
        assert ImageFolder(tmp_path).shape == (1, 6, 5)

    @pytest.mark.parametrize("size", [(2000, 8), (8, 2000), (3, 3)])
    def test_a_size_that_no_model_takes_is_refused_by_the_file(self, size: tuple[int, int], tmp_path: Path) -> None:
        Image.new("L", size).save(tmp_path / "x.png")
        with pytest.raises(DataError, match=r"x\.png"):
            open_dataset(str(tmp_path))

    def test_a_picture_of_too_many_pixels_is_refused_by_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Image.new("L", (100, 100)).save(tmp_path / "x.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(DataError, match=r"x\.png"):
            open_dataset(str(tmp_path), GREY).load()

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no images"):
            open_dataset(str(tmp_path))

    @pytest.mark.parametrize("keep", [0, 10, 500])
    def test_a_damaged_picture_is_refused_by_its_path(self, keep: int, tmp_path: Path) -> None:
        write_folder(tmp_path)
        damaged = tmp_path / "class2" / "02.png"
        noise = Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8))
        noise.save(damaged)
        damaged.write_bytes(damaged.read_bytes()[:keep])
        with pytest.raises(DataError) as error:
            open_dataset(str(tmp_path)).load()
        assert str(damaged) in refusal(error)

    @pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif"])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_no_altered_byte_raises_anything_but_a_data_error(self, kind: str, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        path = tmp_path / f"x.{kind}"
        options: dict[str, Any] = {"exif": exif} if kind in {"png", "jpg", "tif"} else {}
        Image.fromarray(RNG.integers(0, 256, (9, 8), dtype=np.uint8)).save(path, **options)
        whole = path.read_bytes()
        for place in range(0, min(len(whole), 400), 2):
            for changed in (flipped(whole, place), whole[:place]):
                path.write_bytes(changed)
                assert attempt(tmp_path, path) in {None, str(path)}


class TestCsv:
    @staticmethod
    def of(folder: Path, text: str | bytes, like: VectorData | None = None, **options: Any) -> datasets.Dataset:
        (folder / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_dataset(str(folder / "x.csv"), like, **options)

    def test_a_bad_cell_is_named_by_row_line_and_column(self, tmp_path: Path) -> None:
        dataset = self.of(tmp_path, "a,b\n1,2\n\n3,4\n5,n/a\n")
        with pytest.raises(DataError) as error:
            dataset.load()
        assert "row 3 (line 5), column 'b': 'n/a'" in refusal(error) and "--exclude" in refusal(error)
        assert self.of(tmp_path, "a,b\n1,2\n\n3,4\n5,n/a\n", exclude=["b"]).load().tolist() == [[1], [3], [5]]

    @pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "1e39", "1,5", "0x10"])
    def test_what_float32_cannot_hold_is_no_number(self, cell: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 1 \(line 2\), column 'a'"):
            self.of(tmp_path, f'a,b\n"{cell}",2\n').load()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "empty"),
            ("\n\n", "empty"),
            ("1,2\n3,4\n", "no header"),
            ("a,a\n1,2\n", "same name"),
            (b"a,b\n1,\xff\n", "line 2 is not UTF-8"),
            ("a,b\n1,2\n3\n", "row 2 (line 3) has 1 cells, not 2"),
            ("a,b\n1,2,3\n", "row 1 (line 2) has 3 cells, not 2"),
            ("a,b\n", "no samples"),
            ("a,b\n1,2\n" + '"' + "x" * 200_000 + '",2\n', "line 3"),
        ],
    )
    def test_what_is_not_a_table_is_refused(self, text: str | bytes, said: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            self.of(tmp_path, text).load()
        assert said in refusal(error) and "x.csv" in refusal(error)

    def test_columns_are_chosen_and_ordered_by_the_model(self, tmp_path: Path) -> None:
        text = "name,b,c,a\nx,2,3,1\ny,5,6,4\n"
        assert self.of(tmp_path, text, vector("a", "b")).load().tolist() == [[1, 2], [4, 5]]
        with pytest.raises(DataError, match="no column 'd'; its columns are name, b, c, a"):
            self.of(tmp_path, text, vector("a", "d"))
        with pytest.raises(DataError, match="more than one column 'a'"):
            self.of(tmp_path, "a,a,b\n1,2,3\n", vector("a", "b"))

    def test_columns_that_are_not_chosen_may_be_anything(self, tmp_path: Path) -> None:
        text = "a,what,what\n1,x,y\n"
        assert self.of(tmp_path, text, vector("a")).load().tolist() == [[1]]

    def test_a_column_to_exclude_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no column 'c'"):
            self.of(tmp_path, "a,b\n1,2\n", exclude=["c"])

    def test_excluding_every_column_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="column"):
            self.of(tmp_path, "a,b\n1,2\n", exclude=["a", "b"])

    @pytest.mark.parametrize(
        "text",
        [
            b"\xef\xbb\xbfa,b\n1,2\n",
            b"a,b\r\n1,2\r\n",
            b"a , b\n 1 , 2 \n",
            b'"a","b"\n"1","2"\n',
            b"a,b\n1,2",
            b"\na,b\n\n1,2\n  \n",
        ],
    )
    def test_the_ways_to_write_a_table(self, text: bytes, tmp_path: Path) -> None:
        dataset = self.of(tmp_path, text)
        assert (dataset.columns, dataset.load().tolist(), len(dataset)) == (("a", "b"), [[1, 2]], 1)

    def test_an_empty_cell_of_a_single_column_is_not_a_blank_line(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'a'"):
            self.of(tmp_path, 'a\n1\n""\n').load()


class TestFashionMnist:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("VAE_DATA", str(tmp_path))
        monkeypatch.setattr(datasets, "FASHION_MNIST", tmp_path / "not installed")
        return tmp_path

    @pytest.mark.parametrize("below", ["", "fashion-mnist"])
    def test_is_found_by_name(self, below: str, home: Path) -> None:
        folder = home / below
        folder.mkdir(exist_ok=True)
        for stem, count in (("train", 11), ("t10k", 3)):
            (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES[:count])))
            (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES[:count].astype(np.uint8))))
        assert np.array_equal(open_dataset("fashion-mnist").load()[:, 0], PICTURES)
        test = open_dataset("fashion-mnist:test")
        assert (len(test), test.source) == (3, "fashion-mnist:test")
        assert np.array_equal(np.asarray(test.labels()), CLASSES[:3])

    def test_the_way_to_get_it_is_told(self, home: Path) -> None:
        with pytest.raises(DataError) as error:
            open_dataset("fashion-mnist")
        assert all(word in refusal(error) for word in ("apt-get install", "VAE_DATA", str(home), "not installed"))

    def test_there_are_two_parts(self, home: Path) -> None:
        with pytest.raises(DataError, match="fashion-mnist:test"):
            open_dataset("fashion-mnist:valid")


@pytest.mark.parametrize("name", ["x.txt", "x.parquet", "x"])
def test_kinds_that_cannot_be_read_are_refused_with_those_that_can(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"use idx\(\.gz\), \.npy, \.npz, \.csv, or a folder"):
        open_dataset(str(tmp_path / name))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_dataset(str(tmp_path / "x.npy"))


def test_what_may_not_be_opened_is_refused(tmp_path: Path) -> None:
    def opener() -> Any:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(DataError, match="here: cannot be opened"):
        arrays.ArrayFile("here", opener, lambda file: ((1, 1), np.dtype("f4"), False))


def test_a_stream_without_a_header_is_no_array() -> None:
    with pytest.raises(DataError, match="somewhere: not an npy file"):
        arrays.ArrayFile("somewhere", lambda: io.BytesIO(b"\x93NUMPX"), arrays.read_npy_header)
