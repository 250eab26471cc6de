"""What a model is: its data, its networks, the size of its latent, its likelihood.

Frozen values; an unknown key is an error. A checkpoint's `config.json` is a `ModelConfig`, and it alone
decides every shape in `model.safetensors`.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ConfigError

Positive = Annotated[int, Field(ge=1, le=1 << 16)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Frozen(BaseModel):
    """A value object: immutable, and strict about the names of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageData(Frozen):
    """Images of one size: grey (`channels=1`) or RGB (`channels=3`), as floats in [0, 1]."""

    kind: Literal["image"] = "image"
    height: Annotated[int, Field(ge=4, le=1024)]
    width: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3] = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample inside the model: channels, height, width."""
        return (self.channels, self.height, self.width)

    @property
    def public_shape(self) -> tuple[int, ...]:
        """The shape of one sample outside the model: height, width, and for RGB a last axis of 3."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, 3)

    @property
    def dims(self) -> int:
        return math.prod(self.shape)

    def describe(self) -> str:
        return f"{self.height}x{self.width} {'grey' if self.channels == 1 else 'RGB'} images"


class VectorData(Frozen):
    """Rows of named numbers in their own units, with the standardization that the networks see."""

    kind: Literal["vector"] = "vector"
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=1 << 16)]
    mean: tuple[Finite, ...]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]

    @model_validator(mode="after")
    def _one_of_each(self) -> "VectorData":
        if not len(self.columns) == len(self.mean) == len(self.std):
            raise ValueError("columns, mean and std must have one entry each per column")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: one number per column."""
        return (len(self.columns),)

    @property
    def public_shape(self) -> tuple[int, ...]:
        """The same outside the model."""
        return self.shape

    @property
    def dims(self) -> int:
        return len(self.columns)

    def describe(self) -> str:
        return f"vectors of {self.dims} columns"


Data = Annotated[ImageData | VectorData, Field(discriminator="kind")]


class MLPNetwork(Frozen):
    """Fully connected layers: `hidden` from the data inwards; the decoder mirrors it. Without any, both are linear,
    which with Gaussian noise is probabilistic PCA.
    """

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Positive, ...], Field(max_length=16)] = (512, 256)


class ConvNetwork(Frozen):
    """Residual 3x3 convolutions; each stage halves height and width before its blocks."""

    name: Literal["conv"] = "conv"
    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (32, 64)
    blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1)] = (1, 2)

    @model_validator(mode="after")
    def _one_of_each(self) -> "ConvNetwork":
        if len(self.channels) != len(self.blocks):
            raise ValueError("channels and blocks must have one entry each per stage")
        return self


Network = Annotated[MLPNetwork | ConvNetwork, Field(discriminator="name")]


class GaussianLikelihood(Frozen):
    """Gaussian observation noise with a learned scale: a density.

    `scale` is one number for all dimensions (`shared`) or one each (`per_dimension`). `min_scale` is its floor, in
    the units that the networks see (pixels in [0, 1], standardized columns): without one, a column that can be
    predicted exactly sends the free energy to minus infinity.
    """

    name: Literal["gaussian"] = "gaussian"
    scale: Literal["shared", "per_dimension"] = "per_dimension"
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.01


class DiscretizedLikelihood(Frozen):
    """A mixture of logistic densities a pixel, integrated over the 256 bins of a byte: a probability.

    `min_scale` is the floor of each logistic's scale, in bytes. `uniform` is the weight of a uniform component,
    which bounds what one byte can cost at log2(256 / uniform) bits. With `autoregressive` the logistics of a byte move
    with what its neighbours before it turned out to be, so that texture need not be sent through the latent.
    """

    name: Literal["discretized"] = "discretized"
    components: Annotated[int, Field(ge=1, le=32)] = 3
    min_scale: Annotated[float, Field(ge=0.01, le=16)] = 0.1
    uniform: Annotated[float, Field(gt=0, lt=1)] = 2.0**-12
    autoregressive: bool = False


class BernoulliLikelihood(Frozen):
    """Independent bits, by their logits: a probability. Values are rounded to 0 or 1."""

    name: Literal["bernoulli"] = "bernoulli"


Likelihood = Annotated[GaussianLikelihood | DiscretizedLikelihood | BernoulliLikelihood, Field(discriminator="name")]


class ModelConfig(Frozen):
    """All that is needed to build a VAE; the weights are then only numbers."""

    format: Literal[1] = 1
    data: Data
    network: Network
    latent: Positive = 32
    likelihood: Likelihood

    @model_validator(mode="after")
    def _goes_together(self) -> "ModelConfig":
        image = self.data.kind == "image"
        if self.network.name == "conv" and not image:
            raise ValueError("network: 'conv' is for images; use 'mlp' for vectors")
        if self.likelihood.name == "discretized" and not image:
            raise ValueError("likelihood: 'discretized' is for 8-bit images; use 'gaussian' for vectors")
        return self

    @classmethod
    def build(cls, **values: Any) -> "ModelConfig":
        """A config from plain values, with a `ConfigError` that names the key and the value at fault."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """One line from a pydantic error: each key at fault, what is wrong with it, and the value that was given."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        given = "" if item["type"] in {"missing", "value_error"} else f" (given: {item['input']!r:.80})"
        parts.append((f"{key}: " if key else "") + item["msg"].removeprefix("Value error, ") + given)
    return "; ".join(parts)
