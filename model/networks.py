"""Encoder and decoder bodies: `mlp` for any data, `conv` for images.

An encoder body maps x to two numbers per latent dimension, a decoder body z to `params` numbers per dimension of x. To
add a network, write its configuration in `model.config`, two classes of this form here, and a row in `NETWORKS`.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ConvNetwork, ImageData, MLPNetwork, ModelConfig, VectorData


class Standardize(nn.Module):
    """Standardization of data for the networks: pixels in [-1, 1], columns of mean 0 and variance 1."""

    def __init__(self, data: ImageData | VectorData) -> None:
        super().__init__()
        shift, unit = (data.mean, data.std) if isinstance(data, VectorData) else (0.5, 0.5)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.register_buffer("unit", torch.tensor(unit), persistent=False)
        self.shift: Tensor
        self.unit: Tensor

    def forward(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *data"]:
        return (x - self.shift) / self.unit


def _layers(sizes: list[int]) -> nn.Sequential:
    """Linear layers through `sizes` with SiLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.network, MLPNetwork)
        self.layers = _layers([config.data.dims, *config.network.hidden, 2 * config.latent])

    def forward(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch two_latent"]:
        out: Tensor = self.layers(x.flatten(1))
        return out


class MLPDecoder(nn.Module):
    def __init__(self, config: ModelConfig, params: int) -> None:
        super().__init__()
        assert isinstance(config.network, MLPNetwork)
        self.shape = (params, *config.data.shape)
        self.layers = _layers([config.latent, *reversed(config.network.hidden), math.prod(self.shape)])

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch params *data"]:
        out: Tensor = self.layers(z)
        return out.view(-1, *self.shape)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))). No normalization: no sample of a batch may touch another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        # Each block starts as the identity, which lets deep stacks train from the first step.
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        out: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + out


def _coarse_size(config: ModelConfig) -> tuple[int, int]:
    """Height and width after the last stage, each halving rounded up."""
    assert isinstance(config.network, ConvNetwork) and isinstance(config.data, ImageData)
    factor = 2 ** len(config.network.channels)
    return math.ceil(config.data.height / factor), math.ceil(config.data.width / factor)


class ConvEncoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.network, ConvNetwork) and isinstance(config.data, ImageData)
        height, width = _coarse_size(config)
        factor = 2 ** len(config.network.channels)
        self.pad = (0, width * factor - config.data.width, 0, height * factor - config.data.height)
        stages: list[nn.Module] = []
        before: int = config.data.channels
        for channels, count in zip(config.network.channels, config.network.blocks, strict=True):
            # Pixels need their neighbours. Later features come from 3x3 blocks, and a 1x1 costs a ninth.
            kernel = 3 if not stages else 1
            mix = nn.Conv2d(4 * before, channels, kernel, padding=kernel // 2)
            stages += [nn.PixelUnshuffle(2), mix, *(Residual(channels) for _ in range(count))]
            before = channels
        self.stages = nn.Sequential(*stages)
        self.out = nn.Linear(before * height * width, 2 * config.latent)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch two_latent"]:
        padded = F.pad(x, self.pad, mode="replicate") if any(self.pad) else x
        out: Tensor = self.out(F.silu(self.stages(padded)).flatten(1))
        return out


class ConvDecoder(nn.Module):
    def __init__(self, config: ModelConfig, params: int) -> None:
        super().__init__()
        assert isinstance(config.network, ConvNetwork) and isinstance(config.data, ImageData)
        height, width = _coarse_size(config)
        self.data = config.data
        self.params = params
        channels = config.network.channels
        self.coarse = (channels[-1], height, width)
        self.inner = nn.Linear(config.latent, math.prod(self.coarse))
        stages: list[nn.Module] = []
        finer = [*channels[-2::-1], params * config.data.channels]
        for stage in reversed(range(len(channels))):
            count, here, after = config.network.blocks[stage], channels[stage], finer[len(channels) - 1 - stage]
            kernel = 3 if stage == 0 else 1
            mix = nn.Conv2d(here, 4 * after, kernel, padding=kernel // 2)
            stages += [*(Residual(here) for _ in range(count)), nn.SiLU(), mix, nn.PixelShuffle(2)]
        self.stages = nn.Sequential(*stages)

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch params channels h w"]:
        out: Tensor = self.stages(self.inner(z).view(-1, *self.coarse))
        cropped: Tensor = out[:, :, : self.data.height, : self.data.width]
        return cropped.reshape(-1, self.params, *self.data.shape)


NETWORKS = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}
