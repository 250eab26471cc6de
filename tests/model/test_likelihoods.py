"""Likelihoods: normalization, extreme parameters and draws."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import ImageData, ModelConfig
from model.likelihoods import LIKELIHOODS, Gaussian
from model.likelihoods.bernoulli import Bernoulli
from model.likelihoods.discretized import (
    AutoregressiveLogistic,
    DiscretizedLikelihood,
    DiscretizedLogistic,
)
from model.likelihoods.gaussian import GaussianLikelihood
from tests.support.data import grid, uniforms
from tests.support.models import CONFIGS, GREY, MLP, build

UNIFORM = 2.0**-8
MEANS = (-1e6, -1e4, -300.0, -1.0, -0.5, 0.0, 0.2, 77.7, 127.5, 200.01, 254.7, 255.0, 255.5, 300.0, 1e4, 1e6)
SCALES = (0.01, 0.1, 0.3, 0.5, 0.7, 1.0, 5.0, 50.0, 500.0, 4096.0, 1e5, 1e6)
BYTES = torch.arange(256.0)


def one_component(means: tuple[float, ...] = MEANS, scales: tuple[float, ...] = SCALES) -> DiscretizedLogistic:
    """Every mean with every scale, as the dimensions of one sample."""
    mean, scale = (
        t.reshape(1, 1, -1) for t in torch.meshgrid(torch.tensor(means), torch.tensor(scales), indexing="ij")
    )
    return DiscretizedLogistic(torch.zeros_like(mean), mean, scale, UNIFORM)


def mixture(components: int, seed: int = 0, dims: int = 400) -> DiscretizedLogistic:
    """Mixtures of the same means and scales with random weights, some of them next to nothing."""
    draw = torch.Generator().manual_seed(seed)
    shape = (1, components, dims)
    means = torch.tensor(MEANS)[torch.randint(len(MEANS), shape, generator=draw)]
    scales = torch.tensor(SCALES)[torch.randint(len(SCALES), shape, generator=draw)]
    return DiscretizedLogistic(10 * torch.randn(shape, generator=draw), means, scales, UNIFORM)


def nlog_of_all_bytes(p: DiscretizedLogistic) -> Tensor:
    """256 x dims, nats."""
    dims = p.mean_bytes.shape[2]
    return p.nlog_prob((BYTES / 255).unsqueeze(1).expand(256, dims))


def exact_mean(p: DiscretizedLogistic) -> Tensor:
    """sum_v v P(v), in bytes."""
    return (nlog_of_all_bytes(p).double().neg().exp() * BYTES.double().unsqueeze(1)).sum(0)


def _head(config: ModelConfig) -> Any:
    """The head that the configuration asks for."""
    return config.likelihood.head(config.data)


def log_prob(p: torch.distributions.Distribution, x: Tensor) -> Tensor:
    result: Tensor = p.log_prob(x)
    return result


DISCRETIZED = {"one": one_component(), "three": mixture(3)}


@pytest.mark.parametrize("p", DISCRETIZED.values(), ids=DISCRETIZED)
class TestDiscretized:
    def test_sums_to_one(self, p: DiscretizedLogistic) -> None:
        total = nlog_of_all_bytes(p).double().neg().exp().sum(0)
        assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-5)

    def test_no_byte_costs_more_than_the_uniform_component_says(self, p: DiscretizedLogistic) -> None:
        nlog = nlog_of_all_bytes(p)
        assert torch.isfinite(nlog).all()
        assert nlog.max() <= math.log(256 / UNIFORM) * (1 + 1e-6)
        assert nlog.min() >= -1e-6

    def test_mean_is_that_of_the_bytes(self, p: DiscretizedLogistic) -> None:
        error = (255 * p.mean[0].double() - exact_mean(p)).abs()
        assert error.max() <= 0.5
        assert error[(p.scale >= 0.5).all(dim=1)[0] & (p.scale <= 5000).all(dim=1)[0]].max() <= 0.025

    def test_mean_is_a_value_that_a_pixel_can_take(self, p: DiscretizedLogistic) -> None:
        assert (p.mean >= 0).all() and (p.mean <= 1).all()

    def test_draws_have_the_frequencies_of_their_probabilities(self, p: DiscretizedLogistic) -> None:
        probability = nlog_of_all_bytes(p).double().neg().exp()
        u = torch.from_numpy(grid(1 << 14))
        for dim in range(0, probability.shape[1], 13):
            # All uniforms at once, as the pixels of one sample that share their parameters.
            logits, mean, scale = (
                t[:, :, dim : dim + 1].expand(-1, -1, len(u)) for t in (p.log_weights, p.mean_bytes, p.scale)
            )
            drawn = DiscretizedLogistic(logits, mean, scale, UNIFORM).sample(u[None])[0] * 255
            assert torch.equal(drawn, drawn.round())
            often = torch.bincount(drawn.long(), minlength=256).double() / len(u)
            assert 0.5 * (often - probability[:, dim]).abs().sum() < 1e-2


def test_a_draw_from_the_uniform_component_is_any_byte_alike() -> None:
    u = torch.from_numpy(grid(1 << 14))[None]
    mean = torch.full((1, 1, u.shape[1]), 100.0)
    drawn = DiscretizedLogistic(torch.zeros_like(mean), mean, 0.1 * torch.ones_like(mean), 0.9).sample(u)
    often = torch.bincount((drawn[0] * 255).round().long(), minlength=256) / u.shape[1]
    others = often[(BYTES - 100).abs() > 5]
    assert torch.allclose(others, torch.full_like(others, 0.9 / 256), atol=2 / u.shape[1])


@pytest.mark.parametrize("mean", [-1e30, -1e12, -1e8, 1e8, 1e12, 1e30])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4112.0])
def test_discretized_mean_of_extreme_locations_is_at_the_nearer_bound(mean: float, scale: float) -> None:
    p = one_component((mean,), (scale,))
    assert abs(255 * p.mean.item() - exact_mean(p).item()) <= 0.5


@pytest.mark.parametrize("raw_mean", [-1e30, -300.0, 0.0, 300.0, 1e30])
@pytest.mark.parametrize("raw_scale", [-1e30, -50.0, 0.0, 50.0, 1e30])
def test_discretized_is_finite_with_finite_gradients_for_extreme_parameters(raw_mean: float, raw_scale: float) -> None:
    head = _head(CONFIGS["grey-mlp-discretized"])
    raw = torch.zeros(256, 3, 3, 1, 8, 8)
    raw[:, 1], raw[:, 2] = raw_mean, raw_scale
    raw[:, 0, 0], raw[:, 0, 1] = 1e30, -1e30
    raw = raw.view(256, 9, 1, 8, 8).requires_grad_()
    nlog = head(raw).nlog_prob((BYTES / 255).view(256, 1, 1, 1).expand(256, 1, 8, 8))
    nlog.sum().backward()
    assert torch.isfinite(nlog).all()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_discretized_rounds_to_the_nearest_byte() -> None:
    p = one_component((100.0,), (2.0,))
    x = torch.tensor([[100.0], [100.4], [99.6], [101.0]]) / 255
    cost = p.nlog_prob(x)
    assert cost[0] == cost[1] == cost[2] != cost[3]


def test_discretized_head_keeps_scales_above_their_floor() -> None:
    config = ModelConfig(data=GREY, network=MLP, likelihood=DiscretizedLikelihood(components=2, min_scale=0.25))
    p = _head(config)(torch.full((1, 6, 1, 8, 8), -1e30))
    assert (p.scale == 0.25).all()


def test_discretized_head_starts_its_components_apart() -> None:
    p = _head(CONFIGS["grey-mlp-discretized"])(torch.zeros(1, 9, 1, 8, 8))
    assert len(p.mean_bytes[0, :, 0, 0, 0].unique()) == 3


class TestAutoregressive:
    """Properties of autoregressive likelihoods, for grey and RGB images of 6 x 5 pixels."""

    @staticmethod
    def drawn(channels: int, seed: int = 0) -> tuple[AutoregressiveLogistic, Tensor]:
        """A distribution with coefficients of all sizes, and three random images."""
        data = ImageData(height=6, width=5, channels=3 if channels == 3 else 1)
        likelihood = DiscretizedLikelihood(components=2, autoregressive=True)
        head = _head(ModelConfig(data=data, network=MLP, likelihood=likelihood))
        draw = torch.Generator().manual_seed(seed)
        p = head(torch.randn(3, head.params, *data.shape, generator=draw))
        assert isinstance(p, AutoregressiveLogistic)
        return p, torch.randint(256, (3, *data.shape), generator=draw) / 255

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_byte_conditions_only_the_channels_after_it(self, channels: int) -> None:
        p, x = self.drawn(channels)
        before = p.nlog_prob(x)
        for channel, row, column in itertools.product(range(channels), range(6), range(5)):
            other = x.clone()
            other[:, channel, row, column] = (other[:, channel, row, column] + 0.4) % 1
            told = {(channel, row, column + 1), (channel, row + 1, column - 1)}
            told |= {(channel, row + 1, column), (channel, row + 1, column + 1)}
            told |= {(after, row, column) for after in range(channel, channels)}
            changed = (p.nlog_prob(other) != before).any(dim=0)
            inside = {place for place in told if place[1] < 6 and 0 <= place[2] < 5}
            assert {tuple(place) for place in changed.nonzero().tolist()} == inside

    @pytest.mark.parametrize("channels", [1, 3])
    def test_each_byte_has_a_probability_given_those_before(self, channels: int) -> None:
        p, x = self.drawn(channels)
        for channel, row, column in itertools.product(range(channels), range(6), range(5)):
            all_bytes = x[:1].repeat(256, 1, 1, 1)
            all_bytes[:, channel, row, column] = BYTES / 255
            one = AutoregressiveLogistic(
                DiscretizedLogistic(
                    p.independent.log_weights[:1], p.independent.mean_bytes[:1], p.independent.scale[:1], UNIFORM
                ),
                p.scale[:1],
                p.coefficients[:1],
            )
            nlog = one.nlog_prob(all_bytes)[:, channel, row, column].double()
            assert abs(nlog.neg().exp().sum().item() - 1) < 1e-5

    @pytest.mark.parametrize("channels", [1, 3])
    def test_waves_equal_pixel_by_pixel_sampling(self, channels: int) -> None:
        p, x = self.drawn(channels)
        q = p.independent
        u = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
        drawn, missed = p.sample(u), torch.zeros_like(x)
        for row, column, channel in itertools.product(range(6), range(5), range(channels)):
            neighbours = [(channel, row, column - 1), (channel, row - 1, column - 1)]
            neighbours += [(channel, row - 1, column), (channel, row - 1, column + 1)]
            neighbours += [(channel - back, row, column) for back in range(1, channels)]
            at = (..., channel, row, column)
            shift = torch.zeros(len(x))
            for coefficient, (other, up, beside) in zip(p.coefficients[at].unbind(1), neighbours, strict=True):
                if other >= 0 and up >= 0 and 0 <= beside < 5:
                    shift += coefficient * missed[:, other, up, beside]
            # A distribution over one pixel, of which nothing but its parameters is known here.
            alone = DiscretizedLogistic(q.log_weights[at], q.mean_bytes[at] + shift[:, None], p.scale[at], q.uniform)
            byte = (drawn[at] * 255).round()
            # Room for one byte: sums in another order may round to the next one.
            assert ((alone.sample(u[at]) * 255).round() - byte).abs().max() <= 1
            missed[at] = byte - 255 * p.mean[at]

    def test_the_mean_cost_of_draws_is_their_entropy(self) -> None:
        """The mean cost of draws is the mean over draws of the exact entropy of each byte given those before."""
        p, _ = self.drawn(1)
        many = 4000
        log_weights, mean, own, scale, coefficients = (
            t[:1].expand(many, *t.shape[1:])
            for t in (
                p.independent.log_weights,
                p.independent.mean_bytes,
                p.independent.scale,
                p.scale,
                p.coefficients,
            )
        )
        wide = AutoregressiveLogistic(DiscretizedLogistic(log_weights, mean, own, UNIFORM), scale, coefficients)
        drawn = wide.sample(torch.from_numpy(uniforms(many, (1, 6, 5))))
        at = (slice(None), 0, 5, 4)
        all_costs = []
        for byte in BYTES:
            other = drawn.clone()
            other[at] = byte / 255
            all_costs.append(wide.nlog_prob(other)[at].double())
        nlog = torch.stack(all_costs)
        entropy = (nlog.neg().exp() * nlog).sum(0)
        cost = wide.nlog_prob(drawn)[at].double()
        error = (cost - entropy).std() / math.sqrt(many)
        assert abs((cost - entropy).mean()) < 4 * error

    def test_without_coefficients_bytes_are_independent(self) -> None:
        p, x = self.drawn(3)
        alone = AutoregressiveLogistic(p.independent, p.independent.scale, torch.zeros_like(p.coefficients))
        assert torch.equal(alone.nlog_prob(x), p.independent.nlog_prob(x))
        u = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
        assert torch.equal(alone.sample(u), p.independent.sample(u))

    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 7, 1), (3, 2, 2)])
    def test_pictures_of_any_shape_can_be_drawn(self, shape: tuple[int, ...]) -> None:
        channels = shape[0]
        one = torch.zeros(2, 1, *shape)
        independent = DiscretizedLogistic(one, one + 100, one + 3, UNIFORM)
        p = AutoregressiveLogistic(independent, one + 3, torch.full((2, 3 + channels, *shape), 0.3))
        x = p.sample(torch.full((2, *shape), 0.7))
        assert x.shape == (2, *shape)
        assert ((x * 255 - 100).abs() < 60).all()

    @pytest.mark.parametrize("raw", [-1e30, -50.0, 0.0, 50.0, 1e30])
    def test_is_finite_with_finite_gradients_for_extreme_parameters(self, raw: float) -> None:
        _, x = self.drawn(3)
        likelihood = DiscretizedLikelihood(components=2, autoregressive=True)
        data = ImageData(height=6, width=5, channels=3)
        head = _head(ModelConfig(data=data, network=MLP, likelihood=likelihood))
        parameters = torch.full((3, head.params, 3, 6, 5), raw, requires_grad=True)
        p = head(parameters)
        nlog = p.nlog_prob(x)
        nlog.sum().backward()
        assert torch.isfinite(nlog).all() and parameters.grad is not None and torch.isfinite(parameters.grad).all()
        assert torch.isfinite(p.sample(x)).all()


class TestGaussian:
    mean = torch.tensor([-3.0, 0.0, 0.5, 100.0], dtype=torch.float64)
    scale = torch.tensor([0.01, 1.0, 2.0, 30.0], dtype=torch.float64)

    def test_integrates_to_one(self) -> None:
        at = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None] * self.scale + self.mean
        density = Gaussian(self.mean, self.scale).nlog_prob(at).neg().exp()
        area = torch.trapezoid(density, at, dim=0)
        assert torch.allclose(area, torch.ones_like(area), rtol=0, atol=1e-9)

    def test_agrees_with_torch(self) -> None:
        ours, theirs = Gaussian(self.mean, self.scale), torch.distributions.Normal(self.mean, self.scale)
        prior = torch.distributions.Normal(torch.zeros(4).double(), torch.ones(4).double())
        x = torch.linspace(-50, 150, 401, dtype=torch.float64)[:, None].expand(401, 4)
        assert torch.allclose(ours.nlog_prob(x), -log_prob(theirs, x), rtol=1e-12)
        assert torch.allclose(ours.kl_to_normal(), torch.distributions.kl_divergence(theirs, prior), rtol=1e-12)
        assert torch.allclose(ours.variance, theirs.variance)

    def test_the_analytic_rate_equals_the_mean_over_draws(self) -> None:
        q = Gaussian(torch.tensor([0.0, -1.0, 2.0]), torch.tensor([1.3, 0.2, 0.7]))
        prior = Gaussian(torch.zeros(3), torch.ones(3))
        z = q.draw(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)))
        drawn = prior.nlog_prob(z) - q.nlog_prob(z)
        error = drawn.std(0) / math.sqrt(len(z))
        assert ((drawn.mean(0) - q.kl_to_normal()).abs() < 4 * error).all()

    def test_rate_is_zero_at_the_prior_alone(self) -> None:
        assert Gaussian(torch.zeros(2), torch.ones(2)).kl_to_normal().sum() == 0
        assert (Gaussian(torch.tensor([0.1, 0.0]), torch.tensor([1.0, 0.9])).kl_to_normal() > 0).all()

    def test_a_shared_scale_counts_for_every_dimension(self) -> None:
        shared = Gaussian(self.mean, torch.tensor([2.0]).double())
        assert torch.equal(shared.variance, torch.full((4,), 4.0).double())

    def test_quantiles_are_those_of_a_normal(self) -> None:
        u = torch.tensor([0.5, 0.8413447, 0.0013499]).double()
        drawn = Gaussian(torch.full((3,), 10.0).double(), torch.tensor([2.0]).double()).sample(u)
        assert torch.allclose(drawn, torch.tensor([10.0, 12.0, 4.0]).double(), atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_both_ends_of_the_uniform_give_finite_draws(self, dtype: torch.dtype) -> None:
        drawn = Gaussian(torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)).sample(
            torch.tensor([0, 1], dtype=dtype)
        )
        assert torch.isfinite(drawn).all()


class TestBernoulli:
    p = Bernoulli(torch.tensor([[-200.0, -30.0, -1.0, 0.0, 2.0, 30.0, 200.0]]))

    def test_sums_to_one(self) -> None:
        total = sum(self.p.nlog_prob(torch.full((1, 7), bit)).double().neg().exp() for bit in (0.0, 1.0))
        assert torch.allclose(torch.as_tensor(total), torch.ones(1, 7).double(), atol=1e-6)

    @pytest.mark.parametrize("bit", [0.0, 1.0])
    def test_agrees_with_torch(self, bit: float) -> None:
        x = torch.full((1, 7), bit)
        theirs = torch.distributions.Bernoulli(logits=self.p.logits)
        assert torch.allclose(self.p.nlog_prob(x), -log_prob(theirs, x), rtol=1e-6)
        assert torch.allclose(self.p.mean, theirs.mean)

    def test_rounds_to_the_nearest_bit(self) -> None:
        x = torch.tensor([0.1, 0.49, 0.5, 0.9])[:, None].expand(4, 7)
        assert torch.equal(self.p.nlog_prob(x), self.p.nlog_prob(x.round().where(x != 0.5, 1.0)))

    def test_a_certain_bit_is_never_drawn_otherwise(self) -> None:
        p = Bernoulli(torch.tensor([[-1e9, 1e9]]))
        assert torch.equal(p.sample(torch.tensor([[0.0, 1 - 2**-24]])), torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("name", CONFIGS)
def test_draws_of_every_likelihood_average_to_its_mean(name: str) -> None:
    vae = build(name)
    z = torch.randn(1, vae.config.latent, generator=torch.Generator().manual_seed(1))
    p = vae.decode(z.expand(1000, -1))
    drawn = p.sample(torch.from_numpy(uniforms(1000, vae.config.data.shape))).double()
    error = drawn.std(0) / math.sqrt(len(drawn))
    # The discretized mean is an integral, up to a fortieth of a byte from the sum at these scales.
    slack = 0.025 / 255 if vae.levels == 256 else 0.0
    assert ((drawn.mean(0) - p.mean[0]).abs() < 4.5 * error + slack).all()


@pytest.mark.parametrize("name", [name for name, each in CONFIGS.items() if not each.likelihood.has_auxiliary_loss])
def test_a_draw_depends_on_its_own_uniform_alone(name: str) -> None:
    vae = build(name)
    z = torch.randn(3, vae.config.latent, generator=torch.Generator().manual_seed(1))
    u = torch.from_numpy(uniforms(3, vae.config.data.shape))
    other = u.clone()
    other[:, ..., 0] = 0.5
    first, second = vae.decode(z).sample(u), vae.decode(z).sample(other)
    assert torch.equal(first[..., 1:], second[..., 1:])
    assert not torch.equal(first[..., 0], second[..., 0])


@pytest.mark.parametrize("shared", [True, False])
def test_a_gaussian_head_has_one_scale_or_one_each_above_the_floor(shared: bool) -> None:
    likelihood = GaussianLikelihood(scale="shared" if shared else "per_dimension", min_scale=0.5)
    head = _head(ModelConfig(data=GREY, network=MLP, likelihood=likelihood))
    assert head.raw_scale.numel() == (1 if shared else GREY.dims)
    torch.nn.init.constant_(head.raw_scale, -1e30)
    p = head(torch.zeros(2, 1, 1, 8, 8))
    assert (p.variance == 0.25).all()
    assert p.variance.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_has_its_own_name_and_a_head(name: str) -> None:
    likelihood = LIKELIHOODS[name].default_for(GREY)
    assert likelihood.name == name
    head = likelihood.head(GREY)
    p = head(torch.zeros(1, head.params, *GREY.shape))
    assert p.mean.shape == (1, *GREY.shape)
    assert (p.auxiliary_nlog_prob(p.mean) is not None) == likelihood.has_auxiliary_loss


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_exactly_one_likelihood_is_the_default_of_samples(dtype: type) -> None:
    assert sum(kind.is_default_for(np.zeros(1, dtype)) for kind in LIKELIHOODS.values()) == 1
