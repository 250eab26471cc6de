"""Typicality is larger where no data lies, and about zero for the data itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.likelihoods import Gaussian
from model.scoring.calibration import Protocol, Scored
from model.scoring.detection import auroc
from model.scoring.score import latent_density, score_batch
from model.scoring.typicality import FLOOR, WEIGHTS, Sizes, Typical, fit_latents
from model.vae import VAE, to_tensor
from tests.conftest import CONFIGS, build
from tests.model.conftest import Array, Floats, chance, rows, stripes


def samples(name: str, count: int = 7) -> Array:
    data = CONFIGS[name].data
    return rows(count) if data.kind == "vector" else stripes(count, data.shape)


def typical(scored: Scored) -> Typical:
    return Typical.fit(fit_latents(scored.sizes.mean), scored.sizes, scored.scores, scored.regret)


def parts(scored: Scored) -> tuple[Floats | None, Sizes]:
    return scored.regret, scored.sizes


def judged(one: Typical, scored: Scored) -> Floats:
    return one.score(scored.sizes, scored.scores, scored.regret)


@pytest.mark.parametrize("name", CONFIGS)
class TestSizes:
    def test_are_what_they_say(self, name: str) -> None:
        vae, x = build(name), to_tensor(samples(name))
        q = vae.encode(x)
        sizes = Sizes.of(vae, x, q)
        shift, unit = vae.standardize.shift.numpy(), vae.standardize.unit.numpy()
        missed = (x.numpy() - shift) / unit - (vae.decode(q.mean).mean.numpy() - shift) / unit
        assert np.allclose(sizes.residual, np.sqrt(np.square(missed).reshape(7, -1).mean(axis=1)), rtol=1e-4)
        assert np.allclose(sizes.mean, q.mean.numpy())
        assert np.allclose(sizes.scale_norm, np.sqrt(q.variance.numpy().sum(axis=1)))
        normal = torch.distributions.Normal
        rate = torch.distributions.kl_divergence(normal(q.mean, q.scale), normal(torch.tensor(0.0), torch.tensor(1.0)))
        assert np.allclose(sizes.rate, rate.sum(1).numpy(), rtol=1e-4, atol=1e-5)
        assert all(value.dtype == np.float64 and len(value) == 7 for value in vars(sizes).values())

    def test_do_not_depend_on_neighbours(self, name: str) -> None:
        vae, x = build(name), to_tensor(samples(name))
        whole = Sizes.of(vae, x, vae.encode(x))
        for i in range(7):
            alone = Sizes.of(vae, x[i : i + 1], vae.encode(x[i : i + 1]))
            for key, values in vars(whole).items():
                np.testing.assert_allclose(getattr(alone, key)[0], values[i], rtol=1e-4, atol=1e-5)

    def test_a_perfect_reconstruction_leaves_nothing(self, name: str) -> None:
        vae = build(name)
        mean = torch.zeros(3, vae.config.latent)
        x, q = vae.decode(mean).mean, Gaussian(mean, torch.ones_like(mean))
        assert (Sizes.of(vae, x, q).residual < 1e-6).all()
        # What is handed in is taken for the decoding.
        apart = x + vae.standardize.unit / 4
        np.testing.assert_allclose(Sizes.of(vae, x, q, apart).residual, 0.25, rtol=1e-5)


@pytest.mark.parametrize("refined", [False, True])
class TestTypical:
    @pytest.mark.parametrize("measured", [0, 3])
    def test_surprises_have_mean_zero_and_variance_one_where_they_were_fitted(
        self, refined: bool, measured: int
    ) -> None:
        scored = chance(800, refined=refined, measured=measured)
        surprises = typical(scored).surprises(scored.sizes, scored.scores, scored.regret)
        assert surprises.shape == (3, 800)
        assert np.allclose(surprises.mean(axis=1), 0, atol=1e-9)
        assert np.allclose(surprises.std(axis=1), 1)
        assert (surprises[[0, 2]].min(axis=1) > FLOOR - 2).all()
        assert np.allclose(
            judged(typical(scored), scored), WEIGHTS @ np.maximum(surprises, np.array([[FLOOR], [-99.0], [FLOOR]]))
        )

    def test_what_is_too_complex_to_be_cheap_is_not_typical_for_being_cheap(self, refined: bool) -> None:
        def costly(scored: Scored) -> Scored:
            price = 1000 * (scored.sizes.complexity[:, 0] - 50)
            return Scored(replace(scored.scores, free_energy=scored.scores.free_energy + price), *parts(scored))

        one = typical(costly(chance(1000, refined=refined, measured=2)))
        usual = costly(chance(50, seed=1, refined=refined, measured=2))
        dearer = Scored(replace(usual.scores, free_energy=usual.scores.free_energy + 300), *parts(usual))
        assert np.ptp(usual.scores.free_energy) > 10 * 300
        assert (judged(one, dearer) > judged(one, usual) + 2).all()

    def test_nothing_makes_up_for_a_complexity_that_no_data_has(self, refined: bool) -> None:
        one = typical(chance(1000, refined=refined, measured=2))
        far = chance(50, seed=1, refined=refined, measured=2)
        sizes = replace(far.sizes, complexity=far.sizes.complexity + 400)
        assert (judged(one, Scored(far.scores, far.regret, sizes)) > judged(one, far) + 5).all()

    def test_fresh_inputs_of_the_same_kind_are_about_as_typical(self, refined: bool) -> None:
        found = judged(typical(chance(2000, refined=refined)), chance(2000, seed=1, refined=refined))
        assert abs(found.mean()) < 0.3
        assert 0.7 < found.std() < 1.8

    def test_each_input_is_judged_by_itself(self, refined: bool) -> None:
        one, scored = typical(chance(500, refined=refined)), chance(20, seed=1, refined=refined)
        whole = judged(one, scored)
        alone = [judged(one, scored.pick(slice(i, i + 1)))[0] for i in range(20)]
        assert np.allclose(alone, whole)

    @pytest.mark.parametrize("what", ["mean", "scale_norm", "rate", "residual", "distortion"])
    def test_what_lies_far_out_in_one_size_alone_is_less_typical(self, what: str, refined: bool) -> None:
        one, scored = typical(chance(1000, refined=refined)), chance(50, seed=1, refined=refined)
        before = judged(one, scored)
        target = scored.sizes if hasattr(scored.sizes, what) else scored.scores
        object.__setattr__(target, what, getattr(target, what) * 20 + 50)
        assert (judged(one, scored) > before + 2).all()

    def test_units_of_nats_and_residuals_do_not_matter(self, refined: bool) -> None:
        def rescaled(scored: Scored) -> Scored:
            object.__setattr__(scored.scores, "distortion", 1000 * scored.scores.distortion - 7)
            object.__setattr__(scored.sizes, "residual", 0.01 + 30 * scored.sizes.residual)
            object.__setattr__(scored.sizes, "scale_norm", 50 * scored.sizes.scale_norm)
            return scored

        plain = judged(typical(chance(800, refined=refined)), chance(40, 1, refined=refined))
        other = judged(typical(rescaled(chance(800, refined=refined))), rescaled(chance(40, 1, refined=refined)))
        assert np.corrcoef(plain, other)[0, 1] > 0.9

    def test_a_size_that_never_varies_is_no_obstacle(self, refined: bool) -> None:
        scored = chance(200, refined=refined)
        object.__setattr__(scored.sizes, "scale_norm", np.full(200, 2.0))
        object.__setattr__(scored.sizes, "mean", np.zeros((200, 2)))
        assert np.isfinite(judged(typical(scored), scored)).all()


def test_so_is_what_gains_far_more_by_refinement() -> None:
    one, scored = typical(chance(1000, refined=True)), chance(50, seed=1, refined=True)
    assert scored.regret is not None
    gained = Scored(scored.scores, scored.regret + 20, scored.sizes)
    assert (judged(one, gained) > judged(one, scored) + 2).all()


@pytest.mark.parametrize("refine", [0, 5])
def test_what_is_no_stripe_is_less_typical_than_stripes(trained: VAE, refine: int) -> None:
    def scored(batch: Array) -> Scored:
        return score_batch(trained, to_tensor(batch), Protocol(4, refine, 0))[0]

    half = scored(stripes(300, seed=1))
    latents = latent_density(trained, stripes(500))
    one = Typical.fit(latents, half.sizes, half.scores, half.regret)
    inliers = judged(one, scored(stripes(200, seed=2)))
    draw = np.random.default_rng(0)
    black, white = (np.full((20, 1, 8, 8), value, np.uint8) for value in (0, 255))
    for outliers in (
        draw.integers(0, 256, (200, 1, 8, 8), np.uint8),
        stripes(200, seed=3).swapaxes(2, 3).copy(),
        np.concatenate([black, white]),
    ):
        assert auroc(inliers, judged(one, scored(outliers))) > 0.9


def test_a_model_that_says_nothing_in_its_latent_still_has_sizes() -> None:
    vae = build("grey-mlp-discretized")
    # The last layer of the encoder gives mean 0 and scale 1 whatever it sees: a rate of exactly zero.
    for key, weight in vae.encoder.named_parameters():
        if key.startswith("layers.4"):
            weight.zero_()
    scored = score_batch(vae, to_tensor(stripes(150)), Protocol(2, 0, 0))[0]
    assert (scored.sizes.rate == 0).all()
    assert np.isfinite(judged(typical(scored), scored)).all()
