"""Scores over HTTP of a model whose nlog P(x) and true posterior are known in closed form."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoint import Card, load, save
from model.config import MLPNetwork, ModelConfig, VectorData
from model.likelihoods.gaussian import GaussianLikelihood
from model.vae import VAE
from tests.support.requests import npy, over_asgi, scores
from tests.support.services import Client, Transport, client_of

Floats = NDArray[np.float64]
DIMS, LATENT, SIGMA = 6, 3, 0.4
DATA = VectorData(
    columns=tuple("abcdef"), mean=(40.0, 1.7, 0.0, -3.0, 0.5, 100.0), std=(10.0, 0.5, 1.0, 2.0, 0.25, 12.0)
)


class PPCA:
    """Probabilistic PCA of standardized columns, v = W u + b + sigma * noise, as a linear VAE in float32.

    The columns of W are orthogonal, so that the posterior is factorial (Tipping & Bishop 1999): with
    M = W'W + sigma^2 I, its mean is M^-1 W'(v - b) and its variance sigma^2 M^-1.

    Args:
        shift, stretch: what is added to the posterior's mean, and what its standard deviation is multiplied by.
    """

    def __init__(self, shift: float = 0.0, stretch: float = 1.0) -> None:
        draw = torch.Generator().manual_seed(3)
        orthogonal = torch.linalg.qr(torch.randn(DIMS, LATENT, generator=draw, dtype=torch.float64))[0]
        loadings = orthogonal * torch.tensor([2.0, 1.0, 0.3]).double()
        bias = torch.randn(DIMS, generator=draw, dtype=torch.float64)
        m = torch.diag(loadings.T @ loadings) + SIGMA**2
        back = loadings.T / m[:, None]
        self.config = ModelConfig(
            data=DATA, network=MLPNetwork(hidden=()), latent=LATENT, likelihood=GaussianLikelihood(scale="shared")
        )
        self.vae = VAE(self.config)
        self._fill(
            self.vae.encoder.layers,
            torch.cat([back, torch.zeros_like(back)]),
            torch.cat([-back @ bias + shift, (0.5 * (SIGMA**2 / m).log() + math.log(stretch))]),
        )
        self._fill(self.vae.decoder.layers, loadings, bias)
        # The inverse of softplus, above the floor.
        nn.init.constant_(self.vae.head.raw_scale, math.log(math.expm1(SIGMA - 0.01)))  # type: ignore[arg-type]
        unit, center = torch.tensor(DATA.std).double(), torch.tensor(DATA.mean).double()
        covariance = loadings @ loadings.T + SIGMA**2 * torch.eye(DIMS, dtype=torch.float64)
        covariance = unit[:, None] * covariance * unit
        self.covariance: Floats = covariance.numpy()
        marginal = torch.distributions.MultivariateNormal(center + unit * bias, covariance)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # What the service gets is float32, and so exact for that.
            self.x: NDArray[np.float32] = marginal.sample((8,)).float().numpy()
        nlog: Tensor = -marginal.log_prob(torch.from_numpy(self.x).double())  # type: ignore[no-untyped-call]
        self.nlog_p_x: Floats = nlog.numpy()
        # KL(N(mean + shift, (stretch s)^2), N(mean, s^2)), summed: the same for every x.
        variance = (SIGMA**2 / m).numpy()
        self.divergence = float((0.5 * (stretch**2 - 1 + shift**2 / variance) - math.log(stretch)).sum())

    @staticmethod
    def _fill(layers: Any, weight: Tensor, bias: Tensor) -> None:
        (linear,) = layers
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)


@dataclass(frozen=True)
class Known:
    """A model in closed form, and a client of a service that serves it from its folder."""

    ppca: PPCA
    client: Client


def served(folder: Path, ppca: PPCA, transport: Transport) -> Iterator[Known]:
    save(folder, ppca.vae, Card(name="ppca", created="2024-01-01"))
    with client_of(load(folder), transport, max_samples=5000, max_work=1 << 17) as client:
        yield Known(ppca, client)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Known]:
    """A service of a model whose encoder gives the true posterior."""
    yield from served(tmp_path_factory.mktemp("ppca") / "exact", PPCA(), transport)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Known]:
    """A service of a model whose encoder gives a shifted and wider Q."""
    yield from served(tmp_path_factory.mktemp("ppca") / "wrong", PPCA(shift=0.2, stretch=1.3), transport)


def test_the_model_is_linear_and_in_the_units_of_its_columns(exact: Known) -> None:
    card = exact.client.get("/model").json()
    assert card["network"] == {"name": "mlp", "hidden": []}
    assert card["weights"] == (DIMS + 1) * 2 * LATENT + (LATENT + 1) * DIMS + 1
    assert card["data"]["std"] == list(DATA.std)


@over_asgi
@pytest.mark.parametrize("seed", [0, 1, 77])
@pytest.mark.parametrize("samples", [1, 2, 64, 1000])
def test_at_the_true_posterior_every_score_is_exact(exact: Known, seed: int, samples: int) -> None:
    answer = scores(exact.client, exact.ppca.x, f"samples={samples}&seed={seed}")
    np.testing.assert_allclose(answer["free_energy"], exact.ppca.nlog_p_x, rtol=1e-4)
    np.testing.assert_allclose(answer["nlog_p_x"], exact.ppca.nlog_p_x, rtol=1e-4)
    np.testing.assert_allclose(answer["inference_gap"], 0, atol=1e-4)
    np.testing.assert_allclose(answer["effective_sample_size"], samples, rtol=1e-3)
    if samples > 1:
        assert (answer["standard_error"] < 1e-4).all()


def test_refinement_of_the_true_posterior_has_no_regret(exact: Known) -> None:
    answer = scores(exact.client, exact.ppca.x, "samples=100&refine=50")
    np.testing.assert_allclose(answer["free_energy"], exact.ppca.nlog_p_x, rtol=2e-3)
    np.testing.assert_allclose(answer["regret"], 0, atol=1e-2)


@over_asgi
def test_a_single_row_has_the_exact_score(exact: Known) -> None:
    for row, expected in zip(exact.ppca.x, exact.ppca.nlog_p_x, strict=True):
        answer = exact.client.post("/free-energy?samples=3", **npy(row[None])).json()
        assert answer["free_energy"][0] == pytest.approx(expected, rel=1e-4)


@over_asgi
@pytest.mark.parametrize("seed", [0, 1, 77])
def test_free_energy_of_another_q_exceeds_nlog_p_x_by_its_divergence(wrong: Known, seed: int) -> None:
    answer = scores(wrong.client, wrong.ppca.x, f"samples=5000&seed={seed}")
    excess = answer["free_energy"] - wrong.ppca.nlog_p_x
    assert wrong.ppca.divergence > 0.3
    assert (np.abs(excess - wrong.ppca.divergence) <= 4 * answer["standard_error"]).all()
    assert (answer["standard_error"] < 0.1 * wrong.ppca.divergence).all()
    # The importance-weighted bound lies between the two, and close to the lower one with so many draws.
    np.testing.assert_allclose(answer["nlog_p_x"], wrong.ppca.nlog_p_x, atol=0.1 * wrong.ppca.divergence)
    assert (answer["effective_sample_size"] < 4999).all()


@over_asgi
def test_the_weighted_bound_approaches_nlog_p_x_with_more_draws(wrong: Known) -> None:
    def bound(samples: int) -> float:
        answers = [scores(wrong.client, wrong.ppca.x, f"samples={samples}&seed={seed}") for seed in range(20)]
        return float(np.mean([answer["nlog_p_x"] - wrong.ppca.nlog_p_x for answer in answers]))

    few, more, most = bound(1), bound(8), bound(200)
    assert few > more > most > -0.02
    assert most < 0.1 * few


@over_asgi
def test_refinement_approaches_the_true_posterior(wrong: Known) -> None:
    ppca = wrong.ppca
    excess = [
        scores(wrong.client, ppca.x, f"samples=100&refine={steps}")["free_energy"] - ppca.nlog_p_x
        for steps in (0, 10, 50, 150)
    ]
    assert (excess[0] > excess[1]).all()
    assert excess[1].mean() > excess[2].mean() > excess[3].mean()
    assert (np.abs(excess[3]) < 0.1 * ppca.divergence).all()


@over_asgi
def test_regret_equals_the_divergence_of_the_wrong_encoder(wrong: Known) -> None:
    answer = scores(wrong.client, wrong.ppca.x, "samples=100&refine=150")
    encoder = scores(wrong.client, wrong.ppca.x, "samples=100")
    error = np.hypot(answer["standard_error"], encoder["standard_error"])
    assert (np.abs(answer["regret"] - wrong.ppca.divergence) < 4 * error + 0.1 * wrong.ppca.divergence).all()
    assert (answer["inference_gap"] < encoder["inference_gap"]).all()
    assert (answer["effective_sample_size"] > encoder["effective_sample_size"]).all()


@over_asgi
@pytest.mark.parametrize("which", ["exact", "wrong"])
def test_samples_have_the_covariance_of_the_model(exact: Known, wrong: Known, which: str) -> None:
    service = exact if which == "exact" else wrong
    x = np.array([service.client.get(f"/sample?n=64&noise=true&seed={seed}").json()["outputs"] for seed in range(30)])
    covariance = np.cov(x.reshape(-1, DIMS).T)
    expected = service.ppca.covariance
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(covariance - expected) < 5 * scale * np.sqrt(2 / 1920)).all()
