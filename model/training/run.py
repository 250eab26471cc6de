"""A run: the folder of one training, from which it resumes.

    state.safetensors   weights, average, optimizer, progress; the records of all epochs in its header
    checkpoint/         the best model so far by held-out free energy: what `vae serve RUN` loads
    metrics.csv         one line an epoch
    plots/              pictures, where matplotlib is installed

The state is one file, replaced in one step after the checkpoint: whenever the process dies, the folder holds the last
finished epoch whole, and the epoch after it is trained again to the same end.
"""

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from model import checkpoint, files
from model.errors import CheckpointError, TrainingError
from model.record import EpochRecord
from model.training.config import Recipe
from model.training.loop import Training

METRICS = "metrics.csv"


@dataclass
class Run:
    """One training and its folder."""

    folder: Path
    recipe: Recipe
    training: Training
    records: list[EpochRecord]

    @classmethod
    def open(cls, folder: Path, recipe: Recipe) -> "Run":
        """Start a run in `folder`, or go on with the one that is there.

        Raises:
            TrainingError: the folder holds a run of another recipe, or files that are not a run's.
        """
        run = cls(folder, recipe, Training(recipe.config, recipe.settings), [])
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
                said = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            recipe = Recipe.model_validate_json(said.get("recipe", ""))
            records = [EpochRecord(**record) for record in json.loads(said.get("records", ""))]
            if said.get("sha256") != _digest(state, said):
                raise ValueError("its SHA-256 is not the one in its header")
        except Exception as error:  # damaged bytes can raise whatever their reader does
            raise TrainingError(f"{path}: cannot be resumed from, it is damaged ({error}); use a new --out") from error
        self._same(recipe)
        self.training.restore(state)
        self.records = records
        # Killed between the state and the table, a run lacks the last line of it.
        self._write({METRICS: self._table().encode()})

    def _same(self, recipe: Recipe) -> None:
        old, new = recipe.model_dump(mode="json"), self.recipe.model_dump(mode="json")
        if old != new:
            # A setting is what a user can repeat; what else differs follows from it, or from the data.
            differences = sorted(_differences(old, new), key=lambda said: not said.startswith("settings."))
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise TrainingError(
                f"{self.folder}: holds a run of other data or settings; repeat those to resume it, or give a new "
                f"folder to --out ({'; '.join(differences[:3])}{more})"
            )

    @property
    def best(self) -> EpochRecord | None:
        return min(self.records, key=lambda record: record.free_energy, default=None)

    def add(self, record: EpochRecord, card: checkpoint.Card) -> None:
        """Keep an epoch: the checkpoint where it is the best so far, then the state, then the table.

        Raises:
            CheckpointError: the disk is full or not writable; the folder still holds the epoch before.
        """
        self.records.append(record)
        if self.best == record:
            checkpoint.save(self.folder / "checkpoint", self.training.average, card)
        said = {
            "recipe": self.recipe.model_dump_json(),
            "records": json.dumps([record.model_dump() for record in self.records]),
        }
        state = self.training.state()
        said["sha256"] = _digest(state, said)
        self._write({"state.safetensors": safetensors.torch.save(state, said), METRICS: self._table().encode()})

    def _write(self, changed: dict[str, bytes]) -> None:
        """Replace each file in one step, in this order."""
        for name, data in changed.items():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                files.write_atomic(self.folder / name, data)
            except OSError as error:
                raise CheckpointError(
                    f"{self.folder / name}: cannot be written ({error.strerror}); make room and repeat the command, it "
                    "goes on from the last epoch that was kept"
                ) from error

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(EpochRecord.model_fields))
        writer.writeheader()
        writer.writerows(record.model_dump() for record in self.records)
        return text.getvalue()


def read_records(folder: Path) -> list[EpochRecord]:
    """The records of the run that this checkpoint is in, from its metrics.csv; none where it is in no run.

    Raises:
        TrainingError: it is not one that a run has written.
    """
    path = folder.parent / METRICS
    if "checkpoint" not in folder.name or not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [_record(line) for line in csv.DictReader(file)]
    except (OSError, UnicodeError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: cannot be read as the records of a run ({error}); move it elsewhere, or repeat the run's command"
        ) from error


def _record(line: dict[str, str]) -> EpochRecord:
    return EpochRecord.model_validate({name: line[name] or None for name in EpochRecord.model_fields})


#: What a run may have left in its folder before its first state was written.
OWN = frozenset({"checkpoint", ".checkpoint.fresh", ".checkpoint.previous", ".state.safetensors.fresh"})


def _digest(state: dict[str, Tensor], said: dict[str, str]) -> str:
    """Of all that a run resumes from: every tensor by its name, the recipe, the records."""
    digest = hashlib.sha256((said.get("recipe", "") + said.get("records", "")).encode())
    for name in sorted(state):
        digest.update(f"{name}{state[name].dtype}{tuple(state[name].shape)}".encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()


def _differences(old: object, new: object, key: str = "") -> list[str]:
    """Each key whose value differs, with the kept value and the given one."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(name for name in new if name not in old)]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    return [] if old == new else [f"{key} is {old!r:.60} there and {new!r:.60} here"]
