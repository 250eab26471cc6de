"""Readers of formats that store one array behind a header: npy, a member of npz, idx (.gz or not)."""

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from model.data import Array
from model.datasets.base import Dataset, canonical, sample_shape
from model.errors import DataError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LABELS = frozenset({"y", "label", "labels"})
Opener = Callable[[], io.BufferedIOBase]
#: Shape, dtype, and True for Fortran order. A header reader leaves the file at the first value.
Header = tuple[tuple[int, ...], np.dtype[Any], bool]
ReadHeader = Callable[[io.BufferedIOBase], Header]
Labels = NDArray[np.int64]


def parse_npy_header(file: io.BufferedIOBase) -> Header:
    """Parse the header of an npy file, whatever its type. Raise `DataError` if it is not one."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # numpy's parser raises any exception of its tokenizer
        raise DataError(f"not an npy file: {error!s:.200}") from error
    if any(isinstance(size, bool) for size in shape):
        raise DataError("not an npy file: its shape contains a boolean")
    return shape, dtype, fortran


def read_npy_header(file: io.BufferedIOBase) -> Header:
    """Parse the header of an npy file of plain values. Raise `DataError` if it holds objects."""
    shape, dtype, fortran = parse_npy_header(file)
    if dtype.hasobject:
        raise DataError("holds pickled Python objects, which are never read; save plain numbers instead")
    return shape, dtype, fortran


def read_idx_header(file: io.BufferedIOBase) -> Header:
    """Read the header of an idx file (the format of MNIST)."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or magic[3] == 0:
        raise DataError("not an idx file: its first four bytes are not those of one")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError("ends inside its header")
    return struct.unpack(f">{magic[3]}I", sizes), np.dtype(IDX_TYPES[magic[2]]), False


class Reading:
    """Context manager of an open source. It turns read errors into `DataError`s that name the source."""

    def __init__(self, source: str, opener: Opener) -> None:
        self.source = source
        try:
            self.file = opener()
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{source}: cannot be opened: {error}") from error

    def __enter__(self) -> io.BufferedIOBase:
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, DataError) and not str(error).startswith(self.source):
            raise DataError(f"{self.source}: {error}") from error
        if isinstance(error, (MemoryError, OverflowError)):
            raise DataError(f"{self.source}: announces more than memory holds") from error
        if isinstance(error, (EOFError, OSError, zlib.error, zipfile.BadZipFile)):
            raise DataError(f"{self.source}: cannot be read, truncated or damaged: {error}") from error


class ArrayFile(Dataset):
    """One array, streamed. `columns` names the columns of vectors if their number matches."""

    def __init__(
        self,
        source: str,
        opener: Opener,
        header: ReadHeader,
        columns: tuple[str, ...] = (),
        labels: Labels | None = None,
        label_names: tuple[str, ...] | None = None,
    ) -> None:
        self.source = source
        self._opener = opener
        self._header = header
        self._labels = labels
        self._label_names = None if labels is None else label_names
        with Reading(source, opener) as file:
            shape, self.dtype, fortran = header(file)
        if fortran and len(shape) > 1:
            raise DataError(f"{source}: stored column by column; save it with numpy.ascontiguousarray first")
        if not shape or min(shape) < 0:
            raise DataError(f"{source}: its shape is {shape}, not that of an array of samples")
        self.count, self.raw_shape = shape[0], tuple(shape[1:])
        self.shape = sample_shape(self.raw_shape, source)
        if labels is not None and len(labels) != self.count:
            raise DataError(f"{source}: has {self.count:,} samples, but {len(labels):,} labels")
        if len(self.shape) == 1:
            fits = len(columns) == self.shape[0]
            self.columns = columns if fits else tuple(f"x{i}" for i in range(self.shape[0]))

    def __len__(self) -> int:
        return self.count

    def batches(self, rows: int) -> Iterator[Array]:
        size = math.prod(self.raw_shape) * self.dtype.itemsize
        with Reading(self.source, self._opener) as file:
            self._header(file)
            for start in range(0, self.count, rows):
                count = min(rows, self.count - start)
                data = file.read(count * size)
                if len(data) < count * size:
                    raise DataError(f"ends inside sample {start + len(data) // size} of {self.count}")
                raw = np.frombuffer(data, self.dtype).reshape(count, *self.raw_shape)
                yield canonical(raw, self.shape, self.source, start)
            # Reading to the end also makes gzip and zip verify their checksums.
            if file.read(1):
                raise DataError(f"goes on after the {self.count:,} samples that its header announces")

    def labels(self) -> Labels | None:
        return self._labels

    def label_names(self) -> tuple[str, ...] | None:
        return self._label_names


def open_npy(path: Path, columns: tuple[str, ...]) -> ArrayFile:
    """Open an array written by numpy.save."""
    return ArrayFile(str(path), _file_opener(path), read_npy_header, columns)


def open_npz(path: Path, member: str, columns: tuple[str, ...]) -> ArrayFile:
    """Open one array of an archive written by numpy.savez: the named one, or the only one that is not labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{path}: not an npz file: {error}") from error
    arrays = [name for name in names if name not in LABELS]
    if member and member not in names:
        raise DataError(f"{path}: there is no array '{member}' in it; it has {', '.join(names)}")
    if not member and len(arrays) != 1:
        raise DataError(f"{path}: holds the arrays {', '.join(names) or '(none)'}; choose one, as in {path}:NAME")
    labels = None
    if not member and (label_arrays := sorted(LABELS & set(names))):
        name = label_arrays[0]
        labels = _read_labels(f"{path}:{name}", _member_opener(path, name), read_npy_header)
    chosen = member or arrays[0]
    return ArrayFile(f"{path}:{chosen}", _member_opener(path, chosen), read_npy_header, columns, labels)


def open_idx(path: Path, source: str | None = None, label_names: tuple[str, ...] | None = None) -> ArrayFile:
    """Open an idx file. Labels come from the `labels-idx1` file beside an `images-idx3` file, if there is one."""
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    labels = None
    if beside != path and beside.exists():
        labels = _read_labels(str(beside), _file_opener(beside), read_idx_header)
    return ArrayFile(source or str(path), _file_opener(path), read_idx_header, labels=labels, label_names=label_names)


def _read_labels(source: str, opener: Opener, header: ReadHeader) -> Labels | None:
    with Reading(source, opener) as file:
        shape, dtype, _ = header(file)
        if len(shape) != 1 or dtype.kind not in "iu":
            return None
        data = file.read(shape[0] * dtype.itemsize)
        if len(data) < shape[0] * dtype.itemsize:
            raise DataError(f"ends inside label {len(data) // dtype.itemsize} of {shape[0]}")
        return np.frombuffer(data, dtype).astype(np.int64)


def _file_opener(path: Path) -> Opener:
    return lambda: gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _member_opener(path: Path, name: str) -> Opener:
    def opener() -> io.BufferedIOBase:
        # The member keeps the file open by itself; the archive object can be closed.
        with zipfile.ZipFile(path) as archive:
            return cast("io.BufferedIOBase", archive.open(f"{name}.npy"))

    return opener
