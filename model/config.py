"""Configuration of a model: data, networks, latent, prior, likelihood. It alone decides the shapes of the weights."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from model.data import Data, Frozen, ImageData, Positive, VectorData
from model.errors import ConfigError, explain
from model.likelihoods import Likelihood
from model.prior import PriorConfig, StandardPriorConfig

__all__ = ["ConvNetwork", "Frozen", "ImageData", "Likelihood", "MLPNetwork", "ModelConfig", "Network", "VectorData"]


class MLPNetwork(Frozen):
    """Fully connected layers of the widths `hidden` from the data inwards, mirrored in the decoder.

    Without hidden layers both networks are linear, which with Gaussian noise is probabilistic PCA.
    """

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Positive, ...], Field(max_length=16)] = (512, 256)


class ConvNetwork(Frozen):
    """Residual 3x3 convolutions; each stage halves height and width before its blocks."""

    name: Literal["conv"] = "conv"
    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (32, 64)
    blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1)] = (1, 2)

    @model_validator(mode="after")
    def _require_equal_lengths(self) -> "ConvNetwork":
        if len(self.channels) != len(self.blocks):
            raise ValueError("channels and blocks must have one entry each per stage")
        return self


Network = Annotated[MLPNetwork | ConvNetwork, Field(discriminator="name")]


class ModelConfig(Frozen):
    """Everything that decides the architecture of a VAE and the shapes of its weights.

    Format 1, which has no prior, is read as format 2 with the standard prior.
    """

    format: Literal[2] = 2
    data: Data
    network: Network
    latent: Positive = 32
    prior: PriorConfig = StandardPriorConfig()
    likelihood: Likelihood

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("format") == 1 and "prior" not in values:
            return {**values, "format": 2}
        return values

    @model_validator(mode="after")
    def _require_compatible(self) -> "ModelConfig":
        if self.network.name == "conv" and self.data.kind != "image":
            raise ValueError("network: 'conv' is for images; use 'mlp' for vectors")
        if self.prior.name == "flow" and self.latent == 1:
            raise ValueError("prior: 'flow' is for latents of two dimensions and more; use 'standard'")
        self.likelihood.require_data(self.data)
        return self

    @classmethod
    def build(cls, **values: Any) -> "ModelConfig":
        """Validate plain values. Raise `ConfigError` that names an invalid key or value."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(error)) from error
