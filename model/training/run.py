"""A run: the folder of one training, from which the training resumes.

    state.safetensors   weights, average, optimizer, progress; the records of all epochs in its header
    checkpoint/         the best model so far by validation free energy: what `vae serve RUN` loads
    metrics.csv         one row per epoch
    plots/              plots, if matplotlib is installed

The state is one file, replaced atomically after the checkpoint. If the process dies at any moment, the folder holds the
last finished epoch, and training resumes from there with an identical outcome.
"""

import csv
import hashlib
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from model import checkpoint, files
from model.errors import CheckpointError, TrainingError
from model.record import EpochRecord
from model.training.config import TrainingConfig
from model.training.loop import Training

METRICS = "metrics.csv"
#: Names that a killed run can leave in its folder before it writes its first state.
OWN = frozenset({"checkpoint", ".checkpoint.fresh", ".checkpoint.previous", ".state.safetensors.fresh"})


@dataclass
class Run:
    """One training and its folder."""

    folder: Path
    config: TrainingConfig
    training: Training
    records: list[EpochRecord]

    @classmethod
    def open(cls, folder: Path, config: TrainingConfig) -> "Run":
        """Start a run in `folder`, or resume the one in it.

        Raises:
            TrainingError: the folder holds a run of another configuration, a damaged one, or files that are not a
                run's; or it cannot be made.
        """
        run = cls(folder, config, Training(config.config, config.settings), [])
        path = folder / "state.safetensors"
        if path.exists():
            run._resume(path)
        elif folder.exists() and not folder.is_dir():
            raise TrainingError(f"{folder}: is a file; give a folder to --out")
        elif folder.exists() and any(child.name not in OWN for child in folder.iterdir()):
            raise TrainingError(f"{folder}: is not empty and not a run; give a new folder to --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be made ({error.strerror}); give another folder to --out") from error
        return run

    def _resume(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            config = TrainingConfig.model_validate_json(metadata.get("recipe", ""))
            records = [EpochRecord(**record) for record in json.loads(metadata.get("records", ""))]
            if metadata.get("sha256") != _digest(state, metadata):
                raise ValueError("its SHA-256 is not the one in its header")
        except Exception as error:  # damaged bytes can raise any error of their reader
            raise TrainingError(f"{path}: is damaged and cannot be resumed from ({error}); use a new --out") from error
        # A user repeats settings; other differences follow from them or from the data.
        changes = sorted(
            _differences(config.model_dump(mode="json"), self.config.model_dump(mode="json")),
            key=lambda change: not change.startswith("settings."),
        )
        if changes:
            more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise TrainingError(
                f"{self.folder}: holds a run of other data or settings; repeat those to resume it, or give a new "
                f"folder to --out ({'; '.join(changes[:3])}{more})"
            )
        self.training.restore(state)
        self.records = records
        # A run that was killed between state and table lacks the last row of the table.
        self._write({METRICS: self._table()})

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
        metadata = {
            "recipe": self.config.model_dump_json(),
            "records": json.dumps([record.model_dump() for record in self.records]),
        }
        state = self.training.state()
        metadata["sha256"] = _digest(state, metadata)
        self._write({"state.safetensors": safetensors.torch.save(state, metadata), METRICS: self._table()})

    def _write(self, contents: dict[str, bytes]) -> None:
        """Write each file atomically, in this order."""
        for name, data in contents.items():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                files.write_atomic(self.folder / name, data)
            except OSError as error:
                raise CheckpointError(
                    f"{self.folder / name}: cannot be written ({error.strerror}); make room and run the command again, "
                    "it resumes from the last saved epoch"
                ) from error

    def _table(self) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(EpochRecord.model_fields))
        writer.writeheader()
        writer.writerows(record.model_dump() for record in self.records)
        return text.getvalue().encode()


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


def _digest(state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of everything that a run resumes from: each tensor with its name, the configuration and the records."""
    digest = hashlib.sha256((metadata.get("recipe", "") + metadata.get("records", "")).encode())
    for name in sorted(state):
        digest.update(f"{name}{state[name].dtype}{tuple(state[name].shape)}".encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()


def _differences(old: object, new: object, key: str = "") -> list[str]:
    """Each key whose value differs, with the saved value and the new one.

    >>> _differences({"seed": 0, "epochs": 5}, {"seed": 3, "epochs": 5})
    ['seed is 0 there and 3 here']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        changes = (_differences(old.get(k), new.get(k), f"{key}.{k}" if key else k) for k in {**old, **new})
        return list(itertools.chain.from_iterable(changes))
    return [] if old == new else [f"{key} is {old!r:.60} there and {new!r:.60} here"]
