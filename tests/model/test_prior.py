"""Priors: the flow's density and its samples belong to one distribution."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.config import ModelConfig
from model.errors import ConfigError
from model.likelihoods import Gaussian
from model.prior import FlowPrior, FlowPriorConfig, Label, Prior, StandardPrior, StandardPriorConfig, build_prior
from model.vae import VAE
from tests.support.models import CONFIGS

LABELS = (Label(name="a", probability=0.7), Label(name="b", probability=0.3))


def flow(latent: int, *, seed: int = 0, strength: float = 0.5, labels: tuple[Label, ...] = ()) -> FlowPrior:
    """A flow in double precision, with weights as after a training: no step is the identity."""
    prior = build_prior(
        latent, FlowPriorConfig(couplings=4, hidden=(16, 16), labels=labels, label_couplings=2, label_hidden=16)
    )
    assert isinstance(prior, FlowPrior)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim == 2 else 1
            parameter.copy_(strength * torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return prior.double().requires_grad_(False)


def normal(rows: int, latent: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, latent, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_standard_prior_is_a_standard_normal() -> None:
    prior, z = build_prior(3, StandardPriorConfig()), normal(5, 3)
    assert isinstance(prior, StandardPrior)
    torch.testing.assert_close(prior.nlog_prob(z), Gaussian(torch.zeros(3), torch.ones(3)).nlog_prob(z).sum(1))
    assert prior.to_latent(z) is z
    assert prior.to_base(z) is z


def test_a_new_flow_is_a_standard_normal() -> None:
    prior, z = build_prior(6, FlowPriorConfig()), normal(5, 6).float()
    torch.testing.assert_close(prior.nlog_prob(z), StandardPrior().nlog_prob(z))


def test_a_flow_can_start_from_the_mean_and_deviation_of_latents() -> None:
    prior = FlowPrior(3, FlowPriorConfig()).double()
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    prior.standardize(mean, std)
    z = normal(5, 3)
    expected = Gaussian(mean.double(), std.double()).nlog_prob(z).sum(1)
    torch.testing.assert_close(prior.nlog_prob(z), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(prior.to_latent(torch.zeros(1, 3).double())[0], mean.double())


@pytest.mark.parametrize("latent", [2, 5, 64])
def test_to_base_inverts_to_latent(latent: int) -> None:
    prior, epsilon = flow(latent).float(), normal(100, latent).float()
    z = prior.to_latent(epsilon)
    assert (z - epsilon).abs().max() > 0.5
    torch.testing.assert_close(prior.to_base(z), epsilon, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("latent", [2, 5])
def test_the_density_is_that_of_a_change_of_variables(latent: int) -> None:
    prior = flow(latent)
    for z in normal(4, latent).unsqueeze(1):
        jacobian = torch.func.jacrev(prior.to_base)(z)
        log_determinant = torch.linalg.slogdet(jacobian[0, :, 0])[1]
        expected = StandardPrior().nlog_prob(prior.to_base(z)) - log_determinant
        torch.testing.assert_close(prior.nlog_prob(z), expected)


@pytest.mark.parametrize("labels", [(), LABELS], ids=["plain", "labels"])
def test_the_density_adds_up_to_one(labels: tuple[Label, ...]) -> None:
    prior = flow(2, labels=labels, strength=0.3)
    axis = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    total = torch.exp(-prior.nlog_prob(torch.cartesian_prod(axis, axis))).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("labels", [(), LABELS], ids=["plain", "labels"])
def test_samples_have_the_density(labels: tuple[Label, ...]) -> None:
    """The share of samples in a box is the integral of the density over it."""
    prior = flow(2, labels=labels)
    drawn = prior.draw_labels(np.random.default_rng(0).random(200_000))
    z = prior.to_latent(prior.place(normal(200_000, 2), drawn))
    center, half = z.median(dim=0).values, 0.7
    inside = ((z - center).abs() < half).all(dim=1).double().mean()
    axis = torch.linspace(-half, half, 301, dtype=torch.float64)
    density = torch.exp(-prior.nlog_prob(torch.cartesian_prod(axis, axis) + center)).view(301, 301)
    weights = torch.ones(301, dtype=torch.float64)
    weights[[0, -1]] = 0.5
    integral = float((density * weights[:, None] * weights).sum() * (axis[1] - axis[0]) ** 2)
    assert inside == pytest.approx(integral, abs=4 * math.sqrt(0.25 / 200_000))
    assert 0.1 < inside < 0.9


def test_the_density_under_a_label_is_that_of_its_samples() -> None:
    prior = flow(2, labels=LABELS, strength=0.3)
    axis = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    given = torch.exp(-prior.nlog_prob_given(grid)) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(given.sum(0), torch.ones(2, dtype=torch.float64), atol=1e-3, rtol=0)
    for label in (0, 1):
        z = prior.to_latent(prior.place(normal(100_000, 2), np.full(100_000, label)))
        mean = given[:, label] @ grid
        torch.testing.assert_close(z.mean(0), mean, atol=0.03, rtol=0)
    shares = torch.tensor([label.probability for label in LABELS], dtype=torch.float64)
    torch.testing.assert_close(torch.exp(-prior.nlog_prob(grid)), torch.exp(-prior.nlog_prob_given(grid)) @ shares)


def test_couplings_of_labels_invert() -> None:
    base, epsilon = flow(5, labels=LABELS).base, normal(6, 5)
    assert base is not None
    labels = np.array([0, 1, 1, 0, 1, 0])
    u = base.place(epsilon, labels)
    for coupling in base.steps:
        u = coupling.to_base(u, torch.from_numpy(labels))[0]
    picks = torch.from_numpy(labels)
    torch.testing.assert_close((u - base.mean[picks]) * torch.exp(-base.log_scale[picks]), epsilon)


def test_labels_are_drawn_by_their_shares() -> None:
    drawn = flow(2, labels=LABELS).draw_labels(np.array([0.0, 0.699, 0.701, 0.999999]))
    assert drawn.tolist() == [0, 0, 1, 1]
    assert StandardPrior().draw_labels(np.array([0.3, 0.9])).tolist() == [0, 0]
    assert flow(2).draw_labels(np.array([0.9])).tolist() == [0]


@pytest.mark.parametrize(
    "prior", [StandardPrior(), flow(3), flow(3, labels=LABELS)], ids=["standard", "flow", "labels"]
)
def test_the_rate_is_the_divergence_of_q_from_the_prior(prior: Prior) -> None:
    mean, scale = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([0.5, 0.9, 0.2]).double()
    q = Gaussian(mean.expand(100_000, 3), scale.expand(100_000, 3))
    z = q.draw(normal(100_000, 3))
    drawn = prior.nlog_prob(z) - q.nlog_prob(z).sum(1)
    error = float(drawn.std() / math.sqrt(len(z)))
    assert prior.rate(q, z).mean() == pytest.approx(float(drawn.mean()), abs=5 * error)
    assert (float(prior.rate(q, z).std()) < 1e-9) == prior.analytic_rate


@pytest.mark.parametrize("prior", [StandardPrior(), flow(3).float()], ids=["standard", "flow"])
def test_nats_are_summed_in_double_precision(prior: Prior) -> None:
    assert prior.nlog_prob(torch.randn(2, 3)).dtype == torch.float64


def test_rows_do_not_depend_on_each_other() -> None:
    prior, z = flow(4), normal(6, 4)
    torch.testing.assert_close(prior.nlog_prob(z)[2:3], prior.nlog_prob(z[2:3]))


def test_every_coupling_has_halves_of_its_own() -> None:
    orders = {tuple(coupling.order.tolist()) for coupling in flow(16).steps}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(16)) for order in orders)
    # A model that was saved earlier has these halves.
    assert FlowPrior(8, FlowPriorConfig(couplings=1)).steps[0].order.tolist() == [4, 7, 0, 3, 5, 1, 2, 6]


@pytest.mark.parametrize(
    "settings",
    [
        {"couplings": 0},
        {"hidden": ()},
        {"hidden": (0,)},
        {"layers": 3},
        {"labels": [{"name": "a", "probability": 0.5}, {"name": "a", "probability": 0.5}]},
        {"labels": [{"name": "a", "probability": 0.5}, {"name": "b", "probability": 0.4}]},
        {"labels": [{"name": str(i), "probability": 1 / 65} for i in range(65)]},
    ],
)
def test_invalid_configurations_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FlowPriorConfig(**settings)


def test_a_flow_needs_two_dimensions() -> None:
    values = CONFIGS["table-mlp-gaussian"].model_dump() | {"prior": {"name": "flow"}}
    with pytest.raises(ConfigError, match="use 'standard'"):
        ModelConfig.build(**values | {"latent": 1})
    assert isinstance(VAE(ModelConfig.build(**values)).prior, FlowPrior)


def test_format_1_has_the_standard_prior() -> None:
    values = CONFIGS["grey-mlp-discretized"].model_dump(exclude={"prior"})
    old = ModelConfig.build(**values | {"format": 1})
    assert old == CONFIGS["grey-mlp-discretized"]
    with pytest.raises(ConfigError, match="format"):
        ModelConfig.build(**values | {"format": 1, "prior": {"name": "flow"}})
