"""Reader of a folder of images."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from model.data import Array, ImageData
from model.datasets.base import Dataset
from model.errors import DataError, explain
from model.images import fit_image, upright_size

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class ImageFolder(Dataset):
    """Images in a folder and its subfolders, sorted by path, in the size and mode of `like` or of the first image."""

    def __init__(self, folder: Path, like: ImageData | None = None) -> None:
        self.source = str(folder)
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self.paths:
            raise DataError(f"{folder}: there are no images in it (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        self.data = like or _data_of(self.paths[0])
        self.shape = self.data.shape

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, rows: int) -> Iterator[Array]:
        for start in range(0, len(self.paths), rows):
            yield np.stack([self._read(path) for path in self.paths[start : start + rows]])

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                return fit_image(image, self.data)
        except Exception as error:  # decoders raise any exception on damaged bytes
            raise DataError(f"{path}: not an image that can be read: {error!s:.200}") from error

    def name_of(self, index: int) -> str:
        return str(self.paths[index])

    def labels(self) -> NDArray[np.int64] | None:
        labels = {folder: label for label, folder in enumerate(self._folders())}
        return np.array([labels[path.parent] for path in self.paths]) if len(labels) > 1 else None

    def label_names(self) -> tuple[str, ...] | None:
        folders = self._folders()
        if len(folders) <= 1:
            return None
        # A name may hold bytes that are not UTF-8, which JSON could not hold later.
        return tuple(os.fsencode(folder.relative_to(self.source)).decode(errors="replace") for folder in folders)

    def _folders(self) -> list[Path]:
        return sorted({path.parent for path in self.paths})


def _data_of(path: Path) -> ImageData:
    try:
        with Image.open(path) as image:
            grey = image.mode in {"1", "L", "LA"} or image.mode.startswith("I;16")
            width, height = upright_size(image)
            return ImageData(height=height, width=width, channels=1 if grey else 3)
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error)}; resize the images first") from error
    except Exception as error:
        raise DataError(f"{path}: not an image that can be read: {error!s:.200}") from error
