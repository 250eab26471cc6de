"""Data with structure, small enough to train on in a second."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import random
from model.datasets import Dataset

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Memory(Dataset):
    """A dataset in memory, in the layout of the model."""

    def __init__(self, samples: Array, labels: Sequence[int] | None = None, source: str = "memory") -> None:
        self.source = source
        self.samples = samples
        self.shape = samples.shape[1:]
        self.columns = tuple(f"c{i}" for i in range(samples.shape[1])) if samples.ndim == 2 else ()
        self.classes = None if labels is None else np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, rows: int) -> Iterator[Array]:
        for start in range(0, len(self.samples), rows):
            yield self.samples[start : start + rows]

    def labels(self) -> NDArray[np.int64] | None:
        return self.classes


def stripes(count: int, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> NDArray[np.uint8]:
    """Images, n x shape, of one soft bright stripe of random place and brightness."""
    generator = np.random.default_rng(seed)
    place, bright = generator.uniform(0, shape[2], (count, 1, 1, 1)), generator.uniform(80, 240, (count, 1, 1, 1))
    distance = np.arange(shape[2]) - place
    clean = np.broadcast_to(bright * np.exp(-np.square(distance)), (count, *shape))
    return np.clip(clean + generator.normal(0, 3, clean.shape), 0, 255).round().astype(np.uint8)


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows of three columns in different units: functions of one hidden number plus noise."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(count, 1))
    clean = np.hstack([40 + 10 * hidden, 1.7 - 0.1 * hidden, 70 + 12 * np.tanh(hidden)])
    return (clean + generator.normal(size=clean.shape) * [1.0, 0.01, 1.2]).astype(np.float32)


def squares(count: int = 80) -> np.ndarray[Any, Any]:
    """Bright squares on dark ground, 8x8."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 20, (count, 8, 8), np.uint8)
    for image, (row, column) in zip(images, generator.integers(0, 5, (count, 2)), strict=True):
        image[row : row + 3, column : column + 3] += 200
    return images


def grid(count: int) -> NDArray[np.float32]:
    """Midpoints of `count` equal parts of (0, 1)."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def uniforms(draws: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return random.uniform(0, range(draws), shape)


def saved_array(path: Path, array: Array) -> Path:
    np.save(path, array)
    return path
