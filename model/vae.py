"""The variational autoencoder: a prior, an encoder that returns Q(z|x), a decoder that returns P(x|z).

Nothing here is an objective: `model.scoring.free_energy` takes these distributions and scores them.
"""

from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import ModelConfig
from model.likelihoods import HEADS, LEVELS, Distribution, Gaussian
from model.networks import NETWORKS, Standardize

#: Standard deviations of Q are kept inside these, so that no input can make a variance of 0 or infinity.
LOG_SCALE_BOUNDS = (-9.0, 5.0)


def to_tensor(samples: NDArray[Any], device: str = "cpu") -> Tensor:
    """Samples as datasets and requests give them -> as the model takes them: float32, bytes divided by 255."""
    # torch warns of memory that it may not write to, as that of a file or a request is.
    tensor = torch.from_numpy(samples if samples.flags.writeable else samples.copy()).to(device)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


class VAE(nn.Module):
    """z ~ N(0, I), x ~ P(x|z), and Q(z|x) = N(mean, diag(variance)) (Doersch 2016, arXiv 1606.05908).

    x is a float tensor, batch first: for images batch x channels x height x width in [0, 1], for vectors
    batch x columns in the data's own units.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = NETWORKS[config.network.name]
        head = HEADS[config.likelihood.name](config)
        self.standardize = Standardize(config.data)
        self.encoder = encoder(config)
        self.decoder = decoder(config, head.params)
        self.head: nn.Module = head
        self.register_buffer("origin", torch.zeros(config.latent), persistent=False)
        self.origin: Tensor

    @property
    def levels(self) -> int | None:
        """How many values one dimension of x can take; None where free energy is that of a density."""
        return LEVELS[self.config.likelihood.name]

    def prior(self) -> Gaussian:
        """P(z) = N(0, I)."""
        return Gaussian(self.origin, torch.ones_like(self.origin))

    def encode(self, x: Float[Tensor, "batch *data"]) -> Gaussian:
        """Q(z|x), with mean and scale of batch x latent."""
        mean, log_scale = self.encoder(self.standardize(x)).to(x.dtype).chunk(2, dim=1)
        return Gaussian(mean, log_scale.clamp(*LOG_SCALE_BOUNDS).exp())

    def decode(self, z: Float[Tensor, "batch latent"]) -> Distribution:
        """P(x|z), over x in its own units."""
        p: Distribution = self.head(self.decoder(z).to(z.dtype))
        return p
