"""`vae train`: the calibration it ends with, how it goes on, and the models it makes on request."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from app.cli import main as cli
from model import checkpoint
from model.datasets import open_dataset
from model.scoring import batches
from model.scoring.calibration import Calibration, Reference, ScoringConfig
from model.training.config import Split
from tests.support.commands import SMALL, Invoke, invoke
from tests.support.data import squares

CALIBRATED = "Calibrated on 100 samples that were set aside"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 squares in a file."""
    path = tmp_path_factory.mktemp("data") / "squares.npy"
    np.save(path, squares(300))
    return path


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """The folder of a finished run, and what its training said."""
    folder = data.parent / "finished"
    return folder, invoke("train", str(data), "--out", str(folder), "--set-aside", "100", *SMALL)


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def calibration(run: Path) -> Calibration:
    """Of a run that has one."""
    found = checkpoint.load(run).calibration
    assert found is not None
    return found


def assert_same(one: Reference, other: Reference) -> None:
    """Both hold the same scores."""
    np.testing.assert_allclose(one.free_energy, other.free_energy, rtol=1e-5)
    assert one.typicality is not None and other.typicality is not None
    np.testing.assert_allclose(one.typicality, other.typicality, rtol=1e-3, atol=1e-3)
    if one.regret is not None and other.regret is not None:
        np.testing.assert_allclose(one.regret, other.regret, rtol=0, atol=1e-4 * np.abs(one.free_energy).max())


def test_training_ends_with_a_calibration_of_the_best_model(finished: tuple[Path, str]) -> None:
    folder, said = finished
    assert "170 samples, judged on 30 held out, 100 set aside; 3 epochs" in said
    assert CALIBRATED in said
    assert said.index("3/3") < said.index(CALIBRATED) < said.index("Best on held-out samples")
    found = calibration(folder)
    assert set(found.references) == set(batches.DEFAULT_SCORINGS)
    assert found.latents is not None
    assert checkpoint.load(folder).card.anomaly_score == "typicality"
    for protocol, reference in found.references.items():
        assert len(reference.free_energy) == 100
        assert (reference.regret is None) == (protocol.refine == 0)
        # One half fits typicality, the other calibrates it.
        assert reference.typicality is not None and len(reference.typicality) == 50


def test_the_reference_is_what_the_samples_set_aside_score(finished: tuple[Path, str], data: Path) -> None:
    folder, _ = finished
    aside = Split.of(open_dataset(str(data)), None, 100, 0).set_aside
    (batch,) = batches.score(checkpoint.load(folder).vae, [aside], ScoringConfig(16, 20, 0))
    scores = batch.scores
    reference = calibration(folder).references[ScoringConfig(16, 20, 0)]
    np.testing.assert_allclose(np.sort(scores.estimates.free_energy), reference.free_energy, rtol=1e-5)
    assert scores.regret is not None and reference.regret is not None
    np.testing.assert_allclose(np.sort(scores.regret), reference.regret, atol=1e-4 * reference.free_energy.max())


def test_a_finished_run_that_lost_its_calibration_is_given_it_again(vae: Invoke, run: Path, data: Path) -> None:
    before = checkpoint.load(run)
    checkpoint.save(run / "checkpoint", before.vae, before.card)
    assert checkpoint.load(run).calibration is None
    command = ("train", str(data), "--out", str(run), "--set-aside", "100", *SMALL)
    said = vae(*command)
    assert CALIBRATED in said
    assert "Resuming" in said and "after epoch 3" in said
    after = checkpoint.load(run)
    assert after.card == before.card
    assert before.calibration is not None
    for protocol, reference in before.calibration.references.items():
        assert_same(reference, calibration(run).references[protocol])
    # A run that has all it needs is left as it is.
    digest = after.digest
    assert CALIBRATED not in vae(*command)
    assert checkpoint.load(run).digest == digest


def test_without_samples_set_aside_there_is_no_calibration(vae: Invoke, data: Path) -> None:
    said = vae("train", str(data), "--out", "run", "--set-aside", "0", *SMALL)
    assert "270 samples, judged on 30 held out, 0 set aside" in said
    assert "Calibrat" not in said
    assert checkpoint.load(Path("run")).calibration is None


def test_a_tenth_is_set_aside_and_too_few_for_typicality_still_give_p_values(vae: Invoke, data: Path) -> None:
    said = vae("train", str(data), "--out", "run", *SMALL)
    assert "240 samples, judged on 30 held out, 30 set aside" in said
    assert "Calibrated on 30 samples that were set aside" in said
    found = calibration(Path("run"))
    assert found.latents is None
    assert checkpoint.load(Path("run")).card.anomaly_score == "free_energy"
    for reference in found.references.values():
        assert len(reference.free_energy) == 30
        assert reference.typicality is None


def test_no_hidden_layers_make_a_linear_model(vae: Invoke) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    vae("train", "table.npy", "--out", "run", *SMALL, "--network", "mlp", "--hidden", "", "--latent", "2")
    found = checkpoint.load(Path("run")).vae
    assert found.config.network.name == "mlp"
    assert found.config.network.hidden == ()
    for body, (before, after) in ((found.encoder, (5, 4)), (found.decoder, (2, 5))):
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
def test_what_is_wished_for_is_done_and_stands_in_the_card(
    vae: Invoke, options: tuple[str, ...], setting: str, value: object
) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    vae("train", "table.npy", "--out", "run", *SMALL, *options)
    training = checkpoint.load(Path("run")).card.training
    assert training is not None
    assert training.settings[setting] == value


@pytest.mark.parametrize("wrong", [("--optimizer", "sgd"), ("--inference-steps", "0"), ("--set-aside", "-1")], ids=str)
def test_wishes_that_cannot_be_are_refused_by_name(vae: Invoke, wrong: tuple[str, str]) -> None:
    np.save("table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    result = CliRunner().invoke(cli.cli, ["train", "table.npy", "--out", "run", *SMALL, *wrong])
    assert result.exit_code in {1, 2}
    said = result.output + str(result.exception)
    assert wrong[0].strip("-").replace("-", "_") in said.replace("-", "_")
    assert not Path("run").exists()


@pytest.mark.parametrize(("wish", "leans"), [([], True), (["--no-autoregressive"], False)])
def test_bytes_lean_on_their_neighbours_unless_told_otherwise(
    vae: Invoke, data: Path, wish: list[str], leans: bool
) -> None:
    vae("train", str(data), "--out", "run", *SMALL, *wish)
    likelihood = checkpoint.load(Path("run")).vae.config.likelihood
    assert likelihood.name == "discretized"
    assert likelihood.model_dump()["autoregressive"] is leans
