"""Decoder output -> a distribution over x: Gaussian, discretized logistic mixture, Bernoulli.

Each likelihood is two things: a *distribution*, a value with a mean, `nlog_prob(x)` and `sample(uniform)`; and a
*head*, the module that turns what a decoder network puts out, `params` numbers per dimension of x, into that
distribution. `HEADS` is the one table of names. To add a likelihood: its config in `model.config`, these two, a row.

Noise is an argument: `sample` maps uniform numbers in (0, 1), one per dimension, to a draw. So a draw depends on the
noise it is given and on nothing else.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import BernoulliLikelihood, DiscretizedLikelihood, GaussianLikelihood, ModelConfig, VectorData

LOG_2PI = math.log(2 * math.pi)
# The step of a float32 uniform: keeps both ends of (0, 1) open, so that no quantile is infinite.
TINY = 2.0**-24


class Distribution(ABC):
    """A distribution over x that is independent per dimension, given the parameters it holds."""

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "batch *data"]:
        """The mean, in the units of x."""

    @abstractmethod
    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Minus the natural log of the probability (or density) of each dimension of x, in nats, not reduced."""

    @abstractmethod
    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """A draw of x from one uniform number in (0, 1) per dimension."""


class Gaussian(Distribution):
    """N(mean, scale^2), independent per dimension: the prior, Q(z|x), and Gaussian observation noise.

    `mean` and `scale` (a standard deviation) broadcast against each other.
    """

    def __init__(self, mean: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"]) -> None:
        self._mean = mean
        self.scale = scale

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        return self._mean

    @property
    def variance(self) -> Float[Tensor, "*shape"]:
        return self.scale.square().expand_as(self.mean)

    def nlog_prob(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """((x - mean) / scale)^2 / 2 + log scale + log(2 pi) / 2, in nats per dimension."""
        return 0.5 * ((x - self.mean) / self.scale).square() + self.scale.log() + 0.5 * LOG_2PI

    def draw(self, noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """mean + scale * noise for standard normal noise: the reparameterization trick (Kingma & Welling 2014)."""
        return self.mean + self.scale * noise

    def sample(self, uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.draw(torch.special.ndtri(uniform.clamp(TINY, 1 - TINY)))

    def rate(self) -> Float[Tensor, "*shape"]:
        """KL(this, N(0, 1)) = (mean^2 + scale^2 - 1) / 2 - log scale, in nats per dimension."""
        return 0.5 * (self.mean.square() + self.scale.square() - 1) - self.scale.log()


class Bernoulli(Distribution):
    """Bits with P(1) = sigmoid(logits). x is rounded to the nearest bit."""

    def __init__(self, logits: Float[Tensor, "batch *data"]) -> None:
        self.logits = logits

    @property
    def mean(self) -> Float[Tensor, "batch *data"]:
        return self.logits.sigmoid()

    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """softplus(-logit) for a one, softplus(logit) for a zero, in nats per dimension."""
        return F.softplus(torch.where(x >= 0.5, -self.logits, self.logits))

    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        return (uniform < self.mean).to(uniform.dtype)


class DiscretizedLogistic(Distribution):
    """A mixture of logistics over bytes 0..255, each byte the mass of its bin; x is byte / 255.

    P(v) = uniform / 256 + (1 - uniform) sum_k w_k [S((v + 1/2 - m_k) / s_k) - S((v - 1/2 - m_k) / s_k)]

    with S the logistic function and the outermost bins reaching to infinity (Salimans et al., PixelCNN++, 2017).
    `logits` are those of w; `mean_bytes` (m) and `scale` (s) are in bytes; all are batch x components x data.
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch components *data"],
        mean_bytes: Float[Tensor, "batch components *data"],
        scale: Float[Tensor, "batch components *data"],
        uniform: float,
    ) -> None:
        self.log_weights = logits.log_softmax(dim=1)
        self.mean_bytes = mean_bytes
        self.scale = scale
        self.uniform = uniform

    @property
    def mean(self) -> Float[Tensor, "batch *data"]:
        """The mean over 255, with each logistic's sum over bins taken as an integral.

        sum_v S((m - v - 1/2) / s) becomes s [softplus(m / s) - softplus((m - 255) / s)]: never more than half a
        byte from the exact mean, and 0.023 of a byte for scales of half a byte and more.
        """
        s = self.scale
        # Further out than this nothing is left inside, and the difference of two large numbers would be noise.
        m = torch.minimum(torch.maximum(self.mean_bytes, -30 * s), 255 + 30 * s)
        clipped = s * (F.softplus(m / s) - F.softplus((m - 255) / s))
        mixed = (self.log_weights.exp() * clipped).sum(dim=1) / 255
        return (1 - self.uniform) * mixed + self.uniform / 2

    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Minus log P(byte), in nats per dimension; x is rounded to the nearest byte."""
        byte = (x * 255).round().unsqueeze(1)
        # The mass of (l, u) is S(u) S(-l) (1 - exp(l - u)), each factor finite in logs however far out it is.
        # In units of bytes, neighbouring bins compute their common edge alike, so that the masses still sum to one.
        upper = (byte + 0.5 - self.mean_bytes) / self.scale
        lower = (byte - 0.5 - self.mean_bytes) / self.scale
        below_upper = torch.where(byte == 255, 0.0, F.logsigmoid(upper))
        above_lower = torch.where(byte == 0, 0.0, F.logsigmoid(-lower))
        inside = (byte > 0) & (byte < 255)
        width = torch.where(inside, torch.log(-torch.expm1(-1 / self.scale)), 0.0)
        mixed = torch.logsumexp(self.log_weights + below_upper + above_lower + width, dim=1)
        floor = torch.full_like(mixed, math.log(self.uniform / 256))
        return -torch.logaddexp(mixed + math.log1p(-self.uniform), floor)

    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """One uniform number picks the component, and what is left of it, stretched, the value inside it."""
        u = uniform.unsqueeze(1).to(torch.float64)
        spread = torch.full_like(u, self.uniform)
        weights = torch.cat([spread, (1 - self.uniform) * self.log_weights.exp().to(u.dtype)], dim=1)
        edges = weights.cumsum(dim=1)
        pick = (u >= edges).sum(dim=1, keepdim=True).clamp(max=weights.shape[1] - 1)
        start = edges.gather(1, pick) - weights.gather(1, pick)
        rest = ((u - start) / weights.gather(1, pick)).clamp(TINY, 1 - TINY)
        component = (pick - 1).clamp(min=0)
        m, s = self.mean_bytes.gather(1, component), self.scale.gather(1, component)
        value = torch.where(pick == 0, rest * 256 - 0.5, m + s * rest.logit())
        return (value.round().clamp(0, 255) / 255).squeeze(1).to(uniform.dtype)


class GaussianHead(nn.Module):
    """One number per dimension, the mean; the scale is a parameter of its own, the same for every z."""

    params: int = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.likelihood, GaussianLikelihood)
        shape = config.data.shape if config.likelihood.scale == "per_dimension" else (1,) * len(config.data.shape)
        # softplus(-1.05) = 0.3: a start below the spread of the data, so that the latent is used from the first step.
        self.raw_scale = nn.Parameter(torch.full(shape, -1.05))
        self.min_scale = config.likelihood.min_scale
        shift, unit = (config.data.mean, config.data.std) if isinstance(config.data, VectorData) else (0.0, 1.0)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.register_buffer("unit", torch.tensor(unit), persistent=False)
        self.shift: Tensor
        self.unit: Tensor

    def forward(self, raw: Float[Tensor, "batch 1 *data"]) -> Gaussian:
        scale = F.softplus(self.raw_scale) + self.min_scale
        return Gaussian(self.shift + self.unit * raw.squeeze(1), self.unit * scale)


class DiscretizedHead(nn.Module):
    """Three numbers per dimension and component: logit, mean, log scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.likelihood, DiscretizedLikelihood)
        self.config = config.likelihood
        self.params: int = 3 * self.config.components
        # Components that start alike stay alike: spread their first means over the bytes.
        count = self.config.components
        spread = torch.tensor([255 * (k + 1) / (count + 1) for k in range(count)])
        self.register_buffer("start", spread.view(-1, *[1] * len(config.data.shape)), persistent=False)
        self.start: Tensor

    def forward(self, raw: Float[Tensor, "batch params *data"]) -> DiscretizedLogistic:
        logits, mean, log_scale = raw.chunk(3, dim=1)
        # exp between the floor and 2^12 bytes; beyond, a logistic is flat over all 256 bins.
        scale = (log_scale * 2 + math.log(16)).clamp(max=math.log(4096)).exp() + self.config.min_scale
        return DiscretizedLogistic(logits, self.start + 128 * mean, scale, self.config.uniform)


class BernoulliHead(nn.Module):
    """One number per dimension, the logit."""

    params: int = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.likelihood, BernoulliLikelihood)

    def forward(self, raw: Float[Tensor, "batch 1 *data"]) -> Bernoulli:
        return Bernoulli(raw.squeeze(1))


HEADS: dict[str, type[GaussianHead | DiscretizedHead | BernoulliHead]] = {
    "gaussian": GaussianHead,
    "discretized": DiscretizedHead,
    "bernoulli": BernoulliHead,
}
#: How many values one dimension of x can take; none where x is real and its free energy a density's.
LEVELS: dict[str, int | None] = {"gaussian": None, "discretized": 256, "bernoulli": 2}
