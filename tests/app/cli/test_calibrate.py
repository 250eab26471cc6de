"""`vae calibrate`: add a scoring configuration to the calibration of a model, from user data."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model import checkpoint
from model.checkpoint import Checkpoint
from model.errors import CalibrationError, DataError
from model.scoring import batches
from model.scoring.calibration import Calibration, ScoringConfig
from tests.support.commands import SMALL, Invoke, table
from tests.support.data import squares
from tests.support.models import SCORINGS, reference

NAME = "table-mlp-gaussian"
Load = Callable[[str], Checkpoint]
OPTIONS = ("--samples", "2", "--refine", "3", "--seed", "5")
NEW = ScoringConfig(2, 3, 5)


def copied(model: Checkpoint) -> str:
    """Copy a model into the current folder and return the name of the copy."""
    shutil.copytree(model.folder, "model")
    return "model"


def rows(count: int) -> str:
    """Write a file of `count` rows that the model has not seen and return its name."""
    np.save("rows.npy", reference(NAME, count, seed=3))
    return "rows.npy"


def calibration_of(folder: str) -> Calibration:
    """Calibration of a model."""
    calibration = checkpoint.load(Path(folder)).calibration
    assert calibration is not None
    return calibration


def test_a_call_adds_a_configuration_and_keeps_the_others(vae: Invoke, calibrated: Load) -> None:
    before = calibrated(NAME)
    model = copied(before)
    output = vae("calibrate", model, rows(150), *OPTIONS)
    assert "for samples=2, refine=3, seed=5 on 150 samples" in output
    calibration = calibration_of(model)
    assert set(calibration.references) == {*SCORINGS, NEW}
    assert before.calibration is not None
    for scoring in SCORINGS:
        old, new = before.calibration.references[scoring], calibration.references[scoring]
        np.testing.assert_array_equal(new.free_energy, old.free_energy)
        assert new.typicality is not None and old.typicality is not None
        np.testing.assert_array_equal(new.typicality, old.typicality)
    after = checkpoint.load(Path(model))
    assert after.card == before.card
    assert after.digest != before.digest
    for weight, old_weight in zip(after.vae.parameters(), before.vae.parameters(), strict=True):
        np.testing.assert_array_equal(weight.numpy(), old_weight.numpy())


def test_a_calibration_of_another_version_is_replaced(vae: Invoke, calibrated: Load) -> None:
    model = copied(calibrated(NAME))
    other = checkpoint.load(Path(model))
    path = Path(model) / checkpoint.CALIBRATION
    foreign = safetensors.numpy.save({"reference.1.0.0.score": np.zeros(3)})
    path.write_bytes(foreign)
    seal = Path(model) / checkpoint.SUMS
    sums = [line for line in seal.read_text().splitlines() if checkpoint.CALIBRATION not in line]
    sums.append(f"{hashlib.sha256(foreign).hexdigest()}  {checkpoint.CALIBRATION}")
    seal.write_text("\n".join(sorted(sums, key=lambda line: line.split()[1])) + "\n")
    with pytest.raises(CalibrationError, match="make a new one with vae calibrate"):
        checkpoint.load(Path(model))
    assert "will be replaced" in vae("calibrate", model, rows(150), *OPTIONS)
    assert set(calibration_of(model).references) == {NEW}
    assert checkpoint.load(Path(model)).card.training == other.card.training


def test_the_reference_holds_the_scores_of_the_samples(vae: Invoke, calibrated: Load) -> None:
    model = copied(calibrated(NAME))
    vae("calibrate", model, rows(150), *OPTIONS)
    (part,) = batches.score(calibrated(NAME).vae, [reference(NAME, 150, seed=3)], NEW)
    result = calibration_of(model).references[NEW]
    np.testing.assert_allclose(result.free_energy, np.sort(part.scores.estimates.free_energy), rtol=1e-4)
    assert result.regret is not None and part.scores.regret is not None
    np.testing.assert_allclose(result.regret, np.sort(part.scores.regret), rtol=1e-3, atol=1e-3)
    assert result.typicality is not None and len(result.typicality) == 75


def test_scores_with_an_equal_configuration_have_p_values_afterwards(vae: Invoke, calibrated: Load) -> None:
    model, data = copied(calibrated(NAME)), rows(150)
    assert "No p-values" in vae("score", model, data, "--out", "scores.csv", *OPTIONS)
    vae("calibrate", model, data, *OPTIONS)
    assert "No p-values" not in vae("score", model, data, "--out", "scores.csv", *OPTIONS)
    # For the reference itself, p-values follow from ranks.
    p = np.array([float(row["p_free_energy"]) for row in table("scores.csv")])
    np.testing.assert_allclose(np.sort(p), np.arange(2, 152) / 151)


def test_a_calibrated_configuration_is_replaced(vae: Invoke, calibrated: Load) -> None:
    model = copied(calibrated(NAME))
    vae("calibrate", model, rows(150), "--samples", "4")
    calibration = calibration_of(model)
    assert set(calibration.references) == set(SCORINGS)
    assert len(calibration.references[ScoringConfig(4, 0, 0)].free_energy) == 150
    assert len(calibration.references[ScoringConfig(1, 0, 0)].free_energy) == 120


def test_without_a_density_of_latents_half_of_the_samples_fit_it(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    output = vae("calibrate", model, rows(240))
    assert "for samples=1, refine=0, seed=0 on 120 samples" in output
    calibration = calibration_of(model)
    assert calibration.latents is not None
    assert len(calibration.references[ScoringConfig(1, 0, 0)].free_energy) == 120
    assert calibration.references[ScoringConfig(1, 0, 0)].typicality is not None
    assert checkpoint.load(Path(model)).card.anomaly_score == "typicality"
    # The next call uses the density that is there.
    assert "on 240 samples" in vae("calibrate", model, rows(240), *OPTIONS)
    assert calibration_of(model).references.keys() == {ScoringConfig(1, 0, 0), NEW}


def test_all_samples_are_scored_if_they_are_too_few_for_a_density(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    vae("calibrate", model, rows(120))
    result = calibration_of(model).references[ScoringConfig(1, 0, 0)]
    assert result.typicality is not None or len(result.free_energy) == 120
    score = checkpoint.load(Path(model)).card.anomaly_score
    assert score == ("free_energy" if result.typicality is None else "typicality")


def test_configurations_without_typicality_are_kept_when_others_get_it(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    few = batches.calibrate(loaded(NAME).vae, reference(NAME, 40), SCORINGS)
    checkpoint.save_calibration(Path(model), few)
    vae("calibrate", model, rows(240), *OPTIONS)
    calibration = calibration_of(model)
    assert set(calibration.references) == {*SCORINGS, NEW}
    assert calibration.references[NEW].typicality is not None
    np.testing.assert_array_equal(
        calibration.references[ScoringConfig(4, 5, 0)].free_energy, few.references[ScoringConfig(4, 5, 0)].free_energy
    )


@pytest.mark.parametrize("which", ["calibrated", "not"])
def test_too_few_samples_are_refused_and_change_nothing(
    vae: Invoke, calibrated: Load, loaded: Load, which: str
) -> None:
    original = (calibrated if which == "calibrated" else loaded)(NAME)
    model = copied(original)
    with pytest.raises(DataError, match=r"rows.npy: 99 samples are too few to calibrate on; give at least 100"):
        vae("calibrate", model, rows(99))
    assert checkpoint.load(Path(model)).digest == original.digest


def test_training_data_is_reduced_to_its_calibration_split(vae: Invoke) -> None:
    np.save("squares.npy", squares(300))
    vae("train", "squares.npy", "--out", "aside", "--set-aside", "120", *SMALL)
    output = vae("calibrate", "aside", "squares.npy", *OPTIONS)
    assert "on 120 samples of squares.npy (set aside)" in output
    assert calibration_of("aside").references[NEW].free_energy.shape == (120,)
    vae("train", "squares.npy", "--out", "none", "--set-aside", "0", *SMALL)
    with pytest.raises(DataError, match=r"squares\.npy: the model was trained on it, and none of it was set aside"):
        vae("calibrate", "none", "squares.npy")
