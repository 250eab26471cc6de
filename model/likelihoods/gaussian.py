"""Gaussian observation noise with a learned scale. The Gaussian distribution also serves as prior and as Q(z|x)."""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from model.data import Array, Data, ImageData, VectorData
from model.likelihoods.base import UNIFORM_STEP, Distribution, Head, LikelihoodConfig

LOG_2PI = math.log(2 * math.pi)


class GaussianLikelihood(LikelihoodConfig):
    """Gaussian observation noise with a learned scale: a density.

    `min_scale` is its floor, in the units that the networks see (pixels in [0, 1], standardized columns). Without it,
    a column that can be predicted exactly would send the free energy to minus infinity.
    """

    name: Literal["gaussian"] = "gaussian"
    scale: Literal["shared", "per_dimension"] = "per_dimension"
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.01

    @classmethod
    def default_for(cls, data: Data) -> "GaussianLikelihood":
        """One scale for all pixels of an image, one per column of a vector."""
        return cls(scale="shared" if isinstance(data, ImageData) else "per_dimension")

    @classmethod
    def is_default_for(cls, samples: Array) -> bool:
        return samples.dtype != np.uint8

    def head(self, data: Data) -> "GaussianHead":
        return GaussianHead(self, data)


class Gaussian(Distribution):
    """N(mean, scale^2), independent per dimension; mean and scale (a standard deviation) broadcast."""

    def __init__(self, mean: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"]) -> None:
        self._mean = mean
        self.scale = scale

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        return self._mean

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        """The squared scale, with the shape of the mean."""
        return self.scale.square().expand_as(self.mean)

    def nlog_prob(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """((x - mean) / scale)^2 / 2 + log scale + log(2 pi) / 2, in nats per dimension."""
        return 0.5 * ((x - self.mean) / self.scale).square() + self.scale.log() + 0.5 * LOG_2PI

    def draw(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """mean + scale * noise for standard normal noise: the reparameterization trick (Kingma & Welling 2014)."""
        return self.mean + self.scale * noise

    def sample(self, uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.draw(torch.special.ndtri(uniform.clamp(UNIFORM_STEP, 1 - UNIFORM_STEP)))

    def kl_to_normal(self) -> Float[Tensor, "*shape"]:
        """KL(this, N(0, 1)) = (mean^2 + scale^2 - 1) / 2 - log scale, in nats per dimension."""
        return 0.5 * (self.mean.square() + self.scale.square() - 1) - self.scale.log()

    def entropy(self) -> Float[Tensor, "*#shape"]:
        """log scale + log(2 pi e) / 2, in nats per dimension."""
        return self.scale.log() + 0.5 * (LOG_2PI + 1)


class GaussianHead(Head):
    """One number per dimension, the mean. The scale is a parameter of the head and does not depend on z."""

    params = 1

    def __init__(self, config: GaussianLikelihood, data: Data) -> None:
        super().__init__()
        shape = data.shape if config.scale == "per_dimension" else (1,) * len(data.shape)
        # softplus(-1.05) = 0.3: a start below the spread of the data, so that the latent is used from the first step.
        self.raw_scale = nn.Parameter(torch.full(shape, -1.05))
        self.min_scale = config.min_scale
        shift, unit = (data.mean, data.std) if isinstance(data, VectorData) else (0.0, 1.0)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.register_buffer("unit", torch.tensor(unit), persistent=False)
        self.shift: Tensor
        self.unit: Tensor

    def forward(self, raw: Float[Tensor, "batch 1 *data"]) -> Gaussian:
        scale = F.softplus(self.raw_scale) + self.min_scale
        return Gaussian(self.shift + self.unit * raw.squeeze(1), self.unit * scale)

    def scales_at_floor(self, p: Gaussian) -> float:
        return float((p.scale / self.unit < 1.1 * self.min_scale).float().mean())
