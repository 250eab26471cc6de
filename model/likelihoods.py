"""Decoder output -> a distribution over x: Gaussian, discretized logistic mixture with or without autoregression,
Bernoulli.

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

from model.config import (
    BernoulliLikelihood,
    DiscretizedLikelihood,
    GaussianLikelihood,
    ImageData,
    ModelConfig,
    VectorData,
)

LOG_2PI = math.log(2 * math.pi)
# The step of a float32 uniform: keeps both ends of (0, 1) open, so that no quantile is infinite.
TINY = 2.0**-24


class Distribution(ABC):
    """A distribution over x, given the parameters it holds: a product of one factor per dimension of x."""

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "batch *data"]:
        """The mean, in the units of x."""

    @abstractmethod
    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Minus the natural log of the probability (or density) of each dimension of x, given those before it where
        they are not independent; in nats, not reduced.
        """

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
        return _nlog_byte((x * 255).round(), self.log_weights, self.mean_bytes, self.scale, self.uniform)

    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        drawn = _byte_at(uniform, self.log_weights, self.mean_bytes, self.scale, self.uniform)
        return (drawn / 255).to(uniform.dtype)


#: The neighbours of a pixel that come before it, row by row from the top: rows up, columns left.
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))


class AutoregressiveLogistic(Distribution):
    """Logistic mixtures whose means move with what was missed at the neighbours before.

    P(x) = prod_i P(x_i | x_before i): each byte as in `DiscretizedLogistic`, with m_k + sum_j c_j (v_j - E[v_j]) for
    m_k, where v_j are the bytes left, above left, above and above right of it, and of a colour those of the colours
    before it in the same pixel, and E[v_j] their means in `independent`. It is noise with a correlation between
    neighbours that the decoder gives (for Gaussians: Dorta et al. 2018, arXiv 1802.07079).

    `coefficients` (c) are batch x neighbours x data; outside the image nothing is missed. `scale` (batch x components x
    data, in bytes) is that of what is left; `independent` is the same without neighbours, and with scales of its own.
    """

    def __init__(
        self,
        independent: DiscretizedLogistic,
        scale: Float[Tensor, "batch components channels h w"],
        coefficients: Float[Tensor, "batch neighbours channels h w"],
    ) -> None:
        self.independent = independent
        self.scale = scale
        self.coefficients = coefficients

    @property
    def mean(self) -> Float[Tensor, "batch channels h w"]:
        """That of `independent`. It is the mean of P(x|z) as far as what neighbours add has mean 0, which training sees
        to by its auxiliary loss; without one the two can be far apart.
        """
        return self.independent.mean

    def nlog_prob(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Minus log P(byte | the bytes before it), in nats per dimension; x is rounded to the nearest byte."""
        byte, p = (x * 255).round(), self.independent
        shift = (self.coefficients * _before(byte - 255 * self.mean)).sum(dim=1, keepdim=True)
        return _nlog_byte(byte, p.log_weights, p.mean_bytes + shift, self.scale, p.uniform)

    def sample(self, uniform: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Pixels in waves: all those at once whose neighbours have been drawn."""
        p, (channels, height, width) = self.independent, uniform.shape[1:]
        expected = 255 * self.mean
        # With a margin of zeros: above, left and right.
        missed = uniform.new_zeros(len(uniform), channels, height + 1, width + 2)
        for wave in range(width + 2 * (height - 1)):
            rows = torch.arange(max(0, (wave - width + 2) // 2), min(height - 1, wave // 2) + 1, device=uniform.device)
            columns = wave - 2 * rows
            for channel in range(channels):
                at, here = (..., channel, rows, columns), (rows + 1, columns + 1)
                before = [missed[:, channel, here[0] - up, here[1] - left] for up, left in NEIGHBOURS]
                before += [
                    missed[:, channel - back, *here] if back <= channel else torch.zeros_like(before[0])
                    for back in range(1, channels)
                ]
                shift = (self.coefficients[at] * torch.stack(before, dim=1)).sum(dim=1, keepdim=True)
                parameters = p.log_weights[at], p.mean_bytes[at] + shift, self.scale[at]
                byte = _byte_at(uniform[at], *parameters, p.uniform).to(missed)
                missed[:, channel, *here] = byte - expected[at]
        return ((missed[:, :, 1:, 1:-1] + expected).round() / 255).to(uniform.dtype)


def _before(missed: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch neighbours channels h w"]:
    """What was missed at each pixel's neighbours, and at the same pixel in the colours before; 0 outside the image."""
    channels, height, width = missed.shape[1:]
    padded = F.pad(missed, (1, 1, 1, 0, channels - 1, 0))
    parts = [padded[:, channels - 1 :, 1 - up :, 1 - left :][..., :height, :width] for up, left in NEIGHBOURS]
    parts += [padded[:, channels - 1 - back :, 1:, 1:-1][:, :channels] for back in range(1, channels)]
    return torch.stack(parts, dim=1)


def _nlog_byte(
    byte: Float[Tensor, "batch *data"],
    log_weights: Float[Tensor, "#batch components *data"],
    mean_bytes: Float[Tensor, "#batch components *data"],
    scale: Float[Tensor, "#batch components *data"],
    uniform: float,
) -> Float[Tensor, "batch *data"]:
    """Minus log P(byte) of a mixture of logistics and of the uniform component, nats."""
    byte = byte.unsqueeze(1)
    # The mass of (l, u) is S(u) S(-l) (1 - exp(l - u)), each factor finite in logs however far out it is.
    # In units of bytes, neighbouring bins compute their common edge alike, so that the masses still sum to one.
    upper = (byte + 0.5 - mean_bytes) / scale
    lower = (byte - 0.5 - mean_bytes) / scale
    below_upper = torch.where(byte == 255, 0.0, F.logsigmoid(upper))
    above_lower = torch.where(byte == 0, 0.0, F.logsigmoid(-lower))
    inside = (byte > 0) & (byte < 255)
    width = torch.where(inside, torch.log(-torch.expm1(-1 / scale)), 0.0)
    mixed = torch.logsumexp(log_weights + below_upper + above_lower + width, dim=1)
    floor = torch.full_like(mixed, math.log(uniform / 256))
    return -torch.logaddexp(mixed + math.log1p(-uniform), floor)


def _byte_at(
    quantile: Float[Tensor, "batch *data"],
    log_weights: Float[Tensor, "#batch components *data"],
    mean_bytes: Float[Tensor, "#batch components *data"],
    scale: Float[Tensor, "#batch components *data"],
    uniform: float,
) -> Float[Tensor, "batch *data"]:
    """A byte, float64: one number in (0, 1) picks the component, and what is left of it, stretched, the value in it."""
    u = quantile.unsqueeze(1).to(torch.float64)
    weights = torch.cat([torch.full_like(u, uniform), (1 - uniform) * log_weights.exp().to(u.dtype)], dim=1)
    edges = weights.cumsum(dim=1)
    pick = (u >= edges).sum(dim=1, keepdim=True).clamp(max=weights.shape[1] - 1)
    start = edges.gather(1, pick) - weights.gather(1, pick)
    rest = ((u - start) / weights.gather(1, pick)).clamp(TINY, 1 - TINY)
    component = (pick - 1).clamp(min=0)
    m, s = mean_bytes.gather(1, component), scale.gather(1, component)
    value = torch.where(pick == 0, rest * 256 - 0.5, m + s * rest.logit())
    return value.round().clamp(0, 255).squeeze(1)


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
    """Three numbers per dimension and component: logit, mean, log scale. With autoregression one coefficient for each
    neighbour, and one more log scale per component: that of the bytes as they are without their neighbours.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.likelihood, DiscretizedLikelihood) and isinstance(config.data, ImageData)
        self.config = config.likelihood
        count = self.config.components
        neighbours = len(NEIGHBOURS) + config.data.channels - 1
        self.parts = [count, count, count, *((count, neighbours) if self.config.autoregressive else ())]
        self.params: int = sum(self.parts)
        # Components that start alike stay alike: spread their first means over the bytes.
        spread = torch.tensor([255 * (k + 1) / (count + 1) for k in range(count)])
        self.register_buffer("start", spread.view(-1, *[1] * len(config.data.shape)), persistent=False)
        self.start: Tensor

    def forward(self, raw: Float[Tensor, "batch params *data"]) -> DiscretizedLogistic | AutoregressiveLogistic:
        logits, mean, log_scale, *more = torch.split(raw, self.parts, dim=1)
        independent = DiscretizedLogistic(
            logits, self.start + 128 * mean, self._scale(more[0] if more else log_scale), self.config.uniform
        )
        if not more:
            return independent
        # Smooth surfaces and edges ask for no coefficient beyond 2. It bounds how far one byte moves the next, though a
        # sum beyond 1 can still run to 0 or 255.
        return AutoregressiveLogistic(independent, self._scale(log_scale), 2 * torch.tanh(more[1] / 2))

    def _scale(self, raw: Float[Tensor, "batch components *data"]) -> Float[Tensor, "batch components *data"]:
        """exp between the floor and 2^12 bytes; beyond, a logistic is flat over all 256 bins."""
        return (raw * 2 + math.log(16)).clamp(max=math.log(4096)).exp() + self.config.min_scale


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
