"""Small samples in every supported file format."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.config import ImageData, VectorData
from model.datasets import arrays, open_dataset
from model.errors import DataError
from tests.support.data import saved_array

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
    """Read a dataset: None on success, else the name of the file if the error holds it, else the error message."""
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
