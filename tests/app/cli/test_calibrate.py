"""`vae calibrate`: a protocol more for a model, from data of one's own."""

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
ASKED = ("--samples", "2", "--refine", "3", "--seed", "5")
NEW = ScoringConfig(2, 3, 5)


def copied(found: Checkpoint) -> str:
    """A copy of a model where we are, and its name."""
    shutil.copytree(found.folder, "model")
    return "model"


def rows(count: int) -> str:
    """The name of a file of so many rows that the model has not seen."""
    np.save("rows.npy", reference(NAME, count, seed=3))
    return "rows.npy"


def calibration(folder: str) -> Calibration:
    """Of a model that has one."""
    found = checkpoint.load(Path(folder)).calibration
    assert found is not None
    return found


def test_a_call_adds_a_protocol_and_keeps_the_others(vae: Invoke, calibrated: Load) -> None:
    before = calibrated(NAME)
    model = copied(before)
    said = vae("calibrate", model, rows(150), *ASKED)
    assert "for samples=2, refine=3, seed=5 on 150 samples" in said
    found = calibration(model)
    assert set(found.references) == {*SCORINGS, NEW}
    assert before.calibration is not None
    for protocol in SCORINGS:
        old, kept = before.calibration.references[protocol], found.references[protocol]
        np.testing.assert_array_equal(kept.free_energy, old.free_energy)
        assert kept.typicality is not None and old.typicality is not None
        np.testing.assert_array_equal(kept.typicality, old.typicality)
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
    assert "will be replaced" in vae("calibrate", model, rows(150), *ASKED)
    assert set(calibration(model).references) == {NEW}
    assert checkpoint.load(Path(model)).card.training == other.card.training


def test_the_reference_is_what_the_samples_score(vae: Invoke, calibrated: Load) -> None:
    model = copied(calibrated(NAME))
    vae("calibrate", model, rows(150), *ASKED)
    (part,) = batches.score(calibrated(NAME).vae, [reference(NAME, 150, seed=3)], NEW)
    found = calibration(model).references[NEW]
    np.testing.assert_allclose(found.free_energy, np.sort(part.scores.estimates.free_energy), rtol=1e-4)
    assert found.regret is not None and part.scores.regret is not None
    np.testing.assert_allclose(found.regret, np.sort(part.scores.regret), rtol=1e-3, atol=1e-3)
    assert found.typicality is not None and len(found.typicality) == 75


def test_scores_made_alike_have_p_values_from_then_on(vae: Invoke, calibrated: Load) -> None:
    model, data = copied(calibrated(NAME)), rows(150)
    assert "No p-values" in vae("score", model, data, "--out", "scores.csv", *ASKED)
    vae("calibrate", model, data, *ASKED)
    assert "No p-values" not in vae("score", model, data, "--out", "scores.csv", *ASKED)
    # The reference itself: each is as rare as its rank says.
    p = np.array([float(row["p_free_energy"]) for row in table("scores.csv")])
    np.testing.assert_allclose(np.sort(p), np.arange(2, 152) / 151)


def test_a_known_protocol_is_calibrated_anew(vae: Invoke, calibrated: Load) -> None:
    model = copied(calibrated(NAME))
    vae("calibrate", model, rows(150), "--samples", "4")
    found = calibration(model)
    assert set(found.references) == set(SCORINGS)
    assert len(found.references[ScoringConfig(4, 0, 0)].free_energy) == 150
    assert len(found.references[ScoringConfig(1, 0, 0)].free_energy) == 120


def test_a_model_that_has_none_spends_half_on_where_latents_lie(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    said = vae("calibrate", model, rows(240))
    assert "for samples=1, refine=0, seed=0 on 120 samples" in said
    found = calibration(model)
    assert found.latents is not None
    assert len(found.references[ScoringConfig(1, 0, 0)].free_energy) == 120
    assert found.references[ScoringConfig(1, 0, 0)].typicality is not None
    assert checkpoint.load(Path(model)).card.anomaly_score == "typicality"
    # The next call needs no density any more.
    assert "on 240 samples" in vae("calibrate", model, rows(240), *ASKED)
    assert calibration(model).references.keys() == {ScoringConfig(1, 0, 0), NEW}


def test_nothing_is_spent_on_a_density_that_is_not_used(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    vae("calibrate", model, rows(120))
    found = calibration(model).references[ScoringConfig(1, 0, 0)]
    assert found.typicality is not None or len(found.free_energy) == 120
    score = checkpoint.load(Path(model)).card.anomaly_score
    assert score == ("free_energy" if found.typicality is None else "typicality")


def test_protocols_without_typicality_are_kept_when_others_get_it(vae: Invoke, loaded: Load) -> None:
    model = copied(loaded(NAME))
    few = batches.calibrate(loaded(NAME).vae, reference(NAME, 40), SCORINGS)
    checkpoint.save_calibration(Path(model), few)
    vae("calibrate", model, rows(240), *ASKED)
    found = calibration(model)
    assert set(found.references) == {*SCORINGS, NEW}
    assert found.references[NEW].typicality is not None
    np.testing.assert_array_equal(
        found.references[ScoringConfig(4, 5, 0)].free_energy, few.references[ScoringConfig(4, 5, 0)].free_energy
    )


@pytest.mark.parametrize("which", ["calibrated", "not"])
def test_too_few_samples_are_refused_and_change_nothing(
    vae: Invoke, calibrated: Load, loaded: Load, which: str
) -> None:
    found = (calibrated if which == "calibrated" else loaded)(NAME)
    model = copied(found)
    with pytest.raises(DataError, match=r"rows.npy: 99 samples are too few to calibrate on; give 100 at least"):
        vae("calibrate", model, rows(99))
    assert checkpoint.load(Path(model)).digest == found.digest


def test_of_the_data_of_the_training_only_what_was_set_aside_is_taken(vae: Invoke) -> None:
    np.save("squares.npy", squares(300))
    vae("train", "squares.npy", "--out", "aside", "--set-aside", "120", *SMALL)
    said = vae("calibrate", "aside", "squares.npy", *ASKED)
    assert "on 120 samples of squares.npy (set aside)" in said
    assert calibration("aside").references[NEW].free_energy.shape == (120,)
    vae("train", "squares.npy", "--out", "none", "--set-aside", "0", *SMALL)
    with pytest.raises(DataError, match=r"squares\.npy: the model was trained on it, and none of it was set aside"):
        vae("calibrate", "none", "squares.npy")
