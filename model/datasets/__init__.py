"""Data on disk -> samples, read in batches: idx, npy, npz, a folder of images, csv, and `fashion-mnist` by name.

`open_dataset` looks only at what is needed to know the shape; `Dataset.batches` then streams, so that scoring needs
the memory of one batch. Samples come out as the model takes them: images as batch x channels x height x width, uint8
or float32 in [0, 1]; vectors as batch x columns, float32 in their own units.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from model.config import ImageData, VectorData
from model.datasets.arrays import open_idx, open_npy, open_npz
from model.datasets.base import Dataset, Subset
from model.datasets.folders import ImageFolder
from model.datasets.tables import CsvFile
from model.errors import DataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
#: What its labels 0 to 9 are.
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

__all__ = ["Dataset", "Subset", "open_dataset"]


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
    if not source.strip():
        raise DataError("the name of the data is empty; give a path, or fashion-mnist")
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
        return open_npy(path, _columns_of(like))
    if path.suffix == ".npz":
        return open_npz(path, member, _columns_of(like))
    if "idx" in path.name:
        return open_idx(path)
    raise DataError(f"{path}: not a kind that can be read; use idx(.gz), .npy, .npz, .csv, or a folder of images")


def _columns_of(like: ImageData | VectorData | None) -> tuple[str, ...]:
    return like.columns if isinstance(like, VectorData) else ()


def _fashion_mnist(source: str) -> Dataset:
    split = source.partition(":")[2] or "train"
    stems = {"train": "train", "test": "t10k"}
    if split not in stems:
        raise DataError(f"{source}: there is no such part; use fashion-mnist or fashion-mnist:test")
    own = os.environ.get("VAE_DATA")
    places = [*([Path(own) / "fashion-mnist", Path(own)] if own else []), FASHION_MNIST]
    for place in places:
        path = place / f"{stems[split]}-images-idx3-ubyte.gz"
        if path.exists():
            return open_idx(path, source, GARMENTS)
    raise DataError(
        f"{source}: not found in {', '.join(str(place) for place in places)}. On Debian or Ubuntu run `apt-get install "
        "dataset-fashion-mnist`; elsewhere put the four idx.gz files into a folder and set VAE_DATA to it"
    )
