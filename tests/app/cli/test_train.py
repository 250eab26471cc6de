"""`vae train`: the calibration at its end, resuming, and the options of models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from app.cli import main as cli
from app.cli import train
from model import checkpoint
from model.datasets import open_dataset
from model.scoring import batches
from model.scoring.calibration import Calibration, Reference, ScoringConfig
from model.training.precision import MeasuredPrecision
from model.training.splits import Split
from tests.support.commands import SMALL, Invoke, invoke
from tests.support.data import squares

CONV = ("--network", "conv", "--channels", "8", "--blocks", "1", "--latent", "4", "--epochs", "2", "--set-aside", "0")
CALIBRATED = "Calibrated on 100 samples that were set aside"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 squares in a file."""
    path = tmp_path_factory.mktemp("data") / "squares.npy"
    np.save(path, squares(300))
    return path


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """Folder of a finished run and output of its training."""
    folder = data.parent / "finished"
    return folder, invoke("train", str(data), "--out", str(folder), "--set-aside", "100", *SMALL)


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def calibration_of(run: Path) -> Calibration:
    """Calibration of a run."""
    calibration = checkpoint.load(run).calibration
    assert calibration is not None
    return calibration


def assert_same(first: Reference, second: Reference) -> None:
    """Assert that two references hold equal scores, but for rounding."""
    np.testing.assert_allclose(first.free_energy, second.free_energy, rtol=1e-5)
    assert first.typicality is not None and second.typicality is not None
    np.testing.assert_allclose(first.typicality, second.typicality, rtol=1e-3, atol=1e-3)
    if first.regret is not None and second.regret is not None:
        np.testing.assert_allclose(first.regret, second.regret, rtol=0, atol=1e-4 * np.abs(first.free_energy).max())


def test_training_ends_with_a_calibration_of_the_best_model(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert "170 samples, 30 held out, 100 set aside; 3 epochs" in output
    assert CALIBRATED in output
    assert output.index("3/3") < output.index(CALIBRATED) < output.index("Best on held-out samples")
    calibration = calibration_of(folder)
    assert set(calibration.references) == set(batches.DEFAULT_SCORINGS)
    assert calibration.latents is not None
    assert checkpoint.load(folder).card.anomaly_score == "typicality"
    for protocol, reference in calibration.references.items():
        assert len(reference.free_energy) == 100
        assert (reference.regret is None) == (protocol.refine == 0)
        # One half fits typicality, the second calibrates it.
        assert reference.typicality is not None and len(reference.typicality) == 50


def test_the_reference_holds_the_scores_of_the_calibration_split(finished: tuple[Path, str], data: Path) -> None:
    folder, _ = finished
    aside = Split.from_dataset(open_dataset(str(data)), None, 100, 0).calibration
    (batch,) = batches.score(checkpoint.load(folder).vae, [aside], ScoringConfig(16, 20, 0))
    scores = batch.scores
    reference = calibration_of(folder).references[ScoringConfig(16, 20, 0)]
    np.testing.assert_allclose(np.sort(scores.estimates.free_energy), reference.free_energy, rtol=1e-5)
    assert scores.regret is not None and reference.regret is not None
    np.testing.assert_allclose(np.sort(scores.regret), reference.regret, atol=1e-4 * reference.free_energy.max())


def test_a_repeated_command_restores_a_lost_calibration(vae: Invoke, run: Path, data: Path) -> None:
    before = checkpoint.load(run)
    checkpoint.save(run / "checkpoint", before.vae, before.card)
    assert checkpoint.load(run).calibration is None
    command = ("train", str(data), "--out", str(run), "--set-aside", "100", *SMALL)
    output = vae(*command)
    assert CALIBRATED in output
    assert "Resuming" in output and "after epoch 3" in output
    after = checkpoint.load(run)
    assert after.card == before.card
    assert before.calibration is not None
    for protocol, reference in before.calibration.references.items():
        assert_same(reference, calibration_of(run).references[protocol])
    # A complete run does not change.
    digest = after.digest
    assert CALIBRATED not in vae(*command)
    assert checkpoint.load(run).digest == digest


def test_an_empty_calibration_split_makes_no_calibration(vae: Invoke, data: Path) -> None:
    output = vae("train", str(data), "--out", "run", "--set-aside", "0", *SMALL)
    assert "270 samples, 30 held out, 0 set aside" in output
    assert "Calibrat" not in output
    assert checkpoint.load(Path("run")).calibration is None


def test_a_small_calibration_split_gives_p_values_without_typicality(vae: Invoke, data: Path) -> None:
    output = vae("train", str(data), "--out", "run", *SMALL)
    assert "240 samples, 30 held out, 30 set aside" in output
    assert "Calibrated on 30 samples that were set aside" in output
    calibration = calibration_of(Path("run"))
    assert calibration.latents is None
    assert checkpoint.load(Path("run")).card.anomaly_score == "free_energy"
    for reference in calibration.references.values():
        assert len(reference.free_energy) == 30
        assert reference.typicality is None


def test_no_hidden_layers_make_a_linear_model(vae: Invoke) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    vae("train", "table.npy", "--out", "run", *SMALL, "--network", "mlp", "--hidden", "", "--latent", "2")
    model = checkpoint.load(Path("run")).vae
    assert model.config.network.name == "mlp"
    assert model.config.network.hidden == ()
    for body, (before, after) in ((model.encoder, (5, 4)), (model.decoder, (2, 5))):
        (layer,) = body.layers.children()  # type: ignore[union-attr]
        assert isinstance(layer, nn.Linear)
        assert (layer.in_features, layer.out_features) == (before, after)


@pytest.mark.parametrize(
    ("options", "setting", "value"),
    [
        (("--optimizer", "muon"), "optimizer", "muon"),
        (("--optimizer", "adamw"), "optimizer", "adamw"),
        (("--inference-steps", "2"), "inference_steps", 2),
        ((), "optimizer", "adamw"),
        ((), "inference_steps", 1),
    ],
    ids=str,
)
def test_options_are_stored_in_the_card(vae: Invoke, options: tuple[str, ...], setting: str, value: object) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    vae("train", "table.npy", "--out", "run", *SMALL, *options)
    training = checkpoint.load(Path("run")).card.training
    assert training is not None
    assert training.settings[setting] == value


@pytest.mark.parametrize(
    "wrong",
    [("--optimizer", "sgd"), ("--likelihood", "poisson"), ("--inference-steps", "0"), ("--set-aside", "-1")],
    ids=str,
)
def test_invalid_options_are_refused_by_name(vae: Invoke, wrong: tuple[str, str]) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    result = CliRunner().invoke(cli.cli, ["train", "table.npy", "--out", "run", *SMALL, *wrong])
    assert result.exit_code in {1, 2}
    output = result.output + str(result.exception)
    assert wrong[0].strip("-").replace("-", "_") in output.replace("-", "_")
    assert not Path("run").exists()


@pytest.mark.parametrize(("options", "autoregressive"), [([], True), (["--no-autoregressive"], False)])
def test_images_of_bytes_get_an_autoregressive_likelihood_by_default(
    vae: Invoke, data: Path, options: list[str], autoregressive: bool
) -> None:
    vae("train", str(data), "--out", "run", *SMALL, *options)
    likelihood = checkpoint.load(Path("run")).vae.config.likelihood
    assert likelihood.name == "discretized"
    assert likelihood.model_dump()["autoregressive"] is autoregressive


def test_the_faster_precision_is_chosen_once(vae: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("train", str(data), "--out", "run", *CONV)
    monkeypatch.setattr(MeasuredPrecision, "of", lambda config, settings: MeasuredPrecision("bfloat16", 2.5))
    assert "Precision: bfloat16; a step in bfloat16 is 2.5 times as fast" in vae(*command)
    training = checkpoint.load(Path("run")).card.training
    assert training is not None and training.settings["precision"] == "bfloat16"
    # Another measurement, as on a busy machine, does not keep a run from resuming.
    monkeypatch.setattr(MeasuredPrecision, "of", lambda config, settings: MeasuredPrecision("float32", 0.5))
    assert "Precision" not in vae(*command)


def test_a_precision_that_is_named_is_not_measured(vae: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeasuredPrecision, "of", lambda config, settings: pytest.fail("measured"))
    vae("train", str(data), "--out", "run", *CONV, "--precision", "bfloat16")


def test_many_weights_for_images_are_warned_of(vae: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warning = "These are many weights for images: --network conv has far fewer"
    assert warning not in vae("train", str(data), "--out", "run", *SMALL)
    monkeypatch.setattr(train, "MANY_WEIGHTS", 1000)
    assert warning in vae("train", str(data), "--out", "other", *SMALL)
