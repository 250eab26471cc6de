"""Descriptions of data: images of one size, or rows of named columns. Shapes and axis orders of samples."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Array = NDArray[Any]
Floats = NDArray[np.float64]
Positive = Annotated[int, Field(ge=1, le=1 << 16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Frozen(BaseModel):
    """An immutable value object. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageData(Frozen):
    """Images of one size: grey (`channels=1`) or RGB (`channels=3`), as floats in [0, 1]."""

    kind: Literal["image"] = "image"
    height: Annotated[int, Field(ge=4, le=1024)]
    width: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3] = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample inside the model: channels, height, width."""
        return (self.channels, self.height, self.width)

    @property
    def public_shape(self) -> tuple[int, ...]:
        """Shape of one sample outside the model: height, width, and for RGB a last axis of 3."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, 3)

    @property
    def dims(self) -> int:
        """Number of values in one sample."""
        return math.prod(self.shape)

    def to_public(self, x: Array) -> Array:
        """Reorder a batch from batch x channels x height x width to batch x `public_shape`, as a view."""
        return x[:, 0] if self.channels == 1 else x.transpose(0, 2, 3, 1)

    def to_model(self, x: Array) -> Array:
        """Reorder a batch from batch x `public_shape` to batch x `shape`, contiguous."""
        return np.ascontiguousarray(x[:, None] if self.channels == 1 else x.transpose(0, 3, 1, 2))

    def describe(self) -> str:
        """Size and mode in words, for messages."""
        return f"{self.height}x{self.width} {'grey' if self.channels == 1 else 'RGB'} images"


class VectorData(Frozen):
    """Rows of named numbers in their own units. `mean` and `std` standardize them for the networks."""

    kind: Literal["vector"] = "vector"
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=1 << 16)]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]

    @model_validator(mode="after")
    def _require_equal_lengths(self) -> "VectorData":
        if not len(self.columns) == len(self.mean) == len(self.std):
            raise ValueError("columns, mean and std must have one entry each per column")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: one number per column."""
        return (len(self.columns),)

    @property
    def public_shape(self) -> tuple[int, ...]:
        """Shape of one sample outside the model, equal to `shape`."""
        return self.shape

    @property
    def dims(self) -> int:
        """Number of columns."""
        return len(self.columns)

    def to_public(self, x: Array) -> Array:
        """Return the batch unchanged: vectors have one axis order."""
        return x

    def to_model(self, x: Array) -> Array:
        """Return the batch unchanged."""
        return x

    def describe(self) -> str:
        """Number of columns in words, for messages."""
        return f"vectors of {self.dims} columns"


Data = Annotated[ImageData | VectorData, Field(discriminator="kind")]
