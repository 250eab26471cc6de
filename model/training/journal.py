"""The state of one fit as a file, from which it resumes, and the records of its epochs as a table.

The state is one file, replaced atomically: weights, average, optimizer and progress, with the settings and the records
of all epochs in its header. Whenever the process dies, the folder holds the last finished epoch, and the fit resumes
from there with an identical outcome.
"""

import csv
import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from model import files
from model.config import Frozen
from model.errors import CheckpointError, TrainingError
from model.training.fit import Fit

Epoch = TypeVar("Epoch", bound=Frozen)


class Journal(Generic[Epoch]):
    """One fit and its two files in the folder of a run: `<name>.safetensors` and a table.

    Args:
        recipe: everything that decides the outcome of the fit. It resumes only under an equal one.
        epoch: the type of its records.
        remedy: advice to the user in the error about a state that cannot be resumed from.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        table: str,
        *,
        fit: Fit[Any, Epoch],
        recipe: Frozen,
        epoch: type[Epoch],
        remedy: str,
    ) -> None:
        self.path, self.table = folder / f"{name}.safetensors", folder / table
        self.fit, self.recipe, self.epoch = fit, recipe, epoch
        self.remedy = remedy
        self.records: list[Epoch] = []

    def resume(self) -> None:
        """Continue from the state file, if there is one.

        Raises:
            TrainingError: it is damaged, or of a fit of other data or settings.
        """
        if not self.path.exists():
            return
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            recipe = type(self.recipe).model_validate_json(metadata.get("recipe", ""))
            records = [self.epoch(**record) for record in json.loads(metadata.get("records", ""))]
            if metadata.get("sha256") != _digest(state, metadata):
                raise ValueError("its SHA-256 is not the one in its header")
        except Exception as error:  # damaged bytes can raise any error of their reader
            raise TrainingError(
                f"{self.path}: is damaged and cannot be resumed from ({error}); {self.remedy}"
            ) from error
        # A user repeats settings; other differences follow from them or from the data.
        changes = sorted(
            _differences(recipe.model_dump(mode="json"), self.recipe.model_dump(mode="json")),
            key=lambda change: not change.startswith("settings."),
        )
        if changes:
            more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise TrainingError(
                f"{self.path.parent}: holds a run of other data or settings; repeat those to resume it, or "
                f"{self.remedy} ({'; '.join(changes[:3])}{more})"
            )
        self.fit.restore(state)
        self.records = records
        # A run that was killed between state and table lacks the last row of the table.
        self._write(self.table, self._rows())

    def add(self, record: Epoch) -> None:
        """Add the record of an epoch, and save. Raise as `save` does."""
        self.records.append(record)
        self.save()

    def save(self) -> None:
        """Write the state and the table.

        Raises:
            CheckpointError: the disk is full or not writable; the folder still holds the previous epoch.
        """
        metadata = {
            "recipe": self.recipe.model_dump_json(),
            "records": json.dumps([record.model_dump() for record in self.records]),
        }
        state = self.fit.state()
        metadata["sha256"] = _digest(state, metadata)
        self._write(self.path, safetensors.torch.save(state, metadata))
        self._write(self.table, self._rows())

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(path, data)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be written ({error.strerror}); make room and run the command again, it resumes from "
                "the last saved epoch"
            ) from error

    def _rows(self) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.epoch.model_fields))
        writer.writeheader()
        writer.writerows(record.model_dump() for record in self.records)
        return text.getvalue().encode()


def _digest(state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of everything that a fit resumes from: each tensor with its name, the recipe and the records."""
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
