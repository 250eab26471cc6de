"""Typicality: about zero for data, larger for outliers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.scoring.batches import latent_density, score, score_reference
from model.scoring.calibration import ScoringConfig
from model.scoring.detection import auroc
from model.scoring.typicality import (
    MIN_SURPRISE,
    WEIGHTS,
    TypicalityFeatures,
    TypicalityModel,
    fit_latents,
    residual,
)
from model.vae import VAE, to_tensor
from tests.support.data import Array, rows, stripes
from tests.support.models import CONFIGS, build
from tests.support.scoring import chance


def samples(name: str, count: int = 7) -> Array:
    data = CONFIGS[name].data
    return rows(count) if data.kind == "vector" else stripes(count, data.shape)


def typical(features: TypicalityFeatures) -> TypicalityModel:
    return TypicalityModel.fit(fit_latents(features.mean), features)


def score_features(vae: VAE, batch: Array, scoring: ScoringConfig) -> TypicalityFeatures:
    (features,) = score_reference(vae, [batch], scoring)
    return features


@pytest.mark.parametrize("name", CONFIGS)
class TestFeatures:
    def test_match_their_definitions(self, name: str) -> None:
        vae, batch = build(name), samples(name)
        x = to_tensor(batch)
        q, features = vae.encode(x), score_features(vae, batch, ScoringConfig(2, 3, 0))
        shift, unit = vae.standardize.shift.numpy(), vae.standardize.unit.numpy()
        missed = (x.numpy() - shift) / unit - (vae.decode(q.mean).mean.numpy() - shift) / unit
        assert np.allclose(features.residual, np.sqrt(np.square(missed).reshape(7, -1).mean(axis=1)), rtol=1e-4)
        assert np.allclose(features.mean, q.mean.numpy())
        assert np.allclose(features.scale_norm, np.sqrt(q.variance.numpy().sum(axis=1)))
        normal = torch.distributions.Normal
        rate = torch.distributions.kl_divergence(normal(q.mean, q.scale), normal(torch.tensor(0.0), torch.tensor(1.0)))
        assert np.allclose(features.kl_to_normal, rate.sum(1).numpy(), rtol=1e-4, atol=1e-5)
        assert (features.nlog_prior is None) == (vae.config.prior.name == "standard")
        if features.nlog_prior is not None:
            assert np.allclose(features.nlog_prior, vae.prior.nlog_prob(q.mean).numpy(), rtol=1e-4, atol=1e-4)
        columns = [value for value in vars(features).values() if value is not None]
        assert all(value.dtype == np.float64 and len(value) == 7 for value in columns)

    def test_include_the_scores(self, name: str) -> None:
        vae, batch, scoring = build(name), samples(name), ScoringConfig(2, 3, 0)
        features, (scored,) = score_features(vae, batch, scoring), score(vae, [batch], scoring)
        assert np.array_equal(features.distortion, scored.scores.estimates.distortion)
        assert np.array_equal(features.free_energy, scored.scores.estimates.free_energy)
        assert features.regret is not None and scored.scores.regret is not None
        assert np.array_equal(features.regret, scored.scores.regret)

    def test_do_not_depend_on_neighbours(self, name: str) -> None:
        vae, batch, scoring = build(name), samples(name), ScoringConfig(1, 0, 0)
        whole = score_features(vae, batch, scoring)
        for i in range(7):
            alone = score_features(vae, batch[i : i + 1], scoring)
            for key in ("mean", "scale_norm", "kl_to_normal", "residual", "complexity"):
                np.testing.assert_allclose(getattr(alone, key)[0], getattr(whole, key)[i], rtol=1e-4, atol=1e-5)

    def test_the_residual_is_that_of_the_decoding(self, name: str) -> None:
        vae = build(name)
        x = vae.decode(torch.zeros(3, vae.config.latent)).mean
        assert (residual(vae, x, x) < 1e-6).all()
        np.testing.assert_allclose(residual(vae, x, x + vae.standardize.unit / 4), 0.25, rtol=1e-5)


@pytest.mark.parametrize("refined", [False, True])
class TestTypicalityModel:
    @pytest.mark.parametrize("measured", [0, 3])
    def test_surprises_have_mean_zero_and_variance_one_where_they_were_fitted(
        self, refined: bool, measured: int
    ) -> None:
        scored = chance(800, refined=refined, measured=measured)
        surprises = typical(scored).surprises(scored)
        assert surprises.shape == (3, 800)
        assert np.allclose(surprises.mean(axis=1), 0, atol=1e-9)
        assert np.allclose(surprises.std(axis=1), 1)
        assert (surprises[[0, 2]].min(axis=1) > MIN_SURPRISE - 2).all()
        floors = np.array([[MIN_SURPRISE], [-99.0], [MIN_SURPRISE]])
        assert np.allclose(typical(scored).score(scored), WEIGHTS @ np.maximum(surprises, floors))

    def test_a_low_cost_at_high_complexity_is_not_typical(self, refined: bool) -> None:
        def costly(features: TypicalityFeatures) -> TypicalityFeatures:
            price = 1000 * (features.complexity[:, 0] - 50)
            return replace(features, free_energy=features.free_energy + price)

        model = typical(costly(chance(1000, refined=refined, measured=2)))
        usual = costly(chance(50, seed=1, refined=refined, measured=2))
        dearer = replace(usual, free_energy=usual.free_energy + 300)
        assert np.ptp(usual.free_energy) > 10 * 300
        assert (model.score(dearer) > model.score(usual) + 2).all()

    def test_a_complexity_outside_the_data_is_never_typical(self, refined: bool) -> None:
        model = typical(chance(1000, refined=refined, measured=2))
        far = chance(50, seed=1, refined=refined, measured=2)
        farther = replace(far, complexity=far.complexity + 400)
        assert (model.score(farther) > model.score(far) + 5).all()

    def test_fresh_inputs_of_the_same_kind_are_about_as_typical(self, refined: bool) -> None:
        typicality = typical(chance(2000, refined=refined)).score(chance(2000, seed=1, refined=refined))
        assert abs(typicality.mean()) < 0.3
        assert 0.7 < typicality.std() < 1.8

    def test_the_typicality_of_an_input_does_not_depend_on_others(self, refined: bool) -> None:
        model, scored = typical(chance(500, refined=refined)), chance(20, seed=1, refined=refined)
        whole = model.score(scored)
        alone = [model.score(scored[i : i + 1])[0] for i in range(20)]
        assert np.allclose(alone, whole)

    @pytest.mark.parametrize("what", ["mean", "scale_norm", "kl_to_normal", "residual", "distortion"])
    def test_an_extreme_value_of_one_feature_is_less_typical(self, what: str, refined: bool) -> None:
        model, scored = typical(chance(1000, refined=refined)), chance(50, seed=1, refined=refined)
        before = model.score(scored)
        assert (model.score(replace(scored, **{what: getattr(scored, what) * 20 + 50})) > before + 2).all()

    def test_the_latent_is_judged_by_the_prior_where_no_density_was_fitted(self, refined: bool) -> None:
        def under_prior(features: TypicalityFeatures) -> TypicalityFeatures:
            return replace(features, nlog_prior=0.5 * np.square(features.mean).sum(axis=1))

        model = TypicalityModel.fit(None, under_prior(chance(1000, refined=refined)))
        usual = under_prior(chance(50, seed=1, refined=refined))
        assert usual.nlog_prior is not None
        unlikely = replace(usual, nlog_prior=usual.nlog_prior + 10)
        assert (model.surprises(unlikely)[0] > model.surprises(usual)[0] + 5).all()
        assert (model.surprises(unlikely)[1:] == model.surprises(usual)[1:]).all()

    def test_units_of_nats_and_residuals_do_not_matter(self, refined: bool) -> None:
        def rescaled(features: TypicalityFeatures) -> TypicalityFeatures:
            return replace(
                features,
                distortion=1000 * features.distortion - 7,
                residual=0.01 + 30 * features.residual,
                scale_norm=50 * features.scale_norm,
            )

        plain = typical(chance(800, refined=refined)).score(chance(40, 1, refined=refined))
        other = typical(rescaled(chance(800, refined=refined))).score(rescaled(chance(40, 1, refined=refined)))
        assert np.corrcoef(plain, other)[0, 1] > 0.9

    def test_a_constant_feature_is_accepted(self, refined: bool) -> None:
        scored = replace(chance(200, refined=refined), scale_norm=np.full(200, 2.0), mean=np.zeros((200, 2)))
        assert np.isfinite(typical(scored).score(scored)).all()


def test_a_large_gain_by_refinement_is_less_typical() -> None:
    model, scored = typical(chance(1000, refined=True)), chance(50, seed=1, refined=True)
    assert scored.regret is not None
    gained = replace(scored, regret=scored.regret + 20)
    assert (model.score(gained) > model.score(scored) + 2).all()


@pytest.mark.parametrize("refine", [0, 5])
def test_outliers_are_less_typical_than_stripes(trained: VAE, refine: int) -> None:
    def scored(batch: Array) -> TypicalityFeatures:
        return score_features(trained, batch, ScoringConfig(4, refine, 0))

    half = scored(stripes(300, seed=1))
    latents = latent_density(trained, stripes(500))
    model = TypicalityModel.fit(latents, half)
    inliers = model.score(scored(stripes(200, seed=2)))
    draw = np.random.default_rng(0)
    black, white = (np.full((20, 1, 8, 8), value, np.uint8) for value in (0, 255))
    for outliers in (
        draw.integers(0, 256, (200, 1, 8, 8), np.uint8),
        stripes(200, seed=3).swapaxes(2, 3).copy(),
        np.concatenate([black, white]),
    ):
        assert auroc(inliers, model.score(scored(outliers))) > 0.9


def test_a_model_without_active_latents_has_finite_features() -> None:
    vae = build("grey-mlp-discretized")
    # The last layer of the encoder gives mean 0 and scale 1 whatever it sees: a rate of exactly zero.
    for key, weight in vae.encoder.named_parameters():
        if key.startswith("layers.4"):
            weight.zero_()
    scored = score_features(vae, stripes(150), ScoringConfig(2, 0, 0))
    assert (scored.kl_to_normal == 0).all()
    assert np.isfinite(typical(scored).score(scored)).all()
