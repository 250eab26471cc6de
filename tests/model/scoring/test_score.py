"""Scores are those of the estimators, however the data is cut; a calibration of them is valid."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from model import random
from model.errors import VAEError
from model.scoring import score as scoring
from model.scoring.calibration import (
    LEAST,
    UNCALIBRATED,
    Calibration,
    Protocol,
    Scored,
    Verdict,
    from_bytes,
    to_bytes,
)
from model.scoring.complexity import measures
from model.scoring.free_energy import FreeEnergy, estimate
from model.scoring.refine import refine
from model.scoring.score import PROTOCOLS, ROWS, calibrate, latent_density, score
from model.vae import VAE, to_tensor
from tests.conftest import CONFIGS, build
from tests.model.conftest import Array, Floats, rows, stripes

COUNT = 23
PLAIN, REFINED = Protocol(4, 0, 3), Protocol(4, 3, 3)


def samples(name: str, count: int = COUNT) -> Array:
    data = CONFIGS[name].data
    return rows(count) if data.kind == "vector" else stripes(count, data.shape)


def batches(data: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def scored(vae: VAE, data: Array, protocol: Protocol, size: int = ROWS) -> Scored:
    return Scored.concatenate([part.scored for part in score(vae, batches(data, size), protocol)])


def two_classes(count: int, seed: int = 0, ordered: bool = False) -> Array:
    """Stripes of which the later half, where they are ordered by class, lie across."""
    data = stripes(count, seed=seed)
    across = np.arange(count) >= count // 2 if ordered else np.random.default_rng(seed + 1000).random(count) < 0.5
    data[across] = data[across].swapaxes(2, 3)
    return data


@pytest.mark.parametrize("name", CONFIGS)
class TestScores:
    def test_are_those_of_direct_estimates(self, name: str) -> None:
        vae, data = build(name), samples(name)
        x, draws = to_tensor(data), torch.from_numpy(random.normal(3, (4, vae.config.latent)))
        q = vae.encode(x)
        plain, better = estimate(vae, x, q, draws), estimate(vae, x, refine(vae, x, q, steps=3, seed=3), draws)
        (part,) = score(vae, [data], PLAIN)
        (refined,) = score(vae, [data], REFINED)
        for key, expected in ((k, v) for k, v in vars(plain).items() if v is not None):
            np.testing.assert_allclose(getattr(part.scored.scores, key), expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(
                getattr(refined.scored.scores, key), getattr(better, key), rtol=1e-6, atol=1e-6, err_msg=key
            )
        assert part.scored.regret is None
        assert refined.scored.regret is not None
        np.testing.assert_allclose(refined.scored.regret, plain.free_energy - better.free_energy, atol=1e-6)
        np.testing.assert_allclose(part.rate_per_dimension, q.rate().double().numpy(), rtol=1e-6)

    @pytest.mark.parametrize("protocol", [PLAIN, REFINED])
    def test_batches_change_nothing(self, protocol: Protocol, name: str) -> None:
        """Measured: every score of every sample, to 1e-4 of the largest of its kind."""
        vae, data = build(name), samples(name)
        whole = scored(vae, data, protocol)
        for size in (1, 10):
            cut = scored(vae, data, protocol, size)
            for one, other in ((whole.scores, cut.scores), (whole.sizes, cut.sizes)):
                for key, expected in ((k, v) for k, v in vars(one).items() if v is not None):
                    close = 1e-4 * np.abs(expected).max(initial=0) + 1e-4 * np.abs(whole.scores.free_energy).max()
                    np.testing.assert_allclose(getattr(other, key), expected, rtol=0, atol=close, err_msg=key)

    def test_batches_are_numbered_by_their_first_sample(self, name: str) -> None:
        parts = list(score(build(name), batches(samples(name), 10), PLAIN))
        assert [part.first for part in parts] == [0, 10, 20]
        assert [len(part.rate_per_dimension) for part in parts] == [10, 10, 3]

    def test_nothing_is_drawn_from_the_global_generators(self, name: str) -> None:
        before = torch.get_rng_state()
        first, same = (scored(build(name), samples(name), REFINED).scores.free_energy for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(first, same)


def test_the_seed_and_the_number_of_draws_decide() -> None:
    vae, data = build("grey-mlp-discretized"), samples("grey-mlp-discretized")
    found = [scored(vae, data, Protocol(*p)).scores.free_energy for p in ((4, 0, 0), (4, 0, 1), (5, 0, 0))]
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_no_batches_have_no_scores() -> None:
    assert list(score(build("table-mlp-gaussian"), [], PLAIN)) == []


class TestVerdicts:
    def test_are_those_of_the_calibration(self, trained: VAE) -> None:
        calibration = calibrate(
            trained, stripes(120, seed=1), [REFINED], calibration=Calibration(latent_density(trained, stripes(300)), {})
        )
        (part,) = score(trained, [stripes(30, seed=2)], REFINED, calibration)
        expected = calibration.judge(REFINED, part.scored)
        assert part.verdict.typicality is not None and expected.typicality is not None
        assert part.verdict.p_values is not None and expected.p_values is not None
        assert np.array_equal(part.verdict.typicality, expected.typicality)
        assert {k: v.tolist() for k, v in part.verdict.p_values.items()} == {
            k: v.tolist() for k, v in expected.p_values.items()
        }

    def test_without_a_calibration_say_so(self) -> None:
        (part,) = score(build("table-mlp-gaussian"), [rows(3)], PLAIN)
        assert part.verdict == Verdict(None, None, UNCALIBRATED)

    def test_for_another_protocol_say_so(self) -> None:
        vae = build("table-mlp-gaussian")
        (part,) = score(vae, [rows(3)], REFINED, calibrate(vae, rows(20), [PLAIN]))
        assert part.verdict == Verdict(
            reason="the model is calibrated for (samples=4, refine=0, seed=3), not for (samples=4, refine=3, seed=3)"
        )


class TestCalibrate:
    def test_holds_the_scores_of_the_reference(self) -> None:
        vae, data = build("grey-mlp-discretized"), stripes(40)
        reference = calibrate(vae, data, [REFINED]).references[REFINED]
        expected = scored(vae, data, REFINED)
        assert expected.regret is not None and reference.regret is not None
        np.testing.assert_allclose(reference.free_energy, np.sort(expected.scores.free_energy), rtol=1e-6)
        np.testing.assert_allclose(reference.regret, np.sort(expected.regret), atol=1e-3)
        assert reference.typical is None

    def test_knows_what_every_training_calibrates_for(self) -> None:
        made = calibrate(build("table-mlp-gaussian"), rows(10))
        assert set(made.references) == set(PROTOCOLS)

    def test_keeps_known_protocols_and_replaces_its_own(self) -> None:
        vae = build("table-mlp-gaussian")
        first = calibrate(vae, rows(20), [PLAIN, REFINED])
        second = calibrate(vae, rows(30, seed=1), [PLAIN, Protocol(1, 0, 0)], calibration=first)
        assert set(second.references) == {PLAIN, REFINED, Protocol(1, 0, 0)}
        assert second.references[REFINED] is first.references[REFINED]
        assert len(second.references[PLAIN].free_energy) == 30
        assert len(first.references[PLAIN].free_energy) == 20

    def test_tells_how_far_it_is(self) -> None:
        done: list[int] = []
        calibrate(build("table-mlp-gaussian"), rows(300), [PLAIN, REFINED], on_sample=done.append)
        assert done == [256, 300, 556, 600]

    def test_leaves_the_reference_as_it_was(self) -> None:
        data = rows(50)
        calibrate(build("table-mlp-gaussian"), data, [PLAIN])
        assert np.array_equal(data, rows(50))

    def test_few_inputs_have_no_typicality(self, trained: VAE) -> None:
        known = Calibration(latent_density(trained, stripes(100)), {})
        for count, expected in ((LEAST - 1, False), (LEAST, True)):
            made = calibrate(trained, stripes(count, seed=1), [PLAIN], calibration=known)
            assert (made.references[PLAIN].typical is not None) == expected


def p_values(vae: VAE, made: Calibration, data: Array, protocol: Protocol) -> dict[str, Floats]:
    (verdict,) = (part.verdict for part in score(vae, [data], protocol, made))
    assert verdict.p_values is not None
    return verdict.p_values


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("protocol", [Protocol(1, 0, 0), Protocol(2, 3, 0)])
class TestValidity:
    """A reference in the order of its classes is as good as a shuffled one: half of it fits typicality."""

    def test_fresh_inputs_score_as_the_reference_does(self, protocol: Protocol, ordered: bool, trained: VAE) -> None:
        known = Calibration(latent_density(trained, stripes(500)), {})
        made = calibrate(trained, two_classes(600, seed=1, ordered=ordered), [protocol], calibration=known)
        reference = made.references[protocol]
        (part,) = score(trained, [two_classes(600, seed=2)], protocol, made)
        assert ks_2samp(reference.free_energy, part.scored.scores.free_energy).pvalue > 0.001
        assert ks_2samp(reference.typicality, part.verdict.typicality).pvalue > 0.001
        if protocol.refine:
            assert ks_2samp(reference.regret, part.scored.regret).pvalue > 0.001
        # The same comparison sees other data for what it is.
        noisy = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), np.uint8)
        (other,) = score(trained, [noisy], protocol, made)
        assert ks_2samp(reference.typicality, other.verdict.typicality).pvalue < 1e-9

    def test_p_values_are_small_as_seldom_as_they_say(self, protocol: Protocol, ordered: bool, trained: VAE) -> None:
        known = Calibration(latent_density(trained, stripes(500)), {})
        made = calibrate(trained, two_classes(1000, seed=3, ordered=ordered), [protocol], calibration=known)
        for name, p in p_values(trained, made, two_classes(1000, seed=4), protocol).items():
            for level in (0.01, 0.05, 0.1):
                # Of both samples: the fresh ones, and those of the reference, of which typicality has a half.
                variance = level * (1 - level) * (1 / 1000 + (1 / 500 if name == "typicality" else 1 / 1000))
                assert (p <= level).mean() <= level + 4 * np.sqrt(variance), name


class TestLatentDensity:
    def test_is_of_the_means_of_the_encoder(self) -> None:
        vae, data = build("grey-mlp-discretized"), stripes(700)
        density = latent_density(vae, data)
        means = vae.encode(to_tensor(data)).mean.double().numpy()
        assert np.average(density.means, axis=0, weights=np.exp(density.log_weights)) == pytest.approx(
            means.mean(axis=0), abs=1e-3 * np.abs(means).max()
        )

    def test_takes_no_more_samples_than_it_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vae, data = build("table-mlp-gaussian"), rows(600)
        assert len(latent_density(vae, data).means) == 32
        monkeypatch.setattr(scoring, "POINTS", 60)
        assert len(latent_density(vae, data).means) == 10


def test_every_score_has_one_value_a_sample() -> None:
    (part,) = score(build("rgb-conv-discretized"), [samples("rgb-conv-discretized")], REFINED)
    scores: FreeEnergy = part.scored.scores
    columns = [*vars(scores).values(), part.scored.regret, *vars(part.scored.sizes).values()]
    assert all(column is not None and len(column) == COUNT for column in columns)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("count", [0, 20, 150])
def test_a_calibration_is_refused_or_can_be_kept(count: int) -> None:
    vae, data = build("table-mlp-gaussian"), rows(count)
    data[:1] = 1e30  # of a free energy beyond float32
    known = Calibration(latent_density(vae, rows(300)), {})
    try:
        made = calibrate(vae, data, [PLAIN], calibration=known)
    except VAEError:
        return
    assert to_bytes(from_bytes(to_bytes(made), vae.config.latent, measures(vae.config.data))) == to_bytes(made)
