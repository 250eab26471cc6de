"""Specification of the rows that a call takes, and the checks of their values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.codecs.errors import Invalid, TooLarge
from model.config import ImageData, VectorData
from model.images import MAX_DEPTH

Floats = NDArray[np.float32]
#: Largest distance of an input from the mean, in standard deviations. Values beyond overflow float32 inside the model.
MAX_STANDARD_DEVIATIONS = 1e9
#: Largest absolute value of a latent. Beyond, its density under the prior underflows to 0 and deep decoders overflow.
MAX_ABS_LATENT = 1e6


@dataclass(frozen=True, eq=False)
class InputSpec:
    """Specification of the rows that a call takes."""

    name: str  # key of the rows in JSON, name of the parts in multipart
    shape: tuple[int, ...]  # of one row in the clients' layout
    low: Floats  # smallest value, broadcast against `shape`
    high: Floats  # largest value, broadcast against `shape`
    max_rows: int  # largest number of rows, and of multipart parts, in one request
    max_pixels: int  # largest number of pixels of all encoded images in one request, before resizing
    image: ImageData | None = None  # size and mode that images are converted to; None: the call takes no images
    strict: bool = False  # reject images of another size or mode instead of converting them
    depth: int = MAX_DEPTH  # significant bits of 16-bit grey images

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Accepted shapes of a row: `shape`, and for grey images also `shape` with a last axis of 1."""
        grey = self.image is not None and self.image.channels == 1
        return (self.shape, (*self.shape, 1)) if grey else (self.shape,)

    def describe(self) -> str:
        """Shape of an array of rows in words, as in `rows x 28 x 28 (height x width)`."""
        axes = " x ".join(str(n) for n in self.shape)
        return f"rows x {axes}" + (" (height x width)" if len(self.shape) == 2 else "")

    def check_count(self, rows: int) -> None:
        """Raise `Invalid` if there are no rows, and `TooLarge` if there are more than `max_rows`."""
        if rows == 0:
            raise Invalid.at(self.name, "empty; send at least one row")
        if rows > self.max_rows:
            raise TooLarge(f"{self.name}: {rows:,} rows exceed the limit of {self.max_rows:,} per request; send fewer")

    def check(self, values: NDArray[Any], integers_are_bytes: bool) -> Floats:
        """Check the range of an array, rows x one of `shapes`, and convert it to the model's layout.

        Args:
            integers_are_bytes: for images, `values` are integers from 0 to 255 instead of numbers from 0 to 1.

        Returns:
            float32 array: n x channels x height x width for images, rows x `shape` otherwise.

        Raises:
            Invalid: a value is out of range or not finite; the error names its place.
        """
        if integers_are_bytes and self.image is not None:
            if values.dtype != np.uint8:  # which is in range whatever its values
                self._check_range(values, np.asarray(0), np.asarray(255))
            floats = values.astype(np.float32) / np.float32(255)
        else:
            self._check_range(values, self.low, self.high)
            floats = values if values.dtype == np.float32 else values.astype(np.float32)
        return floats if self.image is None else self.image.to_model(floats.reshape(-1, *self.shape))

    def _check_range(self, values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> None:
        bad = _out_of_range(values, low, high)
        if bad is not None:
            with np.errstate(over="ignore"):
                bad = _out_of_range(values.astype(np.float32), low, high)  # rounding may bring a value into range
        if bad is not None:
            index = tuple(np.argwhere(bad)[0])
            lowest, highest = (float(np.broadcast_to(bound, values.shape)[index]) for bound in (low, high))
            place = self.name + "".join(f"[{i}]" for i in index)
            raise Invalid.at(place, f"{values[index]:g} is out of range; send a number from {lowest:g} to {highest:g}")


def _out_of_range(values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Mask of the values outside [low, high], including NaN; None if there are none."""
    if low.ndim == high.ndim == 0:
        # argmin and argmax return the position of NaN if there is one. They take a third of the time of the comparison.
        flat = values.reshape(-1)
        if flat[flat.argmin()] >= low and flat[flat.argmax()] <= high:
            return None
    # Comparisons with NaN are false, so NaN counts as out of range.
    good = np.greater_equal(values, low) & np.less_equal(values, high)
    return None if np.count_nonzero(good) == good.size else ~good


def input_spec(
    data: ImageData | VectorData, *, max_rows: int, max_pixels: int, strict: bool = False, depth: int = MAX_DEPTH
) -> InputSpec:
    """Specification of x: [0, 1] for images, a wide range around the mean of each column for vectors."""
    if isinstance(data, ImageData):
        low, high = np.zeros((), np.float32), np.ones((), np.float32)
        return InputSpec("inputs", data.public_shape, low, high, max_rows, max_pixels, data, strict, depth)
    mean, reach = np.array(data.mean), MAX_STANDARD_DEVIATIONS * np.array(data.std)
    limit = float(np.finfo(np.float32).max)
    low32, high32 = (np.clip(bound, -limit, limit).astype(np.float32) for bound in (mean - reach, mean + reach))
    return InputSpec("inputs", data.public_shape, low32, high32, max_rows, max_pixels)


def latent_spec(latent: int, *, max_rows: int) -> InputSpec:
    """Specification of z for a model with this number of latent dimensions."""
    bound = np.asarray(np.float32(MAX_ABS_LATENT))
    return InputSpec("latents", (latent,), -bound, bound, max_rows, max_pixels=0)
