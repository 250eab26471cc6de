"""Independence of scores from batches, and validity of calibrations."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from model import random
from model.errors import VAEError
from model.scoring import batches
from model.scoring.batches import (
    BATCH_ROWS,
    DEFAULT_SCORINGS,
    ScoredBatch,
    calibrate,
    draws_of,
    estimate,
    latent_density,
    score,
    score_reference,
)
from model.scoring.calibration import (
    MIN_TYPICALITY_INPUTS,
    UNCALIBRATED,
    CalibratedScores,
    Calibration,
    ScoringConfig,
    from_bytes,
    to_bytes,
)
from model.scoring.complexity import measures
from model.scoring.mixture import Mixture
from model.scoring.typicality import TypicalityFeatures
from model.vae import VAE, to_tensor
from tests.support.data import Array, Floats, rows, stripes
from tests.support.models import CONFIGS, build
from tests.support.scoring import ranked, refine

COUNT = 23
PLAIN, REFINED = ScoringConfig(4, 0, 3), ScoringConfig(4, 3, 3)


def samples(name: str, count: int = COUNT) -> Array:
    data = CONFIGS[name].data
    return rows(count) if data.kind == "vector" else stripes(count, data.shape)


def split(data: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def features_of(vae: VAE, data: Array, scoring: ScoringConfig, size: int = BATCH_ROWS) -> TypicalityFeatures:
    return TypicalityFeatures.concatenate(list(score_reference(vae, split(data, size), scoring)))


def score_all(vae: VAE, data: Array, scoring: ScoringConfig, calibration: Calibration | None = None) -> ScoredBatch:
    (batch,) = score(vae, [data], scoring, calibration)
    return batch


def two_classes(count: int, seed: int = 0, ordered: bool = False) -> Array:
    """Vertical and horizontal stripes, mixed or, with `ordered`, one class after the other."""
    data = stripes(count, seed=seed)
    across = np.arange(count) >= count // 2 if ordered else np.random.default_rng(seed + 1000).random(count) < 0.5
    data[across] = data[across].swapaxes(2, 3)
    return data


@pytest.mark.parametrize("name", CONFIGS)
class TestScores:
    def test_match_direct_estimates(self, name: str) -> None:
        vae, data = build(name), samples(name)
        x, draws = to_tensor(data), torch.from_numpy(random.normal(3, (4, vae.config.latent)))
        q = vae.encode(x)
        plain, better = estimate(vae, x, q, draws), estimate(vae, x, refine(vae, x, q, steps=3, seed=3), draws)
        batch, refined = score_all(vae, data, PLAIN), score_all(vae, data, REFINED).scores
        for key, expected in ((k, v) for k, v in vars(plain).items() if v is not None):
            np.testing.assert_allclose(getattr(batch.scores.estimates, key), expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(
                getattr(refined.estimates, key), getattr(better, key), rtol=1e-6, atol=1e-6, err_msg=key
            )
        assert batch.scores.regret is None
        assert refined.regret is not None
        np.testing.assert_allclose(refined.regret, plain.free_energy - better.free_energy, atol=1e-6)
        np.testing.assert_allclose(batch.kl_to_normal, q.kl_to_normal().double().numpy(), rtol=1e-6)
        np.testing.assert_allclose(batch.means, q.mean.double().numpy(), rtol=1e-6)

    @pytest.mark.parametrize("scoring", [PLAIN, REFINED], ids=str)
    def test_do_not_depend_on_the_batch_size(self, scoring: ScoringConfig, name: str) -> None:
        """Measured: every score of every sample, to 1e-4 of the largest of its kind."""
        vae, data = build(name), samples(name)
        whole = features_of(vae, data, scoring)
        for size in (1, 10):
            cut = features_of(vae, data, scoring, size)
            for key, expected in ((k, v) for k, v in vars(whole).items() if v is not None):
                close = 1e-4 * np.abs(expected).max(initial=0) + 1e-4 * np.abs(whole.free_energy).max()
                np.testing.assert_allclose(getattr(cut, key), expected, rtol=0, atol=close, err_msg=key)

    def test_batches_are_numbered_by_their_first_sample(self, name: str) -> None:
        scored = list(score(build(name), split(samples(name), 10), PLAIN))
        assert [batch.first for batch in scored] == [0, 10, 20]
        assert [len(batch) for batch in scored] == [10, 10, 3]

    def test_do_not_use_global_random_generators(self, name: str) -> None:
        before = torch.get_rng_state()
        first, same = (score_all(build(name), samples(name), REFINED).scores.estimates.free_energy for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(first, same)


def test_scores_depend_on_the_seed_and_the_number_of_draws() -> None:
    vae, data = build("grey-mlp-discretized"), samples("grey-mlp-discretized")
    free_energies = [
        score_all(vae, data, ScoringConfig(*scoring)).scores.estimates.free_energy
        for scoring in ((4, 0, 0), (4, 0, 1), (5, 0, 0))
    ]
    assert not np.array_equal(free_energies[0], free_energies[1])
    assert not np.array_equal(free_energies[0], free_energies[2])


def test_no_batches_have_no_scores() -> None:
    assert list(score(build("table-mlp-gaussian"), [], PLAIN)) == []


class TestCalibratedScores:
    @pytest.mark.parametrize("scoring", [PLAIN, REFINED], ids=str)
    def test_follow_from_the_features_of_the_inputs(self, trained: VAE, scoring: ScoringConfig) -> None:
        density, data = Calibration(latent_density(trained, stripes(300)), {}), stripes(30, seed=2)
        calibration = calibrate(trained, stripes(120, seed=1), [scoring], calibration=density)
        calibrated = score_all(trained, data, scoring, calibration).scores.calibrated
        expected = ranked(calibration, scoring, features_of(trained, data, scoring))
        assert calibrated.typicality is not None and expected.typicality is not None
        assert calibrated.p_values is not None and expected.p_values is not None
        assert np.array_equal(calibrated.typicality, expected.typicality)
        assert calibrated.p_values.keys() == expected.p_values.keys()
        assert all(np.array_equal(p, expected.p_values[key]) for key, p in calibrated.p_values.items())

    def test_without_a_calibration_say_why(self) -> None:
        scores = score_all(build("table-mlp-gaussian"), rows(3), PLAIN).scores
        assert scores.calibrated == CalibratedScores(None, None, UNCALIBRATED)

    def test_without_a_reference_say_why(self) -> None:
        vae = build("table-mlp-gaussian")
        scores = score_all(vae, rows(3), REFINED, calibrate(vae, rows(20), [PLAIN])).scores
        assert scores.calibrated == CalibratedScores(
            reason="the model is calibrated for (samples=4, refine=0, seed=3), not for (samples=4, refine=3, seed=3)"
        )


class TestCalibrate:
    def test_holds_the_scores_of_the_reference(self) -> None:
        vae, data = build("grey-mlp-discretized"), stripes(40)
        reference = calibrate(vae, data, [REFINED]).references[REFINED]
        expected = features_of(vae, data, REFINED)
        assert expected.regret is not None and reference.regret is not None
        np.testing.assert_allclose(reference.free_energy, np.sort(expected.free_energy), rtol=1e-6)
        np.testing.assert_allclose(reference.regret, np.sort(expected.regret), atol=1e-3)
        assert reference.typicality_model is None

    def test_uses_the_default_configurations(self) -> None:
        assert set(calibrate(build("table-mlp-gaussian"), rows(10)).references) == set(DEFAULT_SCORINGS)

    def test_keeps_other_references_and_replaces_its_own(self) -> None:
        vae = build("table-mlp-gaussian")
        first = calibrate(vae, rows(20), [PLAIN, REFINED])
        second = calibrate(vae, rows(30, seed=1), [PLAIN, ScoringConfig(1, 0, 0)], calibration=first)
        assert set(second.references) == {PLAIN, REFINED, ScoringConfig(1, 0, 0)}
        assert second.references[REFINED] is first.references[REFINED]
        assert len(second.references[PLAIN].free_energy) == 30
        assert len(first.references[PLAIN].free_energy) == 20

    def test_reports_its_progress(self) -> None:
        done: list[int] = []
        calibrate(build("table-mlp-gaussian"), rows(300), [PLAIN, REFINED], on_sample=done.append)
        assert (draws_of(PLAIN), draws_of(REFINED)) == (4, 17)
        assert done == [256 * 4, 300 * 4, 300 * 4 + 256 * 17, 300 * 21]

    def test_does_not_change_the_reference_inputs(self) -> None:
        data = rows(50)
        calibrate(build("table-mlp-gaussian"), data, [PLAIN])
        assert np.array_equal(data, rows(50))

    def test_gives_typicality_to_enough_inputs_only(self, trained: VAE) -> None:
        density = Calibration(latent_density(trained, stripes(100)), {})
        for count, expected in ((MIN_TYPICALITY_INPUTS - 1, False), (MIN_TYPICALITY_INPUTS, True)):
            calibration = calibrate(trained, stripes(count, seed=1), [PLAIN], calibration=density)
            assert (calibration.references[PLAIN].typicality_model is not None) == expected


def p_values(vae: VAE, calibration: Calibration, data: Array, scoring: ScoringConfig) -> dict[str, Floats]:
    p = score_all(vae, data, scoring, calibration).scores.calibrated.p_values
    assert p is not None
    return p


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("scoring", [ScoringConfig(1, 0, 0), ScoringConfig(2, 3, 0)], ids=str)
class TestValidity:
    """A reference ordered by class is as good as a shuffled one, although half of it fits typicality."""

    def test_fresh_inputs_score_like_the_reference(self, scoring: ScoringConfig, ordered: bool, trained: VAE) -> None:
        density = Calibration(latent_density(trained, stripes(500)), {})
        data = two_classes(600, seed=1, ordered=ordered)
        calibration = calibrate(trained, data, [scoring], calibration=density)
        reference = calibration.references[scoring]
        scores = score_all(trained, two_classes(600, seed=2), scoring, calibration).scores
        assert ks_2samp(reference.free_energy, scores.estimates.free_energy).pvalue > 0.001
        assert ks_2samp(reference.typicality, scores.calibrated.typicality).pvalue > 0.001
        if scoring.refine:
            assert ks_2samp(reference.regret, scores.regret).pvalue > 0.001
        # The comparison detects other data.
        noisy = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8)
        other = score_all(trained, noisy, scoring, calibration).scores
        assert ks_2samp(reference.typicality, other.calibrated.typicality).pvalue < 1e-9

    def test_small_p_values_have_their_nominal_frequency(
        self, scoring: ScoringConfig, ordered: bool, trained: VAE
    ) -> None:
        density = Calibration(latent_density(trained, stripes(500)), {})
        data = two_classes(1000, seed=3, ordered=ordered)
        calibration = calibrate(trained, data, [scoring], calibration=density)
        for name, p in p_values(trained, calibration, two_classes(1000, seed=4), scoring).items():
            for level in (0.01, 0.05, 0.1):
                # Variance from both samples, the fresh one and the reference, of which typicality has one half.
                variance = level * (1 - level) * (1 / 1000 + (1 / 500 if name == "typicality" else 1 / 1000))
                assert (p <= level).mean() <= level + 4 * np.sqrt(variance), name


def density_of(vae: VAE, data: Array) -> Mixture:
    density = latent_density(vae, data)
    assert density is not None
    return density


class TestLatentDensity:
    def test_is_fitted_to_the_means_of_the_encoder(self) -> None:
        vae, data = build("grey-mlp-discretized"), stripes(700)
        density = density_of(vae, data)
        means = vae.encode(to_tensor(data)).mean.double().numpy()
        assert np.average(density.means, axis=0, weights=np.exp(density.log_weights)) == pytest.approx(
            means.mean(axis=0), abs=1e-3 * np.abs(means).max()
        )

    def test_uses_a_limited_number_of_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vae, data = build("table-mlp-gaussian"), rows(600)
        assert len(density_of(vae, data).means) == 32
        monkeypatch.setattr(batches, "MAX_DENSITY_SAMPLES", 60)
        assert len(density_of(vae, data).means) == 10

    def test_is_not_needed_under_a_flow(self) -> None:
        assert latent_density(build("table-mlp-flow"), rows(600)) is None


def test_every_score_has_one_value_a_sample() -> None:
    vae, data = build("rgb-conv-discretized"), samples("rgb-conv-discretized")
    columns = [*vars(score_all(vae, data, REFINED).scores.estimates).values()]
    columns += [column for name, column in vars(features_of(vae, data, REFINED)).items() if name != "nlog_prior"]
    assert all(column is not None and len(column) == COUNT for column in columns)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("count", [0, 20, 150])
def test_a_calibration_is_refused_or_can_be_saved(count: int) -> None:
    vae, data = build("table-mlp-gaussian"), rows(count)
    data[:1] = 1e30  # its free energy exceeds float32
    density = Calibration(latent_density(vae, rows(300)), {})
    try:
        calibration = calibrate(vae, data, [PLAIN], calibration=density)
    except VAEError:
        return
    serialized = to_bytes(calibration)
    assert to_bytes(from_bytes(serialized, vae.config.latent, measures(vae.config.data))) == serialized
