"""What the rows of a request must be."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.problems import Invalid, TooLarge
from model.config import ImageData, VectorData

Floats = NDArray[np.float32]
#: Rows further from the mean than this many standard deviations overflow float32 inside the model.
FAR = 1e9
#: Latents larger than this have no probability left under the prior, and overflow inside deep decoders.
LARGEST_LATENT = 1e6


@dataclass(frozen=True, eq=False)
class Expect:
    """The rows that a call takes.

    `shape` is that of one row as a client writes it; `low` and `high` broadcast against it. For images, `image` says
    what pictures are converted to, and integer arrays are bytes.
    """

    name: str
    shape: tuple[int, ...]
    low: Floats
    high: Floats
    max_rows: int
    max_pixels: int
    image: ImageData | None = None
    strict: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row that are read; grey images may come with a last axis of 1."""
        grey = self.image is not None and self.image.channels == 1
        return (self.shape, (*self.shape, 1)) if grey else (self.shape,)

    def say(self) -> str:
        """The shape of an array of rows, in words."""
        axes = " x ".join(str(n) for n in self.shape)
        return f"rows x {axes}" + (" (height x width)" if len(self.shape) == 2 else "")

    def count(self, rows: int) -> None:
        """Refuse no rows, and too many."""
        if rows == 0:
            raise Invalid.at(self.name, "is empty; send at least one row")
        if rows > self.max_rows:
            raise TooLarge(f"{self.name}: {rows:,} rows are more than the {self.max_rows:,} that one request may have")

    def check(self, values: NDArray[Any], integers_are_bytes: bool) -> Floats:
        """Rows x shape of any number type -> float32 rows as the model takes them, or the place of a bad value."""
        if integers_are_bytes and self.image is not None:
            self._in_range(values, values, np.asarray(0), np.asarray(255))
            floats = values.astype(np.float32) / np.float32(255)
        else:
            if values.dtype == np.float32:
                floats = values
            elif _outside(values, self.low, self.high) is None:
                return self._inside(values.astype(np.float32))
            else:
                floats = _to_float32(values)  # by which some may come to lie inside
            self._in_range(values, floats, self.low, self.high)
        return self._inside(floats)

    def _in_range(self, given: NDArray[Any], values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> None:
        bad = _outside(values, low, high)
        if bad is not None:
            place = tuple(np.argwhere(bad)[0])
            lowest, highest = (float(np.broadcast_to(edge, values.shape)[place]) for edge in (low, high))
            where = self.name + "".join(f"[{i}]" for i in place)
            raise Invalid.at(where, f"is {given[place]:g}; it must be a number from {lowest:g} to {highest:g}")

    def _inside(self, floats: Floats) -> Floats:
        """As a client orders the axes -> as the model does: channels before height and width."""
        if self.image is None:
            return floats
        if self.image.channels == 1:
            return floats.reshape(-1, *self.image.shape)
        return np.ascontiguousarray(floats.transpose(0, 3, 1, 2))


def _outside(values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which values are not from low to high; None where all are."""
    if low.ndim == high.ndim == 0:
        # Where there is NaN, these find it. They take a third of the time of comparing every value.
        flat = values.reshape(-1)
        if flat[flat.argmin()] >= low and flat[flat.argmax()] <= high:
            return None
    # NaN compares false with everything, so this finds it too.
    good = np.greater_equal(values, low) & np.less_equal(values, high)
    return None if np.count_nonzero(good) == good.size else ~good


def _to_float32(values: NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def expect_inputs(data: ImageData | VectorData, *, max_rows: int, max_pixels: int, strict: bool = False) -> Expect:
    """x for a model of these data."""
    if isinstance(data, ImageData):
        low, high = np.float32(0), np.float32(1)
        return Expect(
            "inputs", data.public_shape, np.asarray(low), np.asarray(high), max_rows, max_pixels, data, strict
        )
    mean, reach = np.array(data.mean), FAR * np.array(data.std)
    bound = float(np.finfo(np.float32).max)
    low32, high32 = (np.clip(edge, -bound, bound).astype(np.float32) for edge in (mean - reach, mean + reach))
    return Expect("inputs", data.public_shape, low32, high32, max_rows, max_pixels)


def expect_latents(latent: int, *, max_rows: int) -> Expect:
    """z for a model with this size of latent."""
    edge = np.asarray(np.float32(LARGEST_LATENT))
    return Expect("latents", (latent,), -edge, edge, max_rows, max_pixels=0)
