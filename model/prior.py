"""The prior P(z): the standard normal, or a flow that is fitted to the latents of the data.

A flow maps u to z by invertible steps, so that the density of z is exact:

    nlog P(z) = nlog P(u) - log |det du / dz|

The steps are affine couplings: one half of the dimensions is shifted and scaled by what a network makes of the other
half (Dinh et al. 2017, arXiv 1605.08803).

The base u is epsilon ~ N(0, I). Where the data has labels, u is a flow of epsilon that depends on the label, by a few
small couplings, and P(z) is the mixture over labels. One pass of the large flow then serves every label, as it does
with a Gaussian for each label as the base (Izmailov et al. 2020, arXiv 1912.13025).
"""

import itertools
import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from model import random
from model.data import Frozen, Positive
from model.likelihoods.gaussian import LOG_2PI, Gaussian

#: Bound of the log scale of one coupling: no step stretches a dimension by more than a factor of 20.
MAX_LOG_SCALE = 3.0
#: Most labels that a prior distinguishes.
MAX_LABELS = 64
Labels = NDArray[np.int64]


class StandardPriorConfig(Frozen):
    """z ~ N(0, I)."""

    name: Literal["standard"] = "standard"


class Label(Frozen):
    """A class of the data. `probability` is its share of the training samples."""

    name: str
    probability: Annotated[float, Field(gt=0, lt=1)]


class FlowPriorConfig(Frozen):
    """z is a flow of a Gaussian, or of a small flow of one for each label.

    `hidden` are the widths of the layers of the network in each coupling. `label_couplings` and `label_hidden` are the
    number of couplings that depend on the label, and the width of their two layers.
    """

    name: Literal["flow"] = "flow"
    couplings: Annotated[int, Field(ge=1, le=64)] = 8
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (384, 384, 384)
    labels: Annotated[tuple[Label, ...], Field(max_length=MAX_LABELS)] = ()
    label_couplings: Annotated[int, Field(ge=1, le=64)] = 4
    label_hidden: Positive = 192

    @model_validator(mode="after")
    def _require_distribution(self) -> "FlowPriorConfig":
        if len({label.name for label in self.labels}) < len(self.labels):
            raise ValueError("two labels have the same name")
        if self.labels and abs(sum(label.probability for label in self.labels) - 1) > 1e-6:
            raise ValueError("the probabilities of the labels must add up to 1")
        return self


PriorConfig = Annotated[StandardPriorConfig | FlowPriorConfig, Field(discriminator="name")]


class Prior(nn.Module, ABC):
    """P(z), as a map from the base u to z and back."""

    #: True if `rate` is exact: the closed form of KL(Q, P(z)).
    analytic_rate: bool
    #: The classes that it distinguishes; empty without any.
    labels: tuple[Label, ...] = ()

    @abstractmethod
    def to_latent(self, u: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """z of u."""

    @abstractmethod
    def to_base(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """u of z: the inverse of `to_latent`."""

    @abstractmethod
    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        """nlog P(z), in nats, summed in float64."""

    @abstractmethod
    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        """KL(Q, P(z)) in nats: in closed form, or estimated at one draw z of Q by nlog P(z) - H(Q)."""

    def place(self, epsilon: Float[Tensor, "batch latent"], labels: Labels) -> Float[Tensor, "batch latent"]:
        """u of epsilon ~ N(0, I) and indices of labels, which mean nothing to a prior without labels."""
        del labels
        return epsilon

    def draw_labels(self, uniform: NDArray[np.floating]) -> Labels:
        """Indices of labels by their probabilities, from uniform numbers in [0, 1); 0 without labels."""
        edges = np.cumsum([label.probability for label in self.labels])[:-1]
        return np.searchsorted(edges, uniform, side="right").astype(np.int64)


class StandardPrior(Prior):
    """N(0, I): z is epsilon."""

    analytic_rate = True

    def to_latent(self, u: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return u

    def to_base(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return z

    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        return _nlog_normal(z)

    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        del z
        return q.kl_to_normal().sum(1)


class FlowPrior(Prior):
    """Affine couplings from z to u, after each dimension is shifted and scaled."""

    analytic_rate = False

    def __init__(self, latent: int, config: FlowPriorConfig) -> None:
        super().__init__()
        self.labels = config.labels
        self.base = LabelBase(latent, config) if config.labels else None
        self.shift = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))
        self.steps = tuple(Coupling(latent, config, index) for index in range(config.couplings))
        self.couplings = nn.ModuleList(self.steps)

    def standardize(self, mean: Float[Tensor, "latent"], std: Float[Tensor, "latent"]) -> None:
        """Start from latents of this mean and standard deviation."""
        with torch.no_grad():
            self.shift.copy_(mean)
            self.log_scale.copy_(std.log())

    def to_latent(self, u: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        z = u
        for coupling in reversed(self.steps):
            z = coupling.to_latent(z)
        return z * self.log_scale.exp() + self.shift

    def to_base(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        return self._invert(z)[0]

    def nlog_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        if self.base is not None:
            return self.base.mix(self.nlog_prob_given(z))
        u, log_determinant = self._invert(z)
        return _nlog_normal(u) - log_determinant

    def nlog_prob_given(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch labels"]:
        """nlog P(z|label) for every label, in nats, summed in float64. The prior must have labels."""
        assert self.base is not None
        u, log_determinant = self._invert(z)
        return self.base.nlog_prob_given(u) - log_determinant[:, None]

    def rate(self, q: Gaussian, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
        return self.nlog_prob(z) - q.entropy().sum(1, dtype=torch.float64)

    def place(self, epsilon: Float[Tensor, "batch latent"], labels: Labels) -> Float[Tensor, "batch latent"]:
        return epsilon if self.base is None else self.base.place(epsilon, labels)

    def _invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u of z, and log |det du / dz|, one per row, float64."""
        u = (z - self.shift) * torch.exp(-self.log_scale)
        log_determinant = -self.log_scale.sum(dtype=torch.float64)
        for coupling in self.steps:
            u, log_derivatives = coupling.to_base(u)
            log_determinant = log_determinant + log_derivatives.sum(1, dtype=torch.float64)
        return u, log_determinant


class LabelBase(nn.Module):
    """P(u|label): couplings that depend on the label, from u to a Gaussian of each label; and their mixture."""

    def __init__(self, latent: int, config: FlowPriorConfig) -> None:
        super().__init__()
        count = len(config.labels)
        self.mean = nn.Parameter(torch.zeros(count, latent))
        self.log_scale = nn.Parameter(torch.zeros(count, latent))
        self.steps = tuple(LabelCoupling(latent, config, index) for index in range(config.label_couplings))
        self.couplings = nn.ModuleList(self.steps)
        nlog = [-math.log(label.probability) for label in config.labels]
        self.register_buffer("nlog_label", torch.tensor(nlog, dtype=torch.float64), persistent=False)
        self.nlog_label: Tensor

    def nlog_prob_given(self, u: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch labels"]:
        """nlog P(u|label) for every label, in nats, summed in float64."""
        given = u[:, None].expand(-1, len(self.mean), -1)
        labels = torch.arange(len(self.mean), device=u.device)
        log_determinant = torch.zeros((), dtype=torch.float64, device=u.device)
        for coupling in self.steps:
            given, log_derivatives = coupling.to_base(given, labels)
            log_determinant = log_determinant + log_derivatives.sum(2, dtype=torch.float64)
        epsilon = (given - self.mean) * torch.exp(-self.log_scale)
        nlog = 0.5 * epsilon.square() + self.log_scale + 0.5 * LOG_2PI
        return nlog.sum(2, dtype=torch.float64) - log_determinant

    def mix(self, given: Float[Tensor, "batch labels"]) -> Float[Tensor, "batch"]:
        """nlog P of the mixture, from nlog P under each label, in nats."""
        return -torch.logsumexp(-given - self.nlog_label, dim=1)

    def place(self, epsilon: Float[Tensor, "batch latent"], labels: Labels) -> Float[Tensor, "batch latent"]:
        """u of epsilon and a label for each row."""
        picks = torch.from_numpy(labels).to(epsilon.device)
        u = self.mean[picks] + torch.exp(self.log_scale[picks]) * epsilon
        for coupling in reversed(self.steps):
            u = coupling.to_latent(u, picks)
        return u


class Halves(nn.Module):
    """A random order of the dimensions, which follows from the index of a step, and its two halves."""

    def __init__(self, latent: int, index: int) -> None:
        super().__init__()
        self.kept = latent // 2
        self.moved = latent - self.kept
        order = _permutation(latent, index)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("original_order", torch.from_numpy(np.argsort(order)), persistent=False)
        self.order: Tensor
        self.original_order: Tensor

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The kept and the moved half of values in the order of the step."""
        return values[..., : self.kept], values[..., self.kept :]


class Coupling(Halves):
    """One step of a flow: one half of the dimensions is shifted and scaled by what a network makes of the other half.

    The step starts as the identity.
    """

    def __init__(self, latent: int, config: FlowPriorConfig, index: int) -> None:
        super().__init__(latent, index)
        sizes = [self.kept, *config.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.network = nn.Sequential(*layers, _zeros(nn.Linear(sizes[-1], 2 * self.moved)))

    def to_base(self, z: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """The step from z towards u, in another order; the logarithms of its derivatives, batch x moved half."""
        kept, moved = self.split(z[:, self.order])
        shift, log_scale = _affine(self.network(kept))
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1), -log_scale

    def to_latent(self, u: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The inverse of `to_base`."""
        kept, moved = self.split(u)
        shift, log_scale = _affine(self.network(kept))
        return torch.cat([kept, moved * torch.exp(log_scale) + shift], dim=1)[:, self.original_order]


class LabelCoupling(Halves):
    """A coupling that depends on a label, by what it adds to the first and to the last layer of the network."""

    def __init__(self, latent: int, config: FlowPriorConfig, index: int) -> None:
        super().__init__(latent, config.couplings + index)
        count, width = len(config.labels), config.label_hidden
        self.first, self.second = nn.Linear(self.kept, width), nn.Linear(width, width)
        self.last = _zeros(nn.Linear(width, 2 * self.moved))
        self.embedding = nn.Parameter(torch.randn(count, width))
        self.bias = nn.Parameter(torch.zeros(count, 2 * self.moved))

    def to_base(self, u: Float[Tensor, "batch *labels latent"], labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Coupling.to_base`, for the label of each row, or of each entry of the second dimension."""
        kept, moved = self.split(u[..., self.order])
        shift, log_scale = self._of(kept, labels)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=-1), -log_scale

    def to_latent(self, u: Float[Tensor, "batch latent"], labels: Tensor) -> Float[Tensor, "batch latent"]:
        """The inverse of `to_base`, for the label of each row."""
        kept, moved = self.split(u)
        shift, log_scale = self._of(kept, labels)
        return torch.cat([kept, moved * torch.exp(log_scale) + shift], dim=1)[:, self.original_order]

    def _of(self, kept: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log scale of the moved half."""
        hidden = nn.functional.silu(self.first(kept) + self.embedding[labels])
        hidden = nn.functional.silu(self.second(hidden))
        return _affine(self.last(hidden) + self.bias[labels])


def _affine(params: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and bounded log scale of the outputs of a network."""
    shift, raw = params.chunk(2, dim=-1)
    return shift, MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)


def _zeros(layer: nn.Linear) -> nn.Linear:
    """A layer that gives zeros at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _permutation(latent: int, index: int) -> np.ndarray:
    """A random order of the dimensions, int64, from raw bits, which no version of numpy changes."""
    return np.argsort(random.generator(index, random.COUPLINGS).bit_generator.random_raw(latent), kind="stable")


def _nlog_normal(epsilon: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch"]:
    """nlog N(epsilon; 0, I), in nats, float64."""
    return (0.5 * epsilon.square() + 0.5 * LOG_2PI).sum(1, dtype=torch.float64)


def build_prior(latent: int, config: PriorConfig) -> Prior:
    """The prior of a configuration for latents of this size."""
    return FlowPrior(latent, config) if isinstance(config, FlowPriorConfig) else StandardPrior()
