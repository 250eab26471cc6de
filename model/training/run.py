"""A run: the folder of one training, from which the training resumes.

    state.safetensors   the training of the networks: weights, average, optimizer, progress, records
    metrics.csv         its epochs, a row each
    prior.safetensors   the fit of the prior that follows, likewise
    prior.csv           its epochs, a row each
    tuning.safetensors  the fine-tuning under that prior, likewise
    tuning.csv          its epochs, a row each
    checkpoint/         the best model so far by validation free energy: what `vae serve RUN` loads
    plots/              plots, if matplotlib is installed

A state is written after the checkpoint that belongs to it. If the process dies at any moment, the folder holds the last
finished epoch, and training resumes from there with an identical outcome.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import safetensors

from model import checkpoint
from model.config import Frozen, ModelConfig
from model.errors import TrainingError
from model.record import EpochRecord, PriorRecord
from model.training.config import TrainingConfig
from model.training.journal import Journal
from model.training.loop import Training, TrainingSettings
from model.training.prior import PriorFit, PriorSettings
from model.training.tuning import FineTuning, tuning_settings

METRICS, PRIOR_METRICS, TUNING_METRICS = "metrics.csv", "prior.csv", "tuning.csv"
#: Names that a killed run can leave in its folder before it writes its first state.
OWN = frozenset({"checkpoint", ".checkpoint.fresh", ".checkpoint.previous", ".state.safetensors.fresh"})


@dataclass
class Run:
    """One training and its folder."""

    folder: Path
    config: TrainingConfig
    training: Training
    journal: Journal[EpochRecord]

    @classmethod
    def open(cls, folder: Path, config: TrainingConfig) -> "Run":
        """Start a run in `folder`, or resume the one in it.

        Raises:
            TrainingError: the folder holds a run of another configuration, a damaged one, or files that are not a
                run's; or it cannot be made.
        """
        training = Training(config.config, config.settings)
        journal = Journal(
            folder, "state", METRICS, fit=training, recipe=config, epoch=EpochRecord, remedy="use a new --out"
        )
        if not journal.path.exists():
            if folder.exists() and not folder.is_dir():
                raise TrainingError(f"{folder}: is a file; give a folder to --out")
            if folder.exists() and any(child.name not in OWN for child in folder.iterdir()):
                raise TrainingError(f"{folder}: is not empty and not a run; give a new folder to --out")
        journal.resume()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be made ({error.strerror}); give another folder to --out") from error
        return cls(folder, config, training, journal)

    @property
    def records(self) -> list[EpochRecord]:
        """The records of all epochs."""
        return self.journal.records

    @property
    def best(self) -> EpochRecord | None:
        """The record of the epoch with the lowest validation free energy."""
        return min(self.records, key=lambda record: record.free_energy, default=None)

    def add(self, record: EpochRecord, card: checkpoint.Card) -> None:
        """Save an epoch: the checkpoint if it is the best so far, then the state, then the table.

        Raises:
            CheckpointError: the disk is full or not writable; the folder still holds the previous epoch.
        """
        self.records.append(record)
        if self.best == record:
            checkpoint.save(self.folder / "checkpoint", self.training.average, card)
        self.journal.save()

    def open_prior(self, settings: PriorSettings) -> Journal[PriorRecord]:
        """Start the fit of a prior to the best model, or resume it. Raise `TrainingError` as `open` does."""
        path = self.folder / "prior.safetensors"
        journal = Journal(
            self.folder,
            path.stem,
            PRIOR_METRICS,
            fit=PriorFit(self.config.config.latent, settings),
            recipe=PriorRecipe(training=self.config, settings=settings),
            epoch=PriorRecord,
            remedy=f"delete {path}, and the prior is fitted again",
        )
        journal.resume()
        return journal

    def open_tuning(self, config: ModelConfig, prior: PriorSettings) -> Journal[EpochRecord]:
        """Start the fine-tuning under a prior that is fitted, or resume it. Raise `TrainingError` as `open` does."""
        path, settings = self.folder / "tuning.safetensors", tuning_settings(self.config.settings)
        journal = Journal(
            self.folder,
            path.stem,
            TUNING_METRICS,
            fit=FineTuning(config, settings),
            recipe=TuningRecipe(training=self.config, prior=prior, settings=settings),
            epoch=EpochRecord,
            remedy=f"delete {path}, and the model is fine-tuned again",
        )
        journal.resume()
        return journal


def read_recipe(folder: Path) -> TrainingConfig | None:
    """Read what decides the outcome of the training in a folder; None if there is none, or it cannot be read.

    `Run.open` says what is wrong with one that cannot be read.
    """
    try:
        with safetensors.safe_open(folder / "state.safetensors", framework="pt") as file:
            return TrainingConfig.model_validate_json((file.metadata() or {}).get("recipe", ""))
    except Exception:
        return None


class TuningRecipe(Frozen):
    """Everything that decides the outcome of the fine-tuning in a run."""

    training: TrainingConfig
    prior: PriorSettings
    settings: TrainingSettings


class PriorRecipe(Frozen):
    """Everything that decides the outcome of the fit of a prior in a run."""

    training: TrainingConfig
    settings: PriorSettings


def read_records(folder: Path) -> list[EpochRecord]:
    """Read metrics.csv of the run that a checkpoint is in; an empty list if it is in no run.

    Raises:
        TrainingError: the file was not written by a run.
    """
    path = folder.parent / METRICS
    if "checkpoint" not in folder.name or not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [
                EpochRecord.model_validate({name: row[name] or None for name in EpochRecord.model_fields})
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: cannot be read as the records of a run ({error}); move it elsewhere, or run the command of the "
            "run again"
        ) from error
