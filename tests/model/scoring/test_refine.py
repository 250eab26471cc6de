"""Refinement: convergence to a known posterior, no loss, independence of rows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model import random
from model.likelihoods import Gaussian
from model.scoring import refine as module
from model.scoring.batches import estimate
from model.scoring.free_energy import FreeEnergy
from model.scoring.refine import EPSILON, LEARNING_RATE, VALIDATION_DRAWS, compare_q, refine_step, select_q
from model.vae import LOG_SCALE_BOUNDS, VAE, to_gaussian
from tests.support.data import Memory, rows, stripes
from tests.support.models import CONFIGS, PPCA, build
from tests.support.scoring import refine


def inputs(name: str, count: int = 6) -> Tensor:
    data = CONFIGS[name].data
    samples = Memory(rows(count)) if data.kind == "vector" else Memory(stripes(count, data.shape))
    return torch.from_numpy(samples.samples).float() / (1 if data.kind == "vector" else 255)


def scores(vae: VAE, x: Tensor, q: Gaussian, draws: int = 200) -> FreeEnergy:
    """Free energy of q on draws that neither descend nor judge."""
    e = torch.from_numpy(random.normal(7, (draws, vae.config.latent))).to(q.mean.dtype)
    return estimate(vae, x, q, e)


def judged(vae: VAE, x: Tensor, q: Gaussian, refined: Gaussian, seed: int = 0) -> Tensor:
    """Excess of free energy of q over the refined Q, summed over the judging draws."""
    draws = torch.from_numpy(random.normal(seed, (VALIDATION_DRAWS, vae.config.latent), random.VALIDATE)).to(
        q.mean.dtype
    )
    return torch.stack([compare_q(vae, x, q, refined, draw.expand(len(x), -1)) for draw in draws]).sum(0)


class TestKnownModel:
    def test_a_wrong_q_moves_to_the_true_posterior(self, ppca: PPCA) -> None:
        wrong, posterior = ppca.wrong(), ppca.vae.encode(ppca.x)
        q = refine(ppca.vae, ppca.x, wrong, steps=200)
        before, after = (scores(ppca.vae, ppca.x, some).free_energy - ppca.nlog_p_x for some in (wrong, q))
        assert (before > 0.1).all()
        assert (np.abs(after) < 0.02).all()
        assert (q.mean - posterior.mean).abs().max() < 0.1 * (wrong.mean - posterior.mean).abs().max()

    def test_a_distant_q_moves_to_the_true_posterior(self, ppca: PPCA) -> None:
        prior = Gaussian(torch.zeros(8, 3).double(), torch.ones(8, 3).double())
        few, many = (
            scores(ppca.vae, ppca.x, refine(ppca.vae, ppca.x, prior, steps=steps)).free_energy - ppca.nlog_p_x
            for steps in (10, 300)
        )
        assert (scores(ppca.vae, ppca.x, prior).free_energy - ppca.nlog_p_x > 5).all()
        assert (many < 0.05).all()
        assert (many < few).all()

    def test_the_true_posterior_is_a_fixed_point(self, ppca: PPCA) -> None:
        q = refine(ppca.vae, ppca.x, ppca.vae.encode(ppca.x), steps=50)
        assert np.allclose(scores(ppca.vae, ppca.x, q).free_energy, ppca.nlog_p_x, atol=0.02)

    def test_the_first_step_is_that_of_adam(self, ppca: PPCA) -> None:
        q = ppca.wrong()
        params = torch.cat([q.mean, q.scale.log()], dim=1)
        zeros = torch.zeros_like(params)
        e, one = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double(), torch.ones(8, 1).double()
        moved = refine_step(ppca.vae, ppca.x, params, zeros, zeros, e, one, 10 * one)[0]
        here = params.clone().requires_grad_()
        mean, log_scale = here.chunk(2, dim=1)
        z = mean + log_scale.exp() * e
        rate = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        loss = ppca.vae.decode(z).nlog_prob(ppca.x).sum() + rate.sum()
        (gradient,) = torch.autograd.grad(loss, here)
        # Both moments are of one gradient: what is left of Adam is its sign, softened where it is small.
        assert torch.allclose(moved, params - LEARNING_RATE * gradient / (gradient.abs() + EPSILON), rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
class TestEveryModel:
    def test_free_energy_falls_and_never_rises_on_the_draws_that_judge(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        refined = refine(vae, x, q, steps=10)
        gain = judged(vae, x, q, refined)
        assert (gain >= 0).all()
        assert (gain > 0).any()
        regret = scores(vae, x, q).free_energy - scores(vae, x, refined).free_energy
        assert regret.mean() > 0

    def test_a_refined_row_does_not_depend_on_the_other_rows(self, name: str) -> None:
        """Measured: free energies by shared draws, alone and in a batch, to 1e-4 of their size."""
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        whole = scores(vae, x, refine(vae, x, q, steps=10), 8).free_energy
        for i in (0, 3, 5):
            one = slice(i, i + 1)
            own = refine(vae, x[one], Gaussian(q.mean[one], q.scale[one]), steps=10)
            assert scores(vae, x[one], own, 8).free_energy[0] == pytest.approx(whole[i], rel=1e-4)

    def test_a_row_that_is_not_finite_does_not_affect_others(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        sound = refine(vae, x, q, steps=5)
        mean = q.mean.clone()
        mean[2] = torch.inf
        spoiled = refine(vae, x, Gaussian(mean, q.scale), steps=5)
        others = [0, 1, 3, 4, 5]
        assert torch.allclose(spoiled.mean[others], sound.mean[others], atol=1e-5)
        assert torch.allclose(spoiled.scale[others], sound.scale[others], rtol=1e-5)
        assert torch.equal(spoiled.mean[2], mean[2])

    def test_results_depend_only_on_the_seed(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first, same, other = (refine(vae, x, q, steps=5, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.mean, same.mean) and torch.equal(first.scale, same.scale)
        assert not torch.equal(first.mean, other.mean)

    def test_the_model_is_unchanged(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        before = {key: weight.clone() for key, weight in vae.state_dict().items()}
        with torch.no_grad():
            q = vae.encode(x)
            refined = refine(vae, x, q, steps=3)
        assert all(torch.equal(weight, before[key]) for key, weight in vae.state_dict().items())
        assert not any(weight.requires_grad or weight.grad is not None for weight in vae.parameters())
        assert not refined.mean.requires_grad and not refined.scale.requires_grad
        vae.requires_grad_(True)
        refine(vae, x, q, steps=3)
        assert all(weight.requires_grad and weight.grad is None for weight in vae.parameters())

    def test_the_given_q_is_unchanged(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        mean, scale = q.mean.clone(), q.scale.clone()
        refine(vae, x, q, steps=3)
        assert torch.equal(q.mean, mean) and torch.equal(q.scale, scale)

    def test_precision_and_shape_are_those_of_q(self, name: str) -> None:
        for vae, x in ((build(name), inputs(name)), (build(name).double(), inputs(name).double())):
            q = refine(vae, x, vae.encode(x), steps=4)
            assert q.mean.dtype == q.scale.dtype == x.dtype
            assert q.mean.shape == q.scale.shape == (len(x), vae.config.latent)

    def test_zero_steps_return_the_given_q(self, name: str) -> None:
        vae, x = build(name), inputs(name)
        q = vae.encode(x)
        same = refine(vae, x, q, steps=0)
        assert torch.equal(same.mean, q.mean)
        assert torch.allclose(same.scale, q.scale, rtol=1e-5)


def test_descending_judging_and_scoring_draws_differ() -> None:
    streams = [random.normal(0, (50, 4), stream) for stream in (random.LATENT, random.REFINE, random.VALIDATE)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not np.isin(streams[i], streams[j]).any()


def test_the_draws_come_from_their_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[tuple[int, ...], int]] = []
    normal = random.normal

    def watched(seed: int, shape: tuple[int, ...], stream: int = random.LATENT) -> object:
        taken.append((shape, stream))
        return normal(seed, shape, stream)

    monkeypatch.setattr(random, "normal", watched)
    vae, x = build("table-mlp-gaussian"), inputs("table-mlp-gaussian")
    refine(vae, x, vae.encode(x), steps=5)
    assert taken == [((5, 2), random.REFINE), ((VALIDATION_DRAWS, 2), random.VALIDATE)]


def test_rows_without_gain_on_the_judging_draws_keep_their_q(ppca: PPCA, monkeypatch: pytest.MonkeyPatch) -> None:
    q = ppca.vae.encode(ppca.x)
    # Steps a hundred times too long lead away from the posterior, and nothing is better than that.
    monkeypatch.setattr(module, "LEARNING_RATE", 10.0)
    kept = refine(ppca.vae, ppca.x, q, steps=3)
    assert torch.equal(kept.mean, q.mean) and torch.equal(kept.scale, q.scale)


def test_only_a_positive_gain_is_accepted() -> None:
    q, refined = Gaussian(torch.zeros(4, 2), torch.ones(4, 2)), Gaussian(torch.ones(4, 2), torch.full((4, 2), 2.0))
    chosen = select_q(q, refined, torch.tensor([1.0, 0.0, -1.0, torch.nan]))
    assert chosen.mean[:, 0].tolist() == [1, 0, 0, 0]
    assert chosen.scale[:, 1].tolist() == [2, 1, 1, 1]


def test_scales_stay_inside_their_bounds() -> None:
    params = torch.tensor([[0.0, -100.0], [0.0, 100.0], [0.0, 0.5]])
    logs = to_gaussian(params).scale.log()
    assert torch.allclose(logs, torch.tensor([[LOG_SCALE_BOUNDS[0]], [LOG_SCALE_BOUNDS[1]], [0.5]]))
