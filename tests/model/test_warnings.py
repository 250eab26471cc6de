"""Warnings and the conditions under which they are given."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from model.checkpoint import Card, Checkpoint
from model.record import EpochRecord
from model.scoring.detection import Detection
from model.warnings import checkpoint_warnings, model_warnings, overfits, unlearned_columns
from tests.support.checkpoints import provenance
from tests.support.models import epoch_record

RECORD = epoch_record(1, 10.0, 8.0, 2.0, None, 11.0, 1e-3, 1.0, 100.0)
SOUND = {"active_units": 4, "scales_at_floor": 0.0}


def history(*pairs: tuple[float, float]) -> list[EpochRecord]:
    """Epochs from their free energies on held-out samples and in training."""
    return [
        RECORD.model_copy(update={"epoch": epoch, "free_energy": float(held_out), "train_free_energy": float(train)})
        for epoch, (held_out, train) in enumerate(pairs, 1)
    ]


def codes(**evaluation: Any) -> list[str]:
    return [warning.code for warning in model_warnings({**SOUND, **evaluation}, [], latent=4)]


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ({}, []),
        ({"active_units": 0}, ["The latent has collapsed"]),
        ({"active_units": 3}, ["1 of 4 latent dimensions are inactive"]),
        ({"scales_at_floor": 0.04}, []),
        ({"scales_at_floor": 0.25}, ["25% of the decoder's scales are at their lower bound"]),
        ({"scales_at_floor": None}, []),
        ({"active_units": 1, "scales_at_floor": 1.0}, ["3 of 4", "100% of the decoder's scales"]),
    ],
    ids=str,
)
def test_inactive_dimensions_and_scales_at_their_bound(evaluation: dict[str, Any], expected: list[str]) -> None:
    warnings = model_warnings({**SOUND, **evaluation}, [], latent=4)
    assert len(warnings) == len(expected)
    for warning, title in zip(warnings, expected, strict=True):
        assert title in warning.title and warning.text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], False),
        (history((100, 100)), False),
        (history((100, 100), (50, 50), (40, 40)), False),
        (history((100, 100), (50, 50), (60, 40)), True),
        # A rise by less than a fiftieth of the fall, and a rise in training too, are chance.
        (history((100, 100), (50, 50), (50.5, 40)), False),
        (history((100, 100), (50, 50), (60, 60)), False),
        # Free energies of densities can be negative.
        (history((0, 0), (-50, -50), (-45, -60)), True),
        (history((5, 5), (6, 4)), True),
    ],
    ids=str,
)
def test_overfitting(records: list[EpochRecord], expected: bool) -> None:
    assert overfits(records) is expected
    warnings = model_warnings(SOUND, records, latent=4)
    assert [warning.code for warning in warnings] == ["overfitting"] * expected
    if expected:
        best = min(records, key=lambda record: record.free_energy).epoch
        assert f"after epoch {best} of {len(records)}" in warnings[0].text


@pytest.mark.parametrize(
    ("held_out", "error", "expected"),
    [(90.0, 1.0, 1), (96.0, 1.0, 0), (120.0, 1.0, 0), (90.0, None, 0), (None, 1.0, 0)],
)
def test_data_of_another_kind(held_out: float | None, error: float | None, expected: int) -> None:
    evaluation = {**SOUND, "free_energy": 100.0, "free_energy_standard_error": error}
    training = provenance(held_out_scores={"free_energy": held_out})
    warnings = model_warnings(evaluation, [], latent=4, training=training)
    assert [warning.code for warning in warnings] == ["different_data"] * expected
    if expected:
        assert "100.00 against 90.00 nats" in warnings[0].text


def test_samples_of_the_training_set() -> None:
    typical = Detection(1, 0, 0, 10, {"noise": 5}, {"noise": {"free_energy": 0.5, "typicality": 0.5}})
    plain = replace(typical, auroc={"noise": {"free_energy": 0.5}})
    both = replace(typical, auroc={"noise": {"typicality": 0.5}, "flips": {"free_energy_two_sided": 0.5}})
    detected = [{"auroc": run.auroc} for run in (typical, plain, both)]
    assert codes(portion="held_out") == ["evaluated_on_held_out"]
    assert codes(portion="set_aside", detection=detected[1:2]) == []
    assert codes(portion="set_aside", detection=detected[:1]) == ["evaluated_on_calibration"]
    assert codes(detection=detected[:1]) == []
    (warning,) = model_warnings({**SOUND, "portion": "set_aside", "detection": detected[2:]}, [], latent=4)
    assert warning.title == "The evaluated samples also calibrated typicality and free_energy_two_sided"


def test_columns_that_the_model_does_not_explain() -> None:
    (warning,) = unlearned_columns(["age"])
    assert warning.title == "Nothing is learned about 1 column" and "model does: age." in warning.text
    (warning,) = unlearned_columns(list("abcdefgh"))
    assert warning.title == "Nothing is learned about 8 columns" and "a, b, c, d, e and 3 more" in warning.text
    assert list(unlearned_columns([])) == []


def test_a_checkpoint_without_calibration_and_evaluation(loaded: Callable[[str], Checkpoint]) -> None:
    warnings = checkpoint_warnings(loaded("grey-mlp-discretized"))
    assert [warning.code for warning in warnings] == ["not_calibrated", "not_evaluated"]


def test_a_checkpoint_is_judged_by_its_gallery(shown: Callable[[str], Checkpoint]) -> None:
    checkpoint = shown("grey-mlp-discretized")
    assert checkpoint.gallery is not None
    codes = {warning.code for warning in checkpoint_warnings(checkpoint)}
    assert ("overfitting" in codes) is overfits(checkpoint.gallery.learning)
    assert ("inactive_dimensions" in codes) is (0 < checkpoint.gallery.active_units < checkpoint.vae.config.latent)
    assert "not_calibrated" not in codes


def test_an_evaluation_with_unknown_figures_gives_no_warnings() -> None:
    assert model_warnings({"free_energy": None}, [], latent=4) == []
    assert model_warnings(None, [], latent=4) == []


def test_a_checkpoint_is_judged_by_its_evaluation(loaded: Callable[[str], Checkpoint]) -> None:
    checkpoint = loaded("grey-mlp-discretized")
    card = Card(name="x", created="2024-01-01", evaluation={**SOUND, "scales_at_floor": 0.5})
    codes = [warning.code for warning in checkpoint_warnings(replace(checkpoint, card=card))]
    assert codes == ["scales_at_floor", "not_calibrated"]
