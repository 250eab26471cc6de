"""Damaged and crafted checkpoint folders."""

from pathlib import Path
from typing import Any

import pytest

from model import checkpoint
from model.checkpoint import CALIBRATION, CARD, CONFIG, GALLERY, SUMS, WEIGHTS, Provenance
from model.errors import VAEError

#: The model whose folder is spoiled.
SAVED = "grey-mlp-discretized"


def reseal(folder: Path, **changed: bytes) -> None:
    """Replace files of a checkpoint and update the checksums."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SUMS}
    places = {"config": CONFIG, "weights": WEIGHTS, "card": CARD, "calibration": CALIBRATION, "gallery": GALLERY}
    files |= {places[key]: data for key, data in changed.items()}
    for name, data in {**files, SUMS: checkpoint.checksums(files)}.items():
        (folder / name).write_bytes(data)


def provenance(**changes: Any) -> Provenance:
    """Provenance with these changes."""
    plain: dict[str, Any] = {
        "dataset": "x.npy",
        "dataset_sha256": "0" * 64,
        "samples": 10,
        "held_out": 1,
        "command": "vae train x.npy",
        "settings": {},
        "epoch": 2,
        "seconds": 1.5,
        "machine": "a machine",
        "versions": {"torch": "2"},
        "held_out_scores": {},
    }
    return Provenance(**plain | changes)


def flipped(data: bytes, place: int) -> bytes:
    """Bytes with the one at this place changed."""
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


def refusal(error: pytest.ExceptionInfo[VAEError]) -> str:
    return str(error.value)
