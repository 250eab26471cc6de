"""`vae prior`, and the prior at the end of `vae train`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from app.cli import completion
from app.cli import main as cli
from app.cli.progress import plain_console
from model import checkpoint
from model.checkpoint import Checkpoint
from model.datasets import open_dataset
from model.prior import FlowPriorConfig, Label
from model.scoring import batches
from model.scoring.calibration import ScoringConfig
from model.training import gain
from model.training.journal import Journal
from model.training.loop import TrainingSettings
from model.training.prior import PriorFit, PriorSettings
from model.training.splits import Split
from model.training.tuning import FineTuning, tuning_settings
from tests.support.commands import SMALL, Invoke, invoke, table
from tests.support.data import squares

KEPT, REFUSED = "The flow is the prior", "The prior is kept"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 squares in a file."""
    path = tmp_path_factory.mktemp("data") / "squares.npy"
    np.save(path, squares(600))
    return path


@pytest.fixture(scope="module")
def plain(data: Path) -> Path:
    """A run with the standard prior, trained so long that the latents have a shape of their own."""
    folder = data.parent / "plain"
    invoke("train", str(data), "--out", str(folder), "--prior", "standard", *SMALL, "--epochs", "30")
    return folder


@pytest.fixture
def run(plain: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(plain, tmp_path / "run"))


def held_out_scores(saved: Checkpoint, data: Path) -> float:
    """Mean free energy of the held-out samples, from one draw for all of them."""
    split = Split.from_dataset(open_dataset(str(data)), None, None, 0)
    parts = batches.score(saved.vae, batches.in_batches(split.validation), ScoringConfig(16, 0, 0))
    return float(np.concatenate([part.scores.estimates.free_energy for part in parts]).mean())


def test_a_model_gets_a_flow_with_all_that_belongs_to_it(vae: Invoke, run: Path, data: Path) -> None:
    before = checkpoint.load(run)
    output = vae("prior", str(run), str(data), "--epochs", "60", "--threads", "1")
    after = checkpoint.load(run)
    assert KEPT in output
    assert after.vae.config.prior.name == "flow" and after.digest != before.digest
    for name, weight in before.vae.state_dict().items():
        assert (after.vae.state_dict()[name] == weight).all()
    assert after.calibration is not None and before.calibration is not None
    assert after.calibration.references.keys() == before.calibration.references.keys()
    assert after.gallery is not None and before.gallery is not None
    assert (after.gallery.scores["free_energy"] != before.gallery.scores["free_energy"]).any()
    assert after.gallery.learning == before.gallery.learning
    report = after.card.prior
    assert report is not None and report.held_out < report.standard
    assert before.card.training is not None and after.card.training is not None
    changed, scores = after.card.training.held_out_scores, before.card.training.held_out_scores
    for name in ("free_energy", "rate"):
        gain = (scores[name] or 0) - (changed[name] or 0)
        assert gain == pytest.approx(report.standard - report.held_out)
    assert changed["distortion"] == scores["distortion"]
    gained = held_out_scores(before, data) - held_out_scores(after, data)
    assert gained == pytest.approx(report.standard - report.held_out, abs=0.5)
    # The references are scores under the new prior.
    aside = Split.from_dataset(open_dataset(str(data)), None, None, 0).calibration
    (batch,) = batches.score(after.vae, [aside], ScoringConfig(1, 0, 0))
    reference = after.calibration.references[ScoringConfig(1, 0, 0)]
    np.testing.assert_allclose(np.sort(batch.scores.estimates.free_energy), reference.free_energy, rtol=1e-5)


def test_an_evaluation_under_the_old_prior_is_removed(vae: Invoke, run: Path, data: Path) -> None:
    vae("evaluate", str(run), str(data), "--samples", "2", "--detection", "0", "--save")
    assert checkpoint.load(run).card.evaluation is not None
    vae("prior", str(run), str(data), "--epochs", "30", "--threads", "1", "--gallery", "none")
    assert checkpoint.load(run).card.evaluation is None
    assert checkpoint.load(run).gallery is None


def test_a_flow_that_does_not_pay_changes_nothing(
    vae: Invoke, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = checkpoint.load(run).digest
    monkeypatch.setattr(gain, "MIN_GAIN_ERRORS", 1e9)
    output = vae("prior", str(run), str(data), "--epochs", "2", "--threads", "1")
    assert REFUSED in output and KEPT not in output
    assert checkpoint.load(run).digest == digest


def test_a_second_flow_must_be_better_than_the_first(vae: Invoke, run: Path, data: Path) -> None:
    vae("prior", str(run), str(data), "--epochs", "60", "--threads", "1")
    first = checkpoint.load(run)
    assert REFUSED in vae("prior", str(run), str(data), "--epochs", "1", "--threads", "1")
    assert checkpoint.load(run).digest == first.digest
    assert checkpoint.load(run).card == first.card


def test_no_gallery_is_made_for_a_model_without_one(vae: Invoke, run: Path, data: Path) -> None:
    checkpoint.save_gallery(run, None)
    assert KEPT in vae("prior", str(run), str(data), "--epochs", "60", "--threads", "1")
    assert checkpoint.load(run).gallery is None


def test_a_copied_model_keeps_its_learning_curves(vae: Invoke, run: Path, data: Path) -> None:
    copied = run.parent / "copied"
    shutil.copytree(run / "checkpoint", copied)
    assert KEPT in vae("prior", str(copied), str(data), "--epochs", "60", "--threads", "1")
    before, after = checkpoint.load(run).gallery, checkpoint.load(copied).gallery
    assert before is not None and after is not None
    assert len(after.learning) == 30 and after.learning == before.learning


def test_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, squares(600)[::-1])
    digest = checkpoint.load(run).digest
    result = CliRunner().invoke(cli.cli, ["prior", str(run), str(other)])
    assert "is not the data that the model was trained on" in str(result.exception)
    assert checkpoint.load(run).digest == digest


def test_training_fits_a_prior_and_resumes(vae: Invoke, data: Path) -> None:
    command = ("train", str(data), "--out", "run", "--prior", "flow", *SMALL, "--epochs", "30")
    output = vae(*command)
    assert output.index("30/30") < output.index(KEPT) < output.index("Calibrated")
    saved = checkpoint.load(Path("run"))
    assert saved.card.prior is not None and saved.vae.config.prior.name == "flow"
    assert f"{saved.card.training.held_out_scores['free_energy']:.2f} nats" in output  # type: ignore[union-attr]
    epochs = table("run/prior.csv")
    assert len(epochs) == saved.card.prior.settings["epochs"]
    best = min(epochs, key=lambda row: float(row["cross_entropy"]))
    assert int(best["epoch"]) == saved.card.prior.epoch
    # A complete run does not change.
    assert KEPT not in vae(*command)
    assert checkpoint.load(Path("run")).digest == saved.digest


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_killed_in_its_prior_ends_like_an_uninterrupted_one(
    epoch: int, vae: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = staticmethod(lambda latent, *_, **__: PriorSettings(flow=FlowPriorConfig(hidden=(16,)), epochs=4))
    monkeypatch.setattr(PriorSettings, "default_for", small)
    command = ("train", str(data), "--prior", "flow", *SMALL, "--epochs", "2", "--out")
    vae(*command, "whole")
    save, seen = Journal.save, 0

    def dying(journal: Journal[Any]) -> None:
        nonlocal seen
        save(journal)
        seen += isinstance(journal.fit, PriorFit)
        if seen == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "save", dying)
        CliRunner().invoke(cli.cli, [*command, "killed"])
    assert len(table("killed/prior.csv")) == epoch
    vae(*command, "killed")
    assert len(table("killed/prior.csv")) == 4
    assert checkpoint.load(Path("killed")).digest == checkpoint.load(Path("whole")).digest


def test_a_prior_can_be_chosen_after_the_networks_are_trained(vae: Invoke, run: Path, data: Path) -> None:
    command = ("train", str(data), "--out", str(run), *SMALL, "--epochs", "30")
    assert KEPT in vae(*command, "--prior", "flow")
    flow = checkpoint.load(run).digest
    (run / "prior.safetensors").write_bytes(b"damaged")
    vae(*command, "--prior", "standard")
    assert checkpoint.load(run).digest == flow


def test_a_damaged_fit_of_a_prior_costs_no_network(vae: Invoke, run: Path, data: Path) -> None:
    (run / "prior.safetensors").write_bytes(b"damaged")
    command = ("train", str(data), "--out", str(run), *SMALL, "--epochs", "30", "--prior", "flow")
    result = CliRunner().invoke(cli.cli, command)
    assert "prior.safetensors, and the prior is fitted again" in str(result.exception)
    (run / "prior.safetensors").unlink()
    assert KEPT in vae(*command)


TUNED, UNTUNED = "Encoder and decoder are fine-tuned", "The networks are kept"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small flows that take few epochs."""

    def small(latent: int, samples: int, *, labels: tuple[Label, ...] = (), **_: Any) -> PriorSettings:
        return PriorSettings(flow=FlowPriorConfig(hidden=(16,), labels=labels, label_hidden=16), epochs=60)

    monkeypatch.setattr(PriorSettings, "default_for", small)


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are kept whether they pay or not."""
    monkeypatch.setattr(gain, "MIN_GAIN_ERRORS", -1e9)


@pytest.mark.usefixtures("accepting", "quick")
def test_training_fine_tunes_under_the_flow(vae: Invoke, data: Path) -> None:
    command = ("train", str(data), "--prior", "flow", *SMALL, "--epochs", "12", "--out")
    output = vae(*command, "run")
    assert output.index(KEPT) < output.index(TUNED) < output.index("Calibrated")
    assert TUNED not in vae(*command, "plain", "--no-fine-tune")
    tuned, plain = (checkpoint.load(Path(name)) for name in ("run", "plain"))
    report, rows = tuned.card.fine_tuning, table("run/tuning.csv")
    assert report is not None and plain.card.fine_tuning is None
    assert len(rows) == report.settings["epochs"] == 2
    assert report.epoch == int(min(rows, key=lambda row: float(row["free_energy"]))["epoch"])
    # The prior is the same, and describes the new latents.
    before, after = plain.vae.state_dict(), tuned.vae.state_dict()
    changed = {name.partition(".")[0] for name, weight in before.items() if (weight != after[name]).any()}
    assert changed - {"head"} == {"encoder", "decoder"}
    assert tuned.card.prior is not None and plain.card.prior is not None
    assert tuned.card.prior.held_out != plain.card.prior.held_out
    assert tuned.card.training is not None and plain.card.training is not None
    assert report.after == tuned.card.training.held_out_scores["free_energy"]
    assert report.before == pytest.approx(plain.card.training.held_out_scores["free_energy"], rel=1e-4)
    assert held_out_scores(plain, data) - held_out_scores(tuned, data) == pytest.approx(
        report.before - report.after, abs=1.0
    )


@pytest.mark.usefixtures("accepting", "quick")
def test_a_training_killed_in_its_fine_tuning_ends_like_an_uninterrupted_one(
    vae: Invoke, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", str(data), "--prior", "flow", *SMALL, "--epochs", "12", "--out")
    vae(*command, "whole")
    save = Journal.save

    def dying(journal: Journal[Any]) -> None:
        save(journal)
        if isinstance(journal.fit, FineTuning):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "save", dying)
        CliRunner().invoke(cli.cli, [*command, "killed"])
    assert len(table("killed/tuning.csv")) == 1
    vae(*command, "killed")
    whole, killed = (checkpoint.load(Path(name)) for name in ("whole", "killed"))
    assert whole.card.fine_tuning is not None
    assert killed.digest == whole.digest


@pytest.mark.usefixtures("quick")
def test_a_fine_tuning_that_does_not_pay_changes_nothing(vae: Invoke, run: Path, data: Path) -> None:
    vae("prior", str(run), str(data), "--threads", "1")
    first = checkpoint.load(run)
    split = Split.from_dataset(open_dataset(str(data)), None, None, 0)
    assert first.card.training is not None
    settings = tuning_settings(TrainingSettings.model_validate(first.card.training.settings))
    fit = FineTuning(first.vae.config, settings.model_copy(update={"epochs": 1, "learning_rate": 1e-12}))
    assert completion.fine_tune(plain_console(), first, split, fit) is None


@pytest.mark.usefixtures("accepting", "quick")
def test_a_model_can_get_a_flow_and_fine_tuning_at_once(vae: Invoke, run: Path, data: Path) -> None:
    output = vae("prior", str(run), str(data), "--fine-tune", "3", "--threads", "1")
    assert output.index(KEPT) < output.index(TUNED) < output.index("Calibrated")
    after = checkpoint.load(run)
    assert after.card.fine_tuning is not None and after.card.fine_tuning.settings["epochs"] == 3
    assert after.calibration is not None


def labelled_table(path: Path, rows: int = 1400) -> None:
    """Two kinds of flowers that differ in all columns."""
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 2, rows)
    values = draw.normal(size=(rows, 4)) + 3.0 * kinds[:, None]
    names = [("rose", "lily")[kind] for kind in kinds]
    lines = [",".join([*(f"{value:.3f}" for value in row), name]) for row, name in zip(values, names, strict=True)]
    path.write_text("\n".join(["a,b,c,d,kind", *lines]))


@pytest.mark.usefixtures("quick")
def test_a_column_of_labels_gives_samples_by_label(vae: Invoke, tmp_path: Path) -> None:
    data = tmp_path / "flowers.csv"
    labelled_table(data)
    vae("train", str(data), "--label", "kind", "--out", "run", "--epochs", "20")
    saved = checkpoint.load(Path("run"))
    assert saved.vae.config.data.columns == ("a", "b", "c", "d")  # type: ignore[union-attr]
    assert [label.name for label in saved.vae.prior.labels] == ["lily", "rose"]
    assert sum(label.probability for label in saved.vae.prior.labels) == pytest.approx(1)
    assert saved.card.prior is not None and saved.card.prior.held_out_given_label is not None
    assert saved.card.prior.held_out_given_label < saved.card.prior.held_out
    epsilon = torch.randn(300, saved.vae.config.latent, generator=torch.Generator().manual_seed(0))
    prior = saved.vae.prior
    lily, rose = (
        saved.vae.decode(prior.to_latent(prior.place(epsilon, np.full(300, label)))).mean.mean() for label in (0, 1)
    )
    assert float(lily) == pytest.approx(3, abs=0.5)
    assert float(rose) == pytest.approx(0, abs=0.5)
    assert saved.gallery is not None and saved.gallery.label_names == ("lily", "rose")
    vae("train", str(data), "--label", "kind", "--labels", "none", "--out", "without", "--epochs", "2")
    assert checkpoint.load(Path("without")).vae.prior.labels == ()
