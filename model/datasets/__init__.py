"""Readers of data on disk: files by the suffixes of `READERS`, folders of images, and `fashion-mnist` by name.

`Dataset.batches` streams, so that scoring needs the memory of one batch. Samples have the model's order of axes: images
are batch x channels x height x width, uint8 or float32 in [0, 1]; vectors are batch x columns, float32 in their own
units. To add a format, write a function that opens a `Source` as a `Dataset`, and add a row to `READERS`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data import Data, ImageData, VectorData
from model.datasets.arrays import open_idx, open_npy, open_npz
from model.datasets.base import Dataset, Subset
from model.datasets.folders import ImageFolder
from model.datasets.tables import CsvFile
from model.errors import DataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
#: Names of its labels 0 to 9.
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

__all__ = ["Dataset", "Subset", "open_dataset"]


@dataclass(frozen=True)
class Source:
    """A file to open: an array of an archive, or the columns of a table that samples must have or must leave out.

    `label` is the column of a table that holds the labels of the samples.
    """

    path: Path
    member: str
    columns: tuple[str, ...]
    exclude: Sequence[str]
    label: str | None = None


#: Reader of a file by its suffix. Files of MNIST's format have no suffix of their own: `idx` is part of their name.
READERS: dict[str, Callable[[Source], Dataset]] = {
    ".csv": lambda source: CsvFile(source.path, source.columns, source.exclude, source.label),
    ".npy": lambda source: open_npy(source.path, source.columns),
    ".npz": lambda source: open_npz(source.path, source.member, source.columns),
    "idx": lambda source: open_idx(source.path),
}


def open_dataset(
    source: str, like: Data | None = None, *, exclude: Sequence[str] = (), label: str | None = None
) -> Dataset:
    """Open a dataset: a known name, a file by its suffix, or a folder of images.

    Known are `fashion-mnist` and `fashion-mnist:test`. `file.npz:array` chooses an array. Images of a folder are made
    the size of `like`; columns of a csv are chosen by its names. `exclude` lists columns of a csv to leave out, and
    `label` is the one with the labels of its samples.

    Raises:
        DataError: the source does not exist, has no known format, or does not fit `like`.
    """
    if not source.strip():
        raise DataError("the name of the data is empty; give a path, or fashion-mnist")
    if source.partition(":")[0] == "fashion-mnist":
        dataset: Dataset = _fashion_mnist(source)
    else:
        dataset = _open_path(source, like, exclude, label)
    if label is not None and not isinstance(dataset, CsvFile):
        raise DataError(f"{source}: is no csv file, so it has no column '{label}'; leave --label out")
    if like is not None and dataset.shape != like.shape:
        raise DataError(f"{dataset.describe()}, but this model takes {like.describe()}")
    return dataset


def _open_path(source: str, like: Data | None, exclude: Sequence[str], label: str | None) -> Dataset:
    name, _, member = source.partition(":") if ".npz:" in source else (source, "", "")
    path = Path(name)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; data by name: fashion-mnist, fashion-mnist:test")
    if path.is_dir():
        return ImageFolder(path, like if isinstance(like, ImageData) else None)
    reader = READERS.get(path.suffix) or (READERS["idx"] if "idx" in path.name else None)
    if reader is None:
        raise DataError(f"{path}: no known format; use {', '.join(READERS)}, or a folder of images")
    return reader(Source(path, member, like.columns if isinstance(like, VectorData) else (), exclude, label))


def _fashion_mnist(source: str) -> Dataset:
    split = source.partition(":")[2] or "train"
    stems = {"train": "train", "test": "t10k"}
    if split not in stems:
        raise DataError(f"{source}: there is no such split; use fashion-mnist or fashion-mnist:test")
    own = os.environ.get("VAE_DATA")
    folders = [*([Path(own) / "fashion-mnist", Path(own)] if own else []), FASHION_MNIST]
    for folder in folders:
        path = folder / f"{stems[split]}-images-idx3-ubyte.gz"
        if path.exists():
            return open_idx(path, source, GARMENTS)
    raise DataError(
        f"{source}: not found in {', '.join(str(folder) for folder in folders)}. On Debian or Ubuntu run "
        "`apt-get install dataset-fashion-mnist`; elsewhere put the four idx.gz files into a folder and set "
        "VAE_DATA to it"
    )
