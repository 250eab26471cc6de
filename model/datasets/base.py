"""The interface of datasets, and the checks and conversions of their values."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.data import Array
from model.errors import DataError


class Dataset(ABC):
    """Samples of one shape from one source. `columns` names the columns of vectors; it is empty for images."""

    source: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples; a csv is read through once to count them."""

    @abstractmethod
    def batches(self, rows: int) -> Iterator[Array]:
        """Yield all samples in order, at most `rows` at a time. Raise `DataError` at an invalid value."""

    def labels(self) -> NDArray[np.int64] | None:
        """One label per sample, or None without labels. They are shown, and a prior can distinguish them."""
        return None

    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes, indexed by label, or None if unknown."""
        return None

    def name_of(self, index: int) -> str:
        """Name of a sample in reports: its index, or the path of its file."""
        return str(index)

    def load(self) -> Array:
        """Read all samples into memory. Raise `DataError` if there are none, or one is invalid."""
        parts = list(self.batches(4096))
        if not parts:
            raise DataError(f"{self.source}: there are no samples in it")
        return np.concatenate(parts)

    def describe(self) -> str:
        """Source, number and shape of the samples in words, for messages."""
        shape = "x".join(str(n) for n in self.shape)
        return f"{self.source}: {len(self):,} samples of {shape}"


class Subset(Dataset):
    """The samples of `whole` at `indices`, in memory. `which` is a word for reports, such as `held out`."""

    def __init__(self, whole: Dataset, indices: NDArray[np.int64], samples: Array, which: str) -> None:
        self.source = f"{whole.source} ({which})"
        self.shape, self.columns = whole.shape, whole.columns
        self.whole, self._indices, self._samples = whole, indices, samples

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, rows: int) -> Iterator[Array]:
        for start in range(0, len(self), rows):
            yield self._samples[start : start + rows]

    def labels(self) -> NDArray[np.int64] | None:
        labels = self.whole.labels()
        return None if labels is None else labels[self._indices]

    def label_names(self) -> tuple[str, ...] | None:
        return self.whole.label_names()

    def name_of(self, index: int) -> str:
        return self.whole.name_of(int(self._indices[index]))


def canonical(batch: Array, shape: tuple[int, ...], where: str, first: int) -> Array:
    """Convert stored values to samples of this shape, in the model's order of axes.

    Raise `DataError` at an invalid value; the message names `where` and its index, counted from `first`.
    """
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


def sample_shape(raw: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Shape of one sample inside the model, given its shape in a file.

    >>> sample_shape((28, 28, 3), "x.npy")
    (3, 28, 28)
    """
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
