"""A mixture of logistics over bytes, independent per pixel or conditioned on the neighbours before it."""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from model.data import Array, Data, ImageData
from model.likelihoods.base import UNIFORM_STEP, Distribution, Head, LikelihoodConfig


class DiscretizedLikelihood(LikelihoodConfig):
    """A mixture of logistic densities per pixel, integrated over the 256 bins of a byte: a probability.

    `min_scale` is the floor of each logistic's scale, in bytes. `uniform` is the weight of a uniform component, which
    bounds the cost of one byte at log2(256 / uniform) bits. With `autoregressive` the logistics of a byte move with
    the values of its neighbours before it, so that texture need not be sent through the latent.
    """

    levels: ClassVar[int | None] = 256
    # ONNX has no expm1, and the logarithms of ONNX Runtime are off by 1.6e-5: too far for a code length.
    onnx_exact: ClassVar[bool] = False

    name: Literal["discretized"] = "discretized"
    components: Annotated[int, Field(ge=1, le=32)] = 3
    min_scale: Annotated[float, Field(ge=0.01, le=16)] = 0.1
    uniform: Annotated[float, Field(gt=0, lt=1)] = 2.0**-12
    autoregressive: bool = False

    @property
    def has_auxiliary_loss(self) -> bool:
        return self.autoregressive

    @classmethod
    def default_for(cls, data: Data) -> "DiscretizedLikelihood":  # noqa: ARG003
        return cls(autoregressive=True)

    @classmethod
    def is_default_for(cls, samples: Array) -> bool:
        return samples.dtype == np.uint8

    def head(self, data: Data) -> "DiscretizedHead":
        assert isinstance(data, ImageData)
        return DiscretizedHead(self, data)

    def require_data(self, data: Data) -> None:
        if not isinstance(data, ImageData):
            raise ValueError("likelihood: 'discretized' is for 8-bit images; use 'gaussian' for vectors")


class DiscretizedLogistic(Distribution):
    """A mixture of logistics over bytes 0..255, each byte the mass of its bin; x is byte / 255.

    P(v) = uniform / 256 + (1 - uniform) sum_k w_k [S((v + 1/2 - m_k) / s_k) - S((v - 1/2 - m_k) / s_k)]

    with S the logistic function and the outermost bins reaching to infinity (Salimans et al., PixelCNN++, 2017).
    `logits` are those of w; `mean_bytes` (m) and `scale` (s) are in bytes; all are batch x components x data.
    """

    def __init__(self, logits: Tensor, mean_bytes: Tensor, scale: Tensor, uniform: float) -> None:
        self.log_weights = logits.log_softmax(dim=1)
        self.mean_bytes = mean_bytes
        self.scale = scale
        self.uniform = uniform

    @property
    def mean(self) -> Float[Tensor, "batch *data"]:
        """The mean over 255, with each logistic's sum over bins replaced by an integral.

        sum_v S((m - v - 1/2) / s) becomes s [softplus(m / s) - softplus((m - 255) / s)]. The error is at most half a
        byte, and at most 0.023 of a byte for scales of half a byte and more.
        """
        s = self.scale
        # A component further out has no mass inside, and the difference of two large numbers would be rounding error.
        m = torch.minimum(torch.maximum(self.mean_bytes, -30 * s), 255 + 30 * s)
        clipped = s * (F.softplus(m / s) - F.softplus((m - 255) / s))
        mixed = (self.log_weights.exp() * clipped).sum(dim=1) / 255
        return (1 - self.uniform) * mixed + self.uniform / 2

    def nlog_prob(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        """Minus log P(byte), in nats per dimension; x is rounded to the nearest byte."""
        return _nlog_byte((x * 255).round(), self.log_weights, self.mean_bytes, self.scale, self.uniform)

    def sample(self, uniform: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        byte = _byte_at(uniform, self.log_weights, self.mean_bytes, self.scale, self.uniform)
        return (byte / 255).to(uniform.dtype)


#: Offsets of the neighbours that precede a pixel in raster order, as (rows up, columns left).
NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))


class AutoregressiveLogistic(Distribution):
    """Logistic mixtures whose means move with the residuals of the neighbours before.

    P(x) = prod_i P(x_i | x_before i). Each byte is distributed as in `DiscretizedLogistic`, with m_k replaced by
    m_k + sum_j c_j (v_j - E[v_j]). The v_j are the bytes left, above left, above and above right of it and, for
    colours, those of the channels before it in the same pixel. E[v_j] are their means in `independent`. This is noise
    whose correlation between neighbours the decoder chooses (for Gaussians: Dorta et al. 2018, arXiv 1802.07079).

    `scale`, batch x components x data, is that of a byte given its neighbours. `coefficients` are c, batch x neighbours
    x data. Residuals outside the image are 0.
    """

    def __init__(self, independent: DiscretizedLogistic, scale: Tensor, coefficients: Tensor) -> None:
        self.independent = independent
        self.scale = scale
        self.coefficients = coefficients

    @property
    def mean(self) -> Float[Tensor, "batch channels h w"]:
        """The mean of `independent`, near that of P(x|z) where the auxiliary loss has kept mean residuals near 0."""
        return self.independent.mean

    def nlog_prob(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Minus log P(byte | the bytes before it), in nats per dimension; x is rounded to the nearest byte."""
        byte, p = (x * 255).round(), self.independent
        shift = (self.coefficients * _before(byte - 255 * self.mean)).sum(dim=1, keepdim=True)
        return _nlog_byte(byte, p.log_weights, p.mean_bytes + shift, self.scale, p.uniform)

    def auxiliary_nlog_prob(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Nats of each byte without its neighbours: a loss that keeps z in use (Lucas & Verbeek 2018, 1711.11479)."""
        return self.independent.nlog_prob(x)

    def sample(self, uniform: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Draw pixels in waves: each wave holds all pixels whose neighbours are drawn already."""
        p, (channels, height, width) = self.independent, uniform.shape[1:]
        expected = 255 * self.mean
        # A margin of zeros above, left and right.
        residual = uniform.new_zeros(len(uniform), channels, height + 1, width + 2)
        for wave in range(width + 2 * (height - 1)):
            rows = torch.arange(max(0, (wave - width + 2) // 2), min(height - 1, wave // 2) + 1, device=uniform.device)
            columns = wave - 2 * rows
            for channel in range(channels):
                at, here = (..., channel, rows, columns), (rows + 1, columns + 1)
                before = [residual[:, channel, here[0] - up, here[1] - left] for up, left in NEIGHBOURS]
                before += [
                    residual[:, channel - back, *here] if back <= channel else torch.zeros_like(before[0])
                    for back in range(1, channels)
                ]
                shift = (self.coefficients[at] * torch.stack(before, dim=1)).sum(dim=1, keepdim=True)
                parameters = p.log_weights[at], p.mean_bytes[at] + shift, self.scale[at]
                byte = _byte_at(uniform[at], *parameters, p.uniform).to(residual)
                residual[:, channel, *here] = byte - expected[at]
        return ((residual[:, :, 1:, 1:-1] + expected).round() / 255).to(uniform.dtype)


def _before(residual: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch neighbours channels h w"]:
    """Residuals of each pixel's neighbours and of the channels before it in the same pixel; 0 outside the image."""
    channels, height, width = residual.shape[1:]
    padded = F.pad(residual, (1, 1, 1, 0, channels - 1, 0))
    parts = [padded[:, channels - 1 :, 1 - up :, 1 - left :][..., :height, :width] for up, left in NEIGHBOURS]
    parts += [padded[:, channels - 1 - back :, 1:, 1:-1][:, :channels] for back in range(1, channels)]
    return torch.stack(parts, dim=1)


def _nlog_byte(byte: Tensor, log_weights: Tensor, mean_bytes: Tensor, scale: Tensor, uniform: float) -> Tensor:
    """Minus log P(byte), batch x data, nats, of a mixture with parameters of batch x components x data."""
    byte = byte.unsqueeze(1)
    # The mass of (l, u) is S(u) S(-l) (1 - exp(l - u)), each factor finite in logs however far out it is.
    # In units of bytes, neighbouring bins round their common edge equally, so that the masses still sum to one.
    upper = (byte + 0.5 - mean_bytes) / scale
    lower = (byte - 0.5 - mean_bytes) / scale
    below_upper = torch.where(byte == 255, 0.0, F.logsigmoid(upper))
    above_lower = torch.where(byte == 0, 0.0, F.logsigmoid(-lower))
    inside = (byte > 0) & (byte < 255)
    width = torch.where(inside, torch.log(-torch.expm1(-1 / scale)), 0.0)
    mixed = torch.logsumexp(log_weights + below_upper + above_lower + width, dim=1)
    floor = torch.full_like(mixed, math.log(uniform / 256))
    return -torch.logaddexp(mixed + math.log1p(-uniform), floor)


def _byte_at(quantile: Tensor, log_weights: Tensor, mean_bytes: Tensor, scale: Tensor, uniform: float) -> Tensor:
    """A byte as float64. The quantile picks the component; its remainder, rescaled to (0, 1), picks the value there."""
    u = quantile.unsqueeze(1).to(torch.float64)
    weights = torch.cat([torch.full_like(u, uniform), (1 - uniform) * log_weights.exp().to(u.dtype)], dim=1)
    edges = weights.cumsum(dim=1)
    pick = (u >= edges).sum(dim=1, keepdim=True).clamp(max=weights.shape[1] - 1)
    start = edges.gather(1, pick) - weights.gather(1, pick)
    rest = ((u - start) / weights.gather(1, pick)).clamp(UNIFORM_STEP, 1 - UNIFORM_STEP)
    component = (pick - 1).clamp(min=0)
    m, s = mean_bytes.gather(1, component), scale.gather(1, component)
    value = torch.where(pick == 0, rest * 256 - 0.5, m + s * rest.logit())
    return value.round().clamp(0, 255).squeeze(1)


class DiscretizedHead(Head):
    """Logit, mean and log scale per dimension and component.

    Autoregression adds the log scale of the bytes without their neighbours, and one coefficient per neighbour.
    """

    def __init__(self, config: DiscretizedLikelihood, data: ImageData) -> None:
        super().__init__()
        self.config = config
        count = config.components
        neighbours = len(NEIGHBOURS) + data.channels - 1
        self.parts = [count, count, count, *((count, neighbours) if self.config.autoregressive else ())]
        self.params = sum(self.parts)
        # Equal components would stay equal: spread their initial means over the bytes.
        spread = torch.tensor([255 * (k + 1) / (count + 1) for k in range(count)])
        self.register_buffer("start", spread.view(-1, *[1] * len(data.shape)), persistent=False)
        self.start: Tensor

    def forward(self, raw: Float[Tensor, "batch params *data"]) -> DiscretizedLogistic | AutoregressiveLogistic:
        logits, mean, log_scale, *more = torch.split(raw, self.parts, dim=1)
        independent = DiscretizedLogistic(
            logits, self.start + 128 * mean, self._scale(more[0] if more else log_scale), self.config.uniform
        )
        if not more:
            return independent
        # Smooth surfaces and edges need no coefficient beyond 2. The bound limits how far one byte moves the next, but
        # coefficients that sum to more than 1 can still drive a row to 0 or 255.
        return AutoregressiveLogistic(independent, self._scale(log_scale), 2 * torch.tanh(more[1] / 2))

    def _scale(self, raw: Float[Tensor, "batch components *data"]) -> Float[Tensor, "batch components *data"]:
        """Scales in bytes, from the floor to 2^12, where a logistic is flat over all 256 bins."""
        return (raw * 2 + math.log(16)).clamp(max=math.log(4096)).exp() + self.config.min_scale

    def scales_at_floor(self, p: DiscretizedLogistic | AutoregressiveLogistic) -> float:
        return float((p.scale < 1.1 * self.config.min_scale).float().mean())
