"""The prior P(z): the standard normal, or a flow of it that is fitted to the latents of the data.

A flow maps epsilon ~ N(0, I) to z by invertible steps, so that the density of z is exact:

    nlog P(z) = nlog N(epsilon; 0, I) - log |det d epsilon / d z|

The steps are affine couplings: one half of the dimensions is shifted and scaled by what a network makes of the other
half (Dinh et al. 2017, arXiv 1605.08803).
"""

import itertools
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from model import random
from model.data import Frozen, Positive
from model.likelihoods.gaussian import LOG_2PI, Gaussian

#: Bound of the log scale of one coupling: no step stretches a dimension by more than a factor of 20.
MAX_LOG_SCALE = 3.0


class StandardPriorConfig(Frozen):
    """z ~ N(0, I)."""

    name: Literal["standard"] = "standard"


class FlowPriorConfig(Frozen):
    """z is a flow of epsilon ~ N(0, I). `hidden` are the widths of the layers of the network in each coupling."""

    name: Literal["flow"] = "flow"
    couplings: Annotated[int, Field(ge=1, le=64)] = 8
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (384, 384, 384)


PriorConfig = Annotated[StandardPriorConfig | FlowPriorConfig, Field(discriminator="name")]


class Prior(nn.Module, ABC):
    """P(z), as a map from epsilon ~ N(0, I) to z and back."""

    #: True if `rate` is exact: the closed form of KL(Q, P(z)).
    analytic_rate: bool

    @abstractmethod
    def to_latent(self, epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """z of epsilon."""

    @abstractmethod
    def to_epsilon(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """epsilon of z: the inverse of `to_latent`."""

    @abstractmethod
    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        """nlog P(z), in nats, summed in float64."""

    @abstractmethod
    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        """KL(Q, P(z)) in nats: in closed form, or estimated at one draw z of Q by nlog P(z) - H(Q)."""


class StandardPrior(Prior):
    """N(0, I): z is epsilon."""

    analytic_rate = True

    def to_latent(self, epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return epsilon

    def to_epsilon(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return z

    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        return _nlog_normal(z)

    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        del z
        return q.kl_to_normal().sum(1)


class FlowPrior(Prior):
    """Affine couplings from z to epsilon, after each dimension is shifted and scaled."""

    analytic_rate = False

    def __init__(self, latent: int, config: FlowPriorConfig) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))
        self.steps = tuple(Coupling(latent, config, index) for index in range(config.couplings))
        self.couplings = nn.ModuleList(self.steps)

    def standardize(self, mean: Float[Tensor, "latent"], std: Float[Tensor, "latent"]) -> None:
        """Start from latents of this mean and standard deviation."""
        with torch.no_grad():
            self.shift.copy_(mean)
            self.log_scale.copy_(std.log())

    def to_latent(self, epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        z = epsilon
        for coupling in reversed(self.steps):
            z = coupling.to_latent(z)
        return z * self.log_scale.exp() + self.shift

    def to_epsilon(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return self._invert(z)[0]

    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        epsilon, log_determinant = self._invert(z)
        return _nlog_normal(epsilon) - log_determinant

    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        return self.nlog_prob(z) - q.entropy().sum(1, dtype=torch.float64)

    def _invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """epsilon of z, and log |det d epsilon / d z|, one per row, float64."""
        epsilon = (z - self.shift) * torch.exp(-self.log_scale)
        log_determinant = -self.log_scale.sum(dtype=torch.float64)
        for coupling in self.steps:
            epsilon, log_derivatives = coupling.to_epsilon(epsilon)
            log_determinant = log_determinant + log_derivatives.sum(1, dtype=torch.float64)
        return epsilon, log_determinant


class Coupling(nn.Module):
    """One step of a flow: one half of the dimensions is shifted and scaled by what a network makes of the other half.

    The halves are random, and follow from the index of the step. The step starts as the identity.
    """

    def __init__(self, latent: int, config: FlowPriorConfig, index: int) -> None:
        super().__init__()
        self.kept = latent // 2
        sizes = [self.kept, *config.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(sizes[-1], 2 * (latent - self.kept))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)
        order = _permutation(latent, index)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("original_order", torch.from_numpy(np.argsort(order)), persistent=False)
        self.order: Tensor
        self.original_order: Tensor

    def to_epsilon(self, z: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """The step from z towards epsilon, in another order; the logarithms of its derivatives, batch x moved half."""
        kept, moved = self._split(z[:, self.order])
        shift, log_scale = self._affine(kept)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1), -log_scale

    def to_latent(self, epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The inverse of `to_epsilon`."""
        kept, moved = self._split(epsilon)
        shift, log_scale = self._affine(kept)
        return torch.cat([kept, moved * torch.exp(log_scale) + shift], dim=1)[:, self.original_order]

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:, : self.kept], values[:, self.kept :]

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log scale of the other half."""
        shift, raw = self.network(kept).chunk(2, dim=1)
        return shift, MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)


def _permutation(latent: int, index: int) -> np.ndarray:
    """A random order of the dimensions, int64, from raw bits, which no version of numpy changes."""
    return np.argsort(random.generator(index, random.COUPLINGS).bit_generator.random_raw(latent), kind="stable")


def _nlog_normal(epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
    """nlog N(epsilon; 0, I), in nats, float64."""
    return (0.5 * epsilon.square() + 0.5 * LOG_2PI).sum(1, dtype=torch.float64)


def build_prior(latent: int, config: PriorConfig) -> Prior:
    """The prior of a configuration for latents of this size."""
    return FlowPrior(latent, config) if isinstance(config, FlowPriorConfig) else StandardPrior()
