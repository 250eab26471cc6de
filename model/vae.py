"""The variational autoencoder: a prior, an encoder that returns Q(z|x), a decoder that returns P(x|z)."""

from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from model import random
from model.config import ModelConfig
from model.likelihoods import Distribution, Gaussian
from model.networks import NETWORKS, Standardize
from model.prior import build_prior

#: Bounds of the log standard deviations of Q, so that no input gives a variance of 0 or infinity.
LOG_SCALE_BOUNDS = (-9.0, 5.0)


def to_tensor(samples: NDArray[Any], device: str = "cpu") -> Tensor:
    """Convert samples of a dataset or request to a float32 tensor on a device; bytes are divided by 255."""
    # torch warns about read-only memory, such as that of a file or a request.
    tensor = torch.from_numpy(samples if samples.flags.writeable else samples.copy()).to(device)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def to_gaussian(params: Float[Tensor, "batch two_latent"]) -> Gaussian:
    """Q of its parameters, mean and log scale side by side."""
    mean, log_scale = params.chunk(2, dim=1)
    return Gaussian(mean, log_scale.clamp(*LOG_SCALE_BOUNDS).exp())


class VAE(nn.Module):
    """z ~ P(z), x ~ P(x|z), and Q(z|x) = N(mean, diag(variance)) (Doersch 2016, arXiv 1606.05908).

    x holds floats: images, batch x channels x height x width in [0, 1], or vectors, batch x columns in their own units.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = NETWORKS[config.network.name]
        head = config.likelihood.head(config.data)
        self.standardize = Standardize(config.data)
        self.prior = build_prior(config.latent, config.prior)
        self.encoder = encoder(config)
        self.decoder = decoder(config, head.params)
        self.head = head
        self.register_buffer("_on_device", torch.zeros(()), persistent=False)
        self._on_device: Tensor

    @property
    def levels(self) -> int | None:
        """Number of values that one dimension of x can take; None if free energy is that of a density."""
        return self.config.likelihood.levels

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self._on_device.device

    def sample_prior(self, count: int, seed: int = 0) -> Float[Tensor, "count latent"]:
        """Draws of z from the prior; the first of a larger number are the same."""
        epsilon = to_tensor(random.normal(seed, (count, self.config.latent)), str(self.device))
        labels = self.prior.draw_labels(random.generator(seed, random.LABELS).random(count))
        return self.prior.to_latent(self.prior.place(epsilon, labels))

    def encode(self, x: Float[Tensor, "batch *data"]) -> Gaussian:
        """Q(z|x), with mean and scale of batch x latent."""
        return to_gaussian(self.encoder(self.standardize(x)).to(x.dtype))

    def decode(self, z: Float[Tensor, "batch latent"]) -> Distribution:
        """P(x|z), over x in its own units."""
        p: Distribution = self.head(self.decoder(z).to(z.dtype))
        return p
