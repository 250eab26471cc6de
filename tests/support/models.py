"""Small models of every configuration, and a model with scores in closed form."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import ConvNetwork, ImageData, MLPNetwork, ModelConfig, VectorData
from model.likelihoods import Gaussian
from model.likelihoods.bernoulli import BernoulliLikelihood
from model.likelihoods.discretized import DiscretizedLikelihood
from model.likelihoods.gaussian import GaussianLikelihood
from model.prior import FlowPriorConfig, Label
from model.record import EpochRecord
from model.scoring.calibration import ScoringConfig
from model.vae import VAE
from tests.support.data import Floats

GREY = ImageData(height=8, width=8)
RGB = ImageData(height=9, width=10, channels=3)
TABLE = VectorData(columns=("age", "height", "weight"), mean=(40.0, 1.7, 70.0), std=(10.0, 0.1, 12.0))
MLP = MLPNetwork(hidden=(16, 8))
CONV = ConvNetwork(channels=(4, 8), blocks=(1, 1))
FLOW = FlowPriorConfig(couplings=2, hidden=(8, 8))
#: Names of labels, and the shares that they have in a prior.
CLASSES = ("cat", "dog", "<b>bird</b>")
SHARES = (0.5, 0.3, 0.2)
LABELLED_FLOW = FLOW.model_copy(
    update={
        "labels": tuple(Label(name=n, probability=p) for n, p in zip(CLASSES, SHARES, strict=True)),
        "label_couplings": 2,
        "label_hidden": 8,
    }
)

CONFIGS = {
    "grey-mlp-discretized": ModelConfig(data=GREY, network=MLP, latent=4, likelihood=DiscretizedLikelihood()),
    "grey-conv-gaussian": ModelConfig(data=GREY, network=CONV, latent=4, likelihood=GaussianLikelihood(scale="shared")),
    "rgb-conv-discretized": ModelConfig(
        data=RGB, network=CONV, latent=5, likelihood=DiscretizedLikelihood(components=1)
    ),
    "rgb-conv-autoregressive": ModelConfig(
        data=RGB, network=CONV, latent=3, likelihood=DiscretizedLikelihood(components=2, autoregressive=True)
    ),
    "grey-mlp-bernoulli": ModelConfig(data=GREY, network=MLP, latent=3, likelihood=BernoulliLikelihood()),
    "table-mlp-gaussian": ModelConfig(data=TABLE, network=MLP, latent=2, likelihood=GaussianLikelihood()),
    "grey-conv-flow": ModelConfig(
        data=GREY, network=CONV, latent=4, prior=LABELLED_FLOW, likelihood=DiscretizedLikelihood(autoregressive=True)
    ),
    "table-mlp-flow": ModelConfig(data=TABLE, network=MLP, latent=2, prior=FLOW, likelihood=GaussianLikelihood()),
}

#: Scorings of the calibrated models.
SCORINGS = (ScoringConfig(1, 0, 0), ScoringConfig(4, 0, 0), ScoringConfig(4, 5, 0))

#: Epochs of the models with galleries.
LEARNING = tuple(
    EpochRecord(
        epoch=epoch,
        free_energy=100.0 / epoch,
        distortion=90.0 / epoch,
        rate=10.0 / epoch,
        bits_per_dim=None,
        train_free_energy=110.0 / epoch,
        learning_rate=1e-3,
        seconds=1.5,
        samples_per_second=100.0,
    )
    for epoch in (1, 2)
)


def build(name: str, seed: int = 0) -> VAE:
    """A model of this configuration, with random weights large enough for outputs that vary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = VAE(CONFIGS[name]).eval().requires_grad_(False)
        for weight in vae.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return vae


def reference(name: str, count: int = 120, seed: int = 1) -> np.ndarray[Any, Any]:
    """Random samples in the layout of a dataset."""
    generator, data = np.random.default_rng(seed), CONFIGS[name].data
    if isinstance(data, ImageData):
        return generator.integers(0, 256, (count, *data.shape), np.uint8)
    return generator.normal(data.mean, data.std, (count, *data.shape)).astype(np.float32)


def epoch_record(*values: float | None) -> EpochRecord:
    """A record from its values in the order of the fields."""
    return EpochRecord.model_validate(dict(zip(EpochRecord.model_fields, values, strict=True)))


DIMS, LATENT = 6, 3


class PPCA:
    """Probabilistic PCA, x = W z + b + sigma * noise, as a linear VAE whose encoder gives the true posterior.

    With orthogonal columns of W the posterior is factorial (Tipping & Bishop 1999): with M = W'W + sigma^2 I, its mean
    is M^-1 W'(x - b) and its variance sigma^2 M^-1.
    """

    def __init__(self) -> None:
        sigma = 0.4
        draw = torch.Generator().manual_seed(3)
        orthogonal = torch.linalg.qr(torch.randn(DIMS, LATENT, generator=draw, dtype=torch.float64))[0]
        loadings = orthogonal * torch.tensor([2.0, 1.0, 0.3]).double()
        bias = torch.randn(DIMS, generator=draw, dtype=torch.float64)
        m = torch.diag(loadings.T @ loadings) + sigma**2
        weight = loadings.T / m[:, None]

        data = VectorData(columns=tuple("abcdef"), mean=(0,) * DIMS, std=(1,) * DIMS)
        linear = MLPNetwork(hidden=())
        config = ModelConfig(data=data, network=linear, latent=LATENT, likelihood=GaussianLikelihood(scale="shared"))
        self.vae = VAE(config).double().eval().requires_grad_(False)
        self.vae.load_state_dict(
            {
                "encoder.layers.0.weight": torch.cat([weight, torch.zeros_like(weight)]),
                "encoder.layers.0.bias": torch.cat([-weight @ bias, 0.5 * (sigma**2 / m).log()]),
                "decoder.layers.0.weight": loadings,
                "decoder.layers.0.bias": bias,
                # The inverse of softplus, above the floor.
                "head.raw_scale": torch.tensor([math.log(math.expm1(sigma - 0.01))]).double(),
            }
        )
        self.marginal = torch.distributions.MultivariateNormal(
            bias, loadings @ loadings.T + sigma**2 * torch.eye(DIMS, dtype=torch.float64)
        )
        self.x = self.marginal.sample((8,)) * 1.5

    @property
    def nlog_p_x(self) -> Floats:
        nlog: Tensor = -self.marginal.log_prob(self.x)  # type: ignore[no-untyped-call]
        return nlog.double().numpy()

    def wrong(self) -> Gaussian:
        """A factorial Q that is not the posterior."""
        q = self.vae.encode(self.x)
        return Gaussian(
            q.mean + torch.tensor([0.1, -0.2, 0.3]).double(), q.scale * torch.tensor([1.3, 0.8, 1.1]).double()
        )
