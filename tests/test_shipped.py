"""Shipped models and their cards."""

from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import PRETRAINED, WEIGHTS, load
from model.datasets import GARMENTS, Dataset, open_dataset
from model.errors import DataError
from model.report.evaluation import evaluate
from model.scoring.batches import score
from model.scoring.calibration import ScoringConfig
from model.training.splits import Split

MODELS = ("fashion-mnist", "fashion-mnist-mlp")
every = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def test_set() -> Dataset:
    """The 10,000 test images."""
    try:
        return open_dataset("fashion-mnist:test")
    except DataError as error:
        pytest.skip(str(error))


def test_the_list_of_shipped_models_is_complete() -> None:
    assert sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir()) == sorted(MODELS)


@every
def test_the_card_holds_training_and_evaluation(name: str) -> None:
    checkpoint = load(Path(name))
    assert checkpoint.folder == PRETRAINED / name
    assert (checkpoint.folder / WEIGHTS).stat().st_size <= 24 << 20
    training, report = checkpoint.card.training, checkpoint.card.evaluation
    assert training is not None
    assert training.command.startswith("vae train fashion-mnist ")
    assert training.seconds > 0
    assert "cores" in training.machine
    assert "seed" in training.settings
    assert report is not None
    assert (report["dataset"], report["samples"]) == ("fashion-mnist:test", 10_000)


def test_the_default_model_reaches_its_targets() -> None:
    card = load(Path("fashion-mnist")).card
    report = card.evaluation
    assert report is not None
    codecs = report["codecs_bits_per_dim"]
    assert report["bits_per_dim"] <= 2.90 < codecs["xz"] < codecs["gzip"] < codecs["png"]
    assert report["worst"][0]["bits_per_dim"] <= 12
    least = {"vertical flips": 0.965, "horizontal flips": 0.755, "digits": 0.999, "noise": 0.999, "constants": 0.999}
    assert card.anomaly_score == "typicality"
    assert report["detection"]
    for detection in report["detection"]:
        for name, bar in least.items():
            assert detection["auroc"][name][card.anomaly_score] >= bar


@every
def test_its_gallery_is_of_images_that_training_set_aside(name: str) -> None:
    checkpoint = load(Path(name))
    training, report = checkpoint.card.training, checkpoint.card.evaluation
    assert checkpoint.gallery is not None and training is not None and report is not None
    gallery = checkpoint.gallery
    assert len(gallery) == 2000 and gallery.counts.sum() == training.settings["set_aside"]
    assert gallery.label_names == GARMENTS
    assert gallery.labels is not None and set(gallery.labels.tolist()) == set(range(10))
    assert gallery.active_units == report["active_units"]
    assert gallery.kl_to_normal.sum() == pytest.approx(sum(report["kl_to_normal"]), rel=0.02)
    assert "typicality" in gallery.scores
    try:
        dataset = open_dataset("fashion-mnist")
    except DataError as error:
        pytest.skip(str(error))
    split = Split.from_dataset(dataset, training.held_out, training.settings["set_aside"], training.settings["seed"])
    assert split.sha256() == training.dataset_sha256
    picks = np.arange(2000) * 5 // 2
    np.testing.assert_array_equal(gallery.inputs, split.calibration[picks])
    assert split.calibration_labels is not None
    np.testing.assert_array_equal(gallery.labels, split.calibration_labels[picks])


@every
def test_the_gallery_holds_the_results_of_the_model(name: str) -> None:
    checkpoint = load(Path(name))
    assert checkpoint.gallery is not None
    gallery = checkpoint.gallery
    part = next(score(checkpoint.vae, [gallery.inputs[:50]], ScoringConfig(1, 0, 0), checkpoint.calibration))
    np.testing.assert_allclose(gallery.scores["free_energy"][:50], part.scores.estimates.free_energy, rtol=1e-4)
    np.testing.assert_allclose(gallery.mean[:50], part.means, atol=1e-3)
    assert part.scores.calibrated.typicality is not None
    np.testing.assert_allclose(gallery.scores["typicality"][:50], part.scores.calibrated.typicality, atol=0.05)


def test_a_density_has_no_bits() -> None:
    checkpoint = load(Path("fashion-mnist-mlp"))
    assert checkpoint.vae.levels is None
    assert checkpoint.card.evaluation is not None
    assert checkpoint.card.evaluation["bits_per_dim"] is None


@every
def test_scores_of_the_first_test_images_agree_with_the_card(name: str, test_set: Dataset) -> None:
    checkpoint = load(Path(name))
    part = next(score(checkpoint.vae, test_set.batches(1000), ScoringConfig(1, 0, 0)))
    assert checkpoint.card.evaluation is not None
    mean = checkpoint.card.evaluation["free_energy"]
    error = checkpoint.card.evaluation["free_energy_standard_error"] * np.sqrt(10_000 / 1000)
    assert abs(part.scores.estimates.free_energy.mean() - mean) < 4 * error


@pytest.mark.long
@every
def test_the_held_out_report_equals_an_evaluation(name: str, test_set: Dataset) -> None:
    """Evaluate all images with one draw, and the costliest images of the card with all draws of the card."""
    checkpoint = load(Path(name))
    expected = checkpoint.card.evaluation
    assert expected is not None
    report = evaluate(checkpoint.vae, test_set, draws=1, seed=expected["seed"]).report.plain()
    assert report["active_units"] == expected["active_units"]
    # These have a closed form; the rest differs by the chance of its draw.
    assert report["kl_to_normal"] == pytest.approx(expected["kl_to_normal"], rel=1e-3, abs=1e-3)
    for key in ("free_energy", "distortion"):
        assert report[key] == pytest.approx(expected[key], rel=0.01)
    # All images share the draw, so that a rate without a closed form is off by sum (scale^2 - 1) epsilon^2 / 2 at most
    # about the standard deviation of sum epsilon^2 / 2: two of these are allowed.
    chance = 0.0 if checkpoint.vae.prior.analytic_rate else 2 * np.sqrt(checkpoint.vae.config.latent / 2)
    assert report["rate"] == pytest.approx(expected["rate"], rel=0.01, abs=chance)
    samples = test_set.load()[[int(worst["sample"]) for worst in expected["worst"]]]
    part = next(score(checkpoint.vae, [samples], ScoringConfig(expected["draws"], 0, expected["seed"])))
    costs = [worst["free_energy"] for worst in expected["worst"]]
    assert part.scores.estimates.free_energy == pytest.approx(costs, rel=1e-4)
