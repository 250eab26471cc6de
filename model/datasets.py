"""Data on disk -> samples, read in batches: idx, npy, npz, a folder of images, csv, and `fashion-mnist` by name.

`open_dataset` looks only at what is needed to know the shape; `Dataset.batches` then streams, so that scoring needs
the memory of one batch. Samples come out as the model takes them: images as batch x channels x height x width, uint8
or float32 in [0, 1]; vectors as batch x columns, float32 in their own units.
"""

import csv
import gzip
import math
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.config import ImageData, VectorData
from model.errors import DataError, InputError
from model.images import fit_image

Array = NDArray[Any]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Dataset(ABC):
    """Samples of one shape from one source. `columns` names the columns of vectors; it is empty for images."""

    source: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are; a csv is read through once to count them."""

    @abstractmethod
    def batches(self, rows: int) -> Iterator[Array]:
        """All samples in order, at most `rows` at a time. Raises `DataError` naming the place of a bad value."""

    def labels(self) -> NDArray[np.int64] | None:
        """One class per sample where the source has them; only ever used to colour a plot."""
        return None

    def name_of(self, index: int) -> str:
        """What a report calls a sample: its number, or the path of its file."""
        return str(index)

    def load(self) -> Array:
        """All samples at once."""
        parts = list(self.batches(4096))
        if not parts:
            raise DataError(f"{self.source}: there are no samples in it")
        return np.concatenate(parts)

    def describe(self) -> str:
        shape = "x".join(str(n) for n in self.shape)
        return f"{self.source}: {len(self):,} samples of {shape}"


def open_dataset(source: str, like: ImageData | VectorData | None = None, *, exclude: Sequence[str] = ()) -> Dataset:
    """Open a dataset by what it is: a name, a file by its suffix, or a folder of images.

    Args:
        source: `fashion-mnist` or `fashion-mnist:test`; a path to .npy, .npz (`file.npz:array` to choose one), .csv,
            or idx (.gz or not); or a folder of images.
        like: the data of a trained model: samples must fit it; images of a folder are resized to it, and the columns
            of a csv are chosen by its names. Without it, the source itself decides.
        exclude: columns of a csv to leave out.

    Raises:
        DataError: nothing is there, or not of a kind that can be read, or it does not fit `like`.
    """
    if source.partition(":")[0] == "fashion-mnist":
        dataset: Dataset = _fashion_mnist(source)
    else:
        path, _, member = source.partition(":") if ".npz:" in source else (source, "", "")
        dataset = _open_path(Path(path), member, like, exclude)
    if like is not None and dataset.shape != like.shape:
        raise DataError(f"{dataset.describe()}, but this model takes {like.describe()}")
    return dataset


def _open_path(path: Path, member: str, like: ImageData | VectorData | None, exclude: Sequence[str]) -> Dataset:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; data by name: fashion-mnist, fashion-mnist:test")
    if path.is_dir():
        return ImageFolder(path, like if isinstance(like, ImageData) else None)
    if path.suffix == ".csv":
        return CsvFile(path, like.columns if isinstance(like, VectorData) else None, exclude)
    if path.suffix == ".npy":
        return ArrayFile(str(path), lambda: path.open("rb"), _read_npy_header, columns=_columns_of(like))
    if path.suffix == ".npz":
        return _open_npz(path, member, _columns_of(like))
    if "idx" in path.name:
        return IdxFile(path)
    raise DataError(f"{path}: not a kind that can be read; use idx(.gz), .npy, .npz, .csv, or a folder of images")


def _columns_of(like: ImageData | VectorData | None) -> tuple[str, ...]:
    return like.columns if isinstance(like, VectorData) else ()


def _fashion_mnist(source: str) -> "IdxFile":
    split = source.partition(":")[2] or "train"
    stems = {"train": "train", "test": "t10k"}
    if split not in stems:
        raise DataError(f"{source}: there is no such part; use fashion-mnist or fashion-mnist:test")
    own = os.environ.get("VAE_DATA")
    places = [*([Path(own) / "fashion-mnist", Path(own)] if own else []), FASHION_MNIST]
    for place in places:
        path = place / f"{stems[split]}-images-idx3-ubyte.gz"
        if path.exists():
            return IdxFile(path, source=source)
    raise DataError(
        f"{source}: not found in {', '.join(str(place) for place in places)}. On Debian or Ubuntu run `apt-get install "
        "dataset-fashion-mnist`; elsewhere put the four idx.gz files into a folder and set VAE_DATA to it"
    )


def _canonical(batch: Array, shape: tuple[int, ...], where: str, first: int) -> Array:
    """Raw values -> samples as the model takes them, or a `DataError` that names the first bad value."""
    image = len(shape) == 3
    if batch.dtype == np.uint8 and image:
        return _channels_first(batch, shape)
    integer = batch.dtype.kind in "iu"
    if batch.dtype.kind not in "iuf":
        raise DataError(f"{where}: holds values of type {batch.dtype}; only integers and floats can be read")
    low, high = (0, 255 if integer else 1) if image else (-np.inf, np.inf)
    with np.errstate(over="ignore"):
        values = batch if integer else batch.astype(np.float32)
    bad = ~((values >= low) & (values <= high) & np.isfinite(values))
    if bad.any():
        place = np.argwhere(bad)[0]
        index = ", ".join(str(i) for i in (first + place[0], *place[1:]))
        expected = (
            f"images need {'bytes 0..255' if integer else 'floats in [0, 1]'}" if image else "not a finite float32"
        )
        raise DataError(f"{where}: the value at [{index}] is {batch[tuple(place)]}: {expected}")
    if image:
        return _channels_first(values.astype(np.uint8) if integer else values, shape)
    return values.astype(np.float32)


def _channels_first(batch: Array, shape: tuple[int, ...]) -> Array:
    if batch.ndim == 3:
        return batch[:, None]
    return batch if batch.shape[1:] == shape else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def _sample_shape(raw: tuple[int, ...], where: str) -> tuple[int, ...]:
    """The shape of one sample inside the model, from that of one sample in a file."""
    if len(raw) == 1 and raw[0] > 0:
        return raw
    if len(raw) == 2:
        return (1, *raw)
    if len(raw) == 3 and raw[2] in {1, 3}:
        return (raw[2], raw[0], raw[1])
    if len(raw) == 3 and raw[0] in {1, 3}:
        return raw
    raise DataError(
        f"{where}: samples of shape {raw} are neither images (height x width, with 1 or 3 channels last or first) "
        "nor vectors"
    )


# A header reader takes an open file and returns (shape, dtype, fortran_order), leaving the file at the first value.
Header = tuple[tuple[int, ...], np.dtype[Any], bool]


def _read_npy_header(file: IO[bytes]) -> Header:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise DataError(f"not an npy file: {error}") from error
    if dtype.hasobject:
        raise DataError("holds pickled Python objects, which are never read; save plain numbers instead")
    return shape, dtype, fortran


def _read_idx_header(file: IO[bytes]) -> Header:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or magic[3] == 0:
        raise DataError("not an idx file: its first four bytes are not those of one")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError("ends inside its header")
    return struct.unpack(f">{magic[3]}I", sizes), np.dtype(IDX_TYPES[magic[2]]), False


class ArrayFile(Dataset):
    """One array in a stream of bytes behind a header, as in npy, a member of npz, and idx."""

    def __init__(
        self,
        source: str,
        opener: Callable[[], IO[bytes]],
        header: Callable[[IO[bytes]], Header],
        columns: tuple[str, ...] = (),
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.source = source
        self._opener = opener
        self._header = header
        self._labels = labels
        with self._reading() as file:
            shape, self.dtype, fortran = header(file)
        if fortran and len(shape) > 1:
            raise DataError(f"{source}: stored column by column; save it with numpy.ascontiguousarray first")
        if not shape:
            raise DataError(f"{source}: holds a single number, not an array of samples")
        self.count, self.raw_shape = shape[0], tuple(shape[1:])
        self.shape = _sample_shape(self.raw_shape, source)
        if len(self.shape) == 1:
            fits = len(columns) == self.shape[0]
            self.columns = columns if fits else tuple(f"x{i}" for i in range(self.shape[0]))

    def __len__(self) -> int:
        return self.count

    def batches(self, rows: int) -> Iterator[Array]:
        size = math.prod(self.raw_shape) * self.dtype.itemsize
        with self._reading() as file:
            self._header(file)
            for start in range(0, self.count, rows):
                count = min(rows, self.count - start)
                data = file.read(count * size)
                if len(data) < count * size:
                    raise DataError(f"ends inside sample {start + len(data) // size} of {self.count}")
                raw = np.frombuffer(data, self.dtype).reshape(count, *self.raw_shape)
                yield _canonical(raw, self.shape, self.source, start)

    def labels(self) -> NDArray[np.int64] | None:
        return self._labels

    def _reading(self) -> "_Reading":
        return _Reading(self.source, self._opener)


class _Reading:
    """An open source; whatever goes wrong while it is read becomes a `DataError` that names it."""

    def __init__(self, source: str, opener: Callable[[], IO[bytes]]) -> None:
        self.source = source
        self.opener = opener

    def __enter__(self) -> IO[bytes]:
        try:
            self.file = self.opener()
        except OSError as error:
            raise DataError(f"{self.source}: cannot be opened: {error}") from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, DataError) and not str(error).startswith(self.source):
            raise DataError(f"{self.source}: {error}") from error
        if isinstance(error, (EOFError, OSError, zlib.error, zipfile.BadZipFile)):
            raise DataError(f"{self.source}: cannot be read, truncated or damaged: {error}") from error


def _open_npz(path: Path, member: str, columns: tuple[str, ...]) -> ArrayFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an npz file: {error}") from error
    labels = [name for name in names if name in {"y", "label", "labels"}]
    arrays = [name for name in names if name not in labels]
    if member and member not in names:
        raise DataError(f"{path}: there is no array '{member}' in it; it has {', '.join(names)}")
    if not member and len(arrays) != 1:
        raise DataError(f"{path}: holds the arrays {', '.join(names) or '(none)'}; choose one, as in {path}:NAME")
    chosen = member or arrays[0]

    def opener(name: str) -> Callable[[], IO[bytes]]:
        return lambda: zipfile.ZipFile(path).open(f"{name}.npy")

    found = _read_labels(f"{path}:{labels[0]}", opener(labels[0]), _read_npy_header) if labels else None
    return ArrayFile(f"{path}:{chosen}", opener(chosen), _read_npy_header, columns, found)


def _read_labels(
    source: str, opener: Callable[[], IO[bytes]], header: Callable[[IO[bytes]], Header]
) -> NDArray[np.int64] | None:
    with _Reading(source, opener) as file:
        shape, dtype, _ = header(file)
        if len(shape) != 1 or dtype.kind not in "iu":
            return None
        return np.frombuffer(file.read(shape[0] * dtype.itemsize), dtype).astype(np.int64)


class IdxFile(ArrayFile):
    """The format of MNIST, gzipped or not; labels are taken from the file beside it that is named alike."""

    def __init__(self, path: Path, source: str | None = None) -> None:
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        labels = None
        if beside != path and beside.exists():
            labels = _read_labels(str(beside), _idx_opener(beside), _read_idx_header)
        super().__init__(source or str(path), _idx_opener(path), _read_idx_header, labels=labels)


def _idx_opener(path: Path) -> Callable[[], IO[bytes]]:
    def opener() -> IO[bytes]:
        return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")

    return opener


class ImageFolder(Dataset):
    """All images in a folder and the folders in it, in the order of their paths; a subfolder's name is a label."""

    def __init__(self, folder: Path, like: ImageData | None = None) -> None:
        self.source = str(folder)
        self.folder = folder
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self.paths:
            raise DataError(f"{folder}: there are no images in it (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        self.data = like or self._of_first()
        self.shape = self.data.shape

    def _of_first(self) -> ImageData:
        with _opened(self.paths[0]) as image:
            grey = image.mode in {"1", "L", "LA"} or image.mode.startswith("I;16")
            return ImageData(height=image.height, width=image.width, channels=1 if grey else 3)

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, rows: int) -> Iterator[Array]:
        for start in range(0, len(self.paths), rows):
            yield np.stack([self._read(path) for path in self.paths[start : start + rows]])

    def _read(self, path: Path) -> Array:
        with _opened(path) as image:
            try:
                return fit_image(image, self.data)
            except (OSError, ValueError, InputError) as error:
                raise DataError(f"{path}: cannot be read: {error}") from error

    def name_of(self, index: int) -> str:
        return str(self.paths[index])

    def labels(self) -> NDArray[np.int64] | None:
        parents = [path.parent for path in self.paths]
        names = sorted(set(parents))
        return np.array([names.index(parent) for parent in parents]) if len(names) > 1 else None


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an image that can be read: {error}") from error


class CsvFile(Dataset):
    """A header of names, then rows of numbers."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        self.source = str(path)
        self.path = path
        with _Reading(self.source, self._open):
            header = next(self._rows(), (0, []))[1]
        if not header:
            raise DataError(f"{path}: is empty; its first line must name the columns")
        if all(_number(cell) is not None for cell in header):
            raise DataError(f"{path}: has no header; its first line must name the columns")
        for name in (*exclude, *(columns or ())):
            if header.count(name) != 1:
                problem = "no column" if name not in header else "more than one column"
                raise DataError(f"{path}: has {problem} '{name}'; its columns are {', '.join(header)}")
        self.header = header
        self.columns = tuple(columns) if columns else tuple(name for name in header if name not in exclude)
        if len(set(self.columns)) != len(self.columns):
            raise DataError(f"{path}: two columns have the same name; give each its own")
        self.picks = [header.index(name) for name in self.columns]
        self.shape = (len(self.columns),)
        self._count: int | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self._rows()) - 1
        return self._count

    def batches(self, rows: int) -> Iterator[Array]:
        batch: list[list[float]] = []
        lines = self._rows()
        next(lines)
        for row, (line, cells) in enumerate(lines, start=1):
            batch.append(self._numbers(row, line, cells))
            if len(batch) == rows:
                yield np.array(batch, np.float32)
                batch = []
        if batch:
            yield np.array(batch, np.float32)

    def _numbers(self, row: int, line: int, cells: list[str]) -> list[float]:
        if len(cells) != len(self.header):
            raise DataError(f"{self.path}: row {row} (line {line}) has {len(cells)} cells, not {len(self.header)}")
        numbers = []
        for name, pick in zip(self.columns, self.picks, strict=True):
            number = _number(cells[pick])
            if number is None:
                raise DataError(
                    f"{self.path}: row {row} (line {line}), column '{name}': '{cells[pick]}' is not a finite number; "
                    "mend it, or leave the column out with --exclude"
                )
            numbers.append(number)
        return numbers

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every line that is not blank, the header's first."""
        with _Reading(self.source, self._open) as file:
            reader = csv.reader(line.decode("utf-8-sig") for line in file)
            try:
                yield from ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells)
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"line {reader.line_num + 1} is not UTF-8 csv: {error}") from error

    def _open(self) -> IO[bytes]:
        return self.path.open("rb")


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    # What float32 cannot hold is as unusable as what is no number.
    return number if abs(number) <= float(np.finfo(np.float32).max) else None
