"""p-values: definition and validity; bytes of a calibration."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from model.checkpoint import load, save_calibration
from model.errors import CheckpointError
from model.scoring.calibration import (
    MIN_TYPICALITY_INPUTS,
    Calibration,
    Reference,
    ScoringConfig,
    discoveries,
    from_bytes,
    p_value,
    to_bytes,
    two_sided,
)
from model.scoring.typicality import TypicalityFeatures, fit_latents
from tests.support.data import Floats
from tests.support.scoring import chance, ranked

PLAIN, REFINED = ScoringConfig(4, 0, 0), ScoringConfig(4, 5, 0)
LEVELS = (0.01, 0.05, 0.1)


def calibration(count: int = 300, seed: int = 0, measured: int = 0) -> Calibration:
    """A calibration with typicality for a scoring without refinement and one with it."""
    calibrated_model = Calibration(fit_latents(chance(400, seed=1000).mean), {})
    plain, refined = (chance(count, seed + i, refined=bool(i), measured=measured) for i in range(2))
    return calibrated_model.with_reference(PLAIN, plain).with_reference(REFINED, refined)


def p_values_of(
    calibrated_model: Calibration, scoring: ScoringConfig, features: TypicalityFeatures
) -> dict[str, Floats]:
    p_values = ranked(calibrated_model, scoring, features).p_values
    assert p_values is not None
    return p_values


def by_hand(reference: Floats, score: float) -> tuple[float, float]:
    above = (1 + sum(other >= score for other in reference)) / (len(reference) + 1)
    below = (1 + sum(other <= score for other in reference)) / (len(reference) + 1)
    return above, min(1, 2 * min(above, below))


class TestPValues:
    @pytest.mark.parametrize("count", [0, 1, 2, 30])
    @pytest.mark.parametrize("values", [2, 7, 1 << 30])
    def test_equal_the_definition_with_ties(self, values: int, count: int) -> None:
        draw = np.random.default_rng(values + count)
        reference = np.sort(draw.integers(0, values, count)).astype(float)
        score = np.concatenate([draw.integers(-1, values + 2, 40), reference, [-np.inf, np.inf]])
        expected = np.array([by_hand(reference, value) for value in score])
        assert np.allclose(p_value(reference, score), expected[:, 0], rtol=1e-12)
        assert np.allclose(two_sided(reference, score), expected[:, 1], rtol=1e-12)

    def test_fall_as_scores_rise(self) -> None:
        p = p_value(np.sort(np.random.default_rng(0).normal(size=99)), np.linspace(-5, 5, 500))
        assert (np.diff(p) <= 0).all()
        assert (p[0], p[-1]) == (1, 0.01)

    @pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
    @pytest.mark.parametrize("judge", [p_value, two_sided])
    def test_are_valid_where_scores_are_exchangeable(self, judge: Callable[..., Floats], kind: str) -> None:
        draw = np.random.default_rng(5)
        trials, count = 4000, 99
        table = draw.normal(size=(trials, count + 1))
        if kind != "normal":
            table = np.exp(table) if kind == "skewed" else np.round(2 * table)
        p = np.array([judge(np.sort(row[1:]), row[:1])[0] for row in table])
        for level in LEVELS:
            four_sigma = 4 * np.sqrt(level * (1 - level) / trials)
            assert (p <= level).mean() <= level + four_sigma
            if kind != "ties" and judge is p_value:
                # Without ties they are exact: nothing is given away.
                assert (p <= level).mean() >= level - four_sigma


class TestDiscoveries:
    def test_equal_the_definition(self) -> None:
        draw = np.random.default_rng(0)
        for trial in range(300):
            count = int(draw.integers(0, 30))
            p = np.round(draw.uniform(0, 1, count) ** draw.integers(1, 4), 2 if trial % 2 else 12)
            rate = float(draw.choice([0.03, 0.11, 0.37]))
            largest = max((k for k in range(1, count + 1) if np.sort(p)[k - 1] <= rate * k / count), default=0)
            expected = p <= np.sort(p)[largest - 1] if largest else np.zeros(count, bool)
            assert np.array_equal(discoveries(p, rate), expected)

    def test_errors_among_the_flagged_stay_below_the_rate(self) -> None:
        draw, rate, shares, detected = np.random.default_rng(1), 0.2, [], []
        for _ in range(400):
            reference = np.sort(draw.normal(size=500))
            score = np.concatenate([draw.normal(size=80), draw.normal(3.5, size=20)])
            flagged = discoveries(p_value(reference, score), rate)
            shares.append(flagged[:80].sum() / max(1, flagged.sum()))
            detected.append(flagged[80:].mean())
        four_sigma = 4 * np.std(shares) / np.sqrt(len(shares))
        assert np.mean(shares) <= rate * 0.8 + four_sigma
        # It is of use: most outliers are found, and the allowance is used.
        assert np.mean(detected) > 0.5
        assert np.mean(shares) > rate * 0.4

    def test_large_p_values_flag_nothing(self) -> None:
        assert not discoveries(np.linspace(0.2, 1, 50), 0.1).any()
        assert discoveries(np.zeros(0), 0.1).shape == (0,)


class TestCalibratedScores:
    def test_has_a_p_value_for_every_score_of_the_scoring(self) -> None:
        calibrated_model = calibration()
        assert set(p_values_of(calibrated_model, PLAIN, chance(5, 9))) == {
            "free_energy",
            "free_energy_two_sided",
            "typicality",
        }
        assert set(p_values_of(calibrated_model, REFINED, chance(5, 9, refined=True))) == {
            "free_energy",
            "free_energy_two_sided",
            "regret",
            "typicality",
        }

    def test_equals_the_rank_in_the_reference(self) -> None:
        reference_features, fresh = chance(300, 1, refined=True), chance(40, 9, refined=True)
        result = p_values_of(calibration(), REFINED, fresh)
        assert reference_features.regret is not None and fresh.regret is not None
        reference = np.sort(reference_features.free_energy)
        assert np.array_equal(result["free_energy"], p_value(reference, fresh.free_energy))
        assert np.array_equal(result["free_energy_two_sided"], two_sided(reference, fresh.free_energy))
        assert np.array_equal(result["regret"], p_value(np.sort(reference_features.regret), fresh.regret))

    @pytest.mark.parametrize("asked", [ScoringConfig(5, 5, 0), ScoringConfig(4, 6, 0), ScoringConfig(4, 5, 1)])
    def test_other_configurations_are_refused_and_known_ones_named(self, asked: ScoringConfig) -> None:
        calibrated = ranked(calibration(), asked, chance(5, refined=True))
        assert calibrated.p_values is None and calibrated.typicality is None
        assert calibrated.reason is not None
        for text in ("samples=4, refine=0, seed=0", "samples=4, refine=5, seed=0", f"not for ({asked})"):
            assert text in calibrated.reason

    def test_of_a_known_scoring_has_no_reason(self) -> None:
        assert ranked(calibration(), PLAIN, chance(5)).reason is None

    @pytest.mark.parametrize(("count", "latents"), [(MIN_TYPICALITY_INPUTS - 1, True), (MIN_TYPICALITY_INPUTS, False)])
    def test_has_no_typicality_of_few_inputs_or_without_a_density(self, count: int, latents: bool) -> None:
        calibrated_model = Calibration(calibration().latents if latents else None, {}).with_reference(
            PLAIN, chance(count)
        )
        calibrated = ranked(calibrated_model, PLAIN, chance(5, 1))
        assert calibrated.typicality is None
        assert set(p_values_of(calibrated_model, PLAIN, chance(5, 1))) == {"free_energy", "free_energy_two_sided"}

    def test_of_more_scorings_leaves_the_others_alone(self) -> None:
        first = Calibration(None, {}).with_reference(PLAIN, chance(50))
        second = first.with_reference(REFINED, chance(60, 1, refined=True))
        assert set(first.references) == {PLAIN}
        assert second.references[PLAIN] is first.references[PLAIN]
        assert len(second.with_reference(PLAIN, chance(70)).references[PLAIN].free_energy) == 70


class TestValidity:
    def test_fresh_scores_are_distributed_as_the_reference(self) -> None:
        calibrated_model, fresh = calibration(2000), chance(2000, 7, refined=True)
        reference, calibrated = calibrated_model.references[REFINED], ranked(calibrated_model, REFINED, fresh)
        assert fresh.regret is not None and reference.regret is not None
        assert ks_2samp(reference.free_energy, fresh.free_energy).pvalue > 0.001
        assert ks_2samp(reference.regret, fresh.regret).pvalue > 0.001
        assert ks_2samp(reference.typicality, calibrated.typicality).pvalue > 0.001

    def test_typicality_is_calibrated_by_inputs_that_did_not_fit_it(self) -> None:
        """A density fits its few points far better than others, so that only a held-out half gives valid p-values."""
        latents = calibration().latents
        p = []
        for seed in range(60):
            calibrated_model = Calibration(latents, {}).with_reference(PLAIN, chance(MIN_TYPICALITY_INPUTS, seed))
            p.append(p_values_of(calibrated_model, PLAIN, chance(200, 500 + seed))["typicality"])
        table = np.stack(p)
        for level in LEVELS[1:]:
            shares = (table <= level).mean(axis=1)
            assert shares.mean() <= level + 4 * shares.std() / np.sqrt(len(shares))

    def test_typicality_is_calibrated_by_half_of_the_inputs(self) -> None:
        reference = Reference.of(chance(301), calibration().latents)
        assert reference.typicality is not None
        assert (len(reference.free_energy), len(reference.typicality)) == (301, 151)
        assert (np.diff(reference.free_energy) >= 0).all() and (np.diff(reference.typicality) >= 0).all()


@pytest.mark.parametrize("refined", [False, True])
def test_slices_of_features_concatenate_to_the_whole(refined: bool) -> None:
    whole = chance(30, refined=refined)
    again = TypicalityFeatures.concatenate([whole[:7], whole[7:8], whole[8:]])
    for name, value in vars(whole).items():
        assert np.array_equal(getattr(again, name), value) if value is not None else getattr(again, name) is None


class TestBytes:
    @pytest.mark.parametrize("scoring", [PLAIN, REFINED])
    @pytest.mark.parametrize("measured", [0, 3])
    def test_give_the_same_calibrated_scores(self, scoring: ScoringConfig, measured: int) -> None:
        calibrated_model = calibration(measured=measured)
        fresh = chance(200, 9, refined=bool(scoring.refine), measured=measured)
        back = from_bytes(to_bytes(calibrated_model), latent=2, measured=measured)
        before, after = ranked(calibrated_model, scoring, fresh), ranked(back, scoring, fresh)
        assert before.typicality is not None and after.typicality is not None
        assert before.p_values is not None and after.p_values is not None
        assert np.allclose(after.typicality, before.typicality, rtol=1e-4, atol=1e-4)
        assert before.p_values.keys() == after.p_values.keys()
        for name, values in before.p_values.items():
            # Densities are kept as float32, which may carry a typicality past one of the reference.
            allowed = 1.01 / 151 if name == "typicality" else 0
            assert np.allclose(after.p_values[name], values, rtol=0, atol=allowed), name

    def test_are_reproducible(self) -> None:
        data = to_bytes(calibration())
        assert to_bytes(from_bytes(data, latent=2, measured=0)) == data

    def test_hold_a_calibration_without_typicality_and_one_for_nothing(self) -> None:
        few = Calibration(None, {}).with_reference(PLAIN, chance(50))
        back = from_bytes(to_bytes(few), latent=2, measured=0)
        assert back.latents is None
        assert np.array_equal(back.references[PLAIN].free_energy, few.references[PLAIN].free_energy)
        short = Calibration(calibration().latents, {}).with_reference(REFINED, chance(50, refined=True))
        assert from_bytes(to_bytes(short), latent=2, measured=0).references[REFINED].typicality_model is None
        assert from_bytes(to_bytes(Calibration(None, {})), latent=2, measured=0).references == {}

    def test_hold_typicality_without_a_density_only_under_a_flow(self) -> None:
        features = replace(chance(300), nlog_prior=np.linspace(1, 9, 300))
        data = to_bytes(Calibration(None, {}).with_reference(PLAIN, features))
        reference = from_bytes(data, latent=2, measured=0, flow=True).references[PLAIN]
        assert reference.typicality_model is not None and reference.typicality_model.latent_density is None
        assert reference.typicality is not None and len(reference.typicality) == 150
        with pytest.raises(ValueError, match="is unknown"):
            from_bytes(data, latent=2, measured=0)

    def test_of_another_latent_size_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"latents\.means"):
            from_bytes(to_bytes(calibration()), latent=3, measured=0)

    def test_of_another_kind_of_input_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"typical\.sizes"):
            from_bytes(to_bytes(calibration()), latent=2, measured=6)

    def test_without_any_one_of_their_arrays_are_refused(self) -> None:
        arrays = safetensors.numpy.load(to_bytes(calibration()))
        assert len(arrays) == 3 + 2 * (2 + 3 + 4 + 3) + 1
        for lost in arrays:
            remaining = {name: array for name, array in arrays.items() if name != lost}
            with pytest.raises(ValueError, match=r"missing|unknown"):
                from_bytes(safetensors.numpy.save(remaining), latent=2, measured=0)

    @pytest.mark.parametrize(
        ("name", "spoil", "message"),
        [
            ("reference.4.0.0.free_energy", lambda a: a[::-1].copy(), "free_energy is not in ascending order"),
            ("reference.4.5.0.regret", lambda a: a[:0], "regret is not in ascending order"),
            ("reference.4.0.0.free_energy", lambda a: np.append(a, np.inf), "free_energy holds values"),
            ("latents.means", lambda a: np.full_like(a, np.nan), "latents.means holds values"),
            ("latents.means", lambda a: a.astype(np.int32), "latents.means holds values"),
            ("reference.4.0.0.typical.center", lambda a: a[:1], "typical.center is"),
            ("reference.4.0.0.typical.unit", lambda a: np.append(a, 1.0), "typical.unit is"),
            ("reference.4.0.0.typical.sizes.factors", lambda a: a[:, :1], "typical.sizes.factors is"),
            ("reference.4.0.0.typicality", lambda a: a.reshape(1, -1), "typicality is"),
            ("reference.4.0.0.spy", lambda a: np.zeros(1), "spy is unknown"),
            ("reference.-4.0.0.free_energy", lambda a: np.zeros(1), "is unknown"),
            ("spy", lambda a: np.zeros(1), "spy is unknown"),
        ],
    )
    def test_with_an_invalid_array_are_refused_with_its_name(
        self, name: str, spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]], message: str
    ) -> None:
        arrays = safetensors.numpy.load(to_bytes(calibration()))
        arrays[name] = spoil(arrays.get(name, np.zeros(0)))
        with pytest.raises(ValueError, match=message):
            from_bytes(safetensors.numpy.save(arrays), latent=2, measured=0)

    @pytest.mark.parametrize(
        ("name", "spoil", "message"),
        [
            ("latents.factors", lambda a: -a, "latents"),
            ("reference.4.0.0.typical.sizes.factors", lambda a: 0 * a, r"typical\.sizes"),
            ("reference.4.0.0.typical.unit", lambda a: 0 * a, "unit"),
            ("reference.4.0.0.typical.spread", lambda a: -a, "spread"),
            ("reference.4.0.0.typical.trend.unit", lambda a: 0 * a, "unit"),
        ],
    )
    def test_with_an_invalid_density_are_refused(
        self, name: str, spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]], message: str
    ) -> None:
        arrays = safetensors.numpy.load(to_bytes(calibration(measured=1)))
        arrays[name] = spoil(arrays[name])
        with pytest.raises(ValueError, match=message):
            from_bytes(safetensors.numpy.save(arrays), latent=2, measured=1)

    def test_with_an_empty_mixture_are_refused(self) -> None:
        arrays = safetensors.numpy.load(to_bytes(calibration()))
        for name in ("log_weights", "means", "factors"):
            arrays[f"latents.{name}"] = arrays[f"latents.{name}"][:0]
        with pytest.raises(ValueError, match="latents"):
            from_bytes(safetensors.numpy.save(arrays), latent=2, measured=0)

    @pytest.mark.parametrize("seed", range(3))
    def test_altered_or_truncated_are_refused_or_give_valid_p_values(self, seed: int) -> None:
        draw, fresh = np.random.default_rng(seed), chance(20, 9)
        whole = to_bytes(calibration(120))
        header = 8 + int.from_bytes(whole[:8], "little")
        places = [*range(8), *draw.integers(8, header, 60), *draw.integers(header, len(whole), 60)]
        flips = [whole[:at] + bytes([whole[at] ^ int(draw.integers(1, 256))]) + whole[at + 1 :] for at in places]
        for data in (*flips, *(whole[: int(end)] for end in draw.integers(0, len(whole), 30))):
            try:
                back = from_bytes(data, latent=2, measured=0)
            except Exception:  # a checkpoint refuses whatever is one
                continue
            for scoring in back.references:
                with np.errstate(all="ignore"):
                    result = ranked(back, scoring, fresh if not scoring.refine else chance(20, 9, refined=True))
                assert result.p_values is not None
                assert all(((p > 0) & (p <= 1)).all() for p in result.p_values.values())


def test_an_invalid_calibration_is_not_saved(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("table-mlp-gaussian"), tmp_path / "model")
    save_calibration(folder, calibration())
    before, infinite = load(folder).digest, chance(20)
    infinite.free_energy[3] = np.inf
    of_another = Calibration(fit_latents(chance(200, latent=5).mean), {})
    for bad in (of_another, Calibration(None, {}).with_reference(PLAIN, infinite)):
        with pytest.raises(CheckpointError, match="make a new one with vae calibrate"):
            save_calibration(folder, bad)
        assert load(folder).digest == before
