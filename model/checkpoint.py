"""A trained model as a folder: config.json, model.safetensors, card.json, and SHA256SUMS over them; where scores have
been calibrated, calibration.safetensors too.

Saving writes a whole new folder beside the old one, then renames: whoever loads sees the old model or the new one.
Loading runs no code from the folder; it checks every digest, name and shape, and refuses with the remedy.
`sha256sum -c SHA256SUMS` checks the same by hand.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from model import calibration
from model.calibration import Calibration
from model.complexity import measures
from model.config import Frozen, ModelConfig, explain
from model.errors import CalibrationError, CheckpointError
from model.vae import VAE

CONFIG, WEIGHTS, CARD, SUMS = "config.json", "model.safetensors", "card.json", "SHA256SUMS"
CALIBRATION = "calibration.safetensors"
PRETRAINED = Path(__file__).parent / "pretrained"
T = TypeVar("T", bound=Frozen)


class Provenance(Frozen):
    """Where a model comes from."""

    dataset: str
    dataset_sha256: str
    samples: int
    held_out: int
    command: str
    settings: dict[str, Any]
    epoch: int
    seconds: float
    machine: str
    versions: dict[str, str]
    held_out_scores: dict[str, float | None]


class Card(Frozen):
    """What a model says of itself. `anomaly_score` is the one to tell outliers by, set by rule whatever the data:
    typicality where it is calibrated, else free energy. `evaluation` is the report of `vae evaluate`, None until it has
    run.
    """

    name: str
    created: str
    anomaly_score: Literal["free_energy", "typicality"] = "free_energy"
    training: Provenance | None = None
    evaluation: dict[str, Any] | None = Field(default=None)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. `digest` is the SHA-256 of all that decides its answers: configuration, weights, calibration."""

    vae: VAE
    card: Card
    digest: str
    folder: Path
    calibration: Calibration | None = None


def save(folder: Path, vae: VAE, card: Card) -> None:
    """Write a model to `folder`, replacing what is there in one step; it is not calibrated yet.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; what was there before is untouched.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in vae.state_dict().items()}
    _replace(
        folder,
        {
            CONFIG: _json(vae.config.model_dump(mode="json")),
            WEIGHTS: safetensors.torch.save(weights),
            CARD: _json(card.model_dump(mode="json")),
        },
    )


def save_card(folder: Path, card: Card) -> None:
    """Replace only the card of a saved model.

    Raises:
        CheckpointError: the model is not whole, so that a new seal would hide what is wrong with it; or as `save`.
    """
    _change(folder, {CARD: _json(card.model_dump(mode="json"))})


def save_calibration(folder: Path, made: Calibration) -> None:
    """Give a saved model this calibration in place of the one it has; its card names the score to tell outliers by.

    Raises:
        CheckpointError: it is not one of this model; or as `save_card`.
    """
    found, data = load(folder, calibrated=False), calibration.to_bytes(made)
    _calibration(found.folder / CALIBRATION, data, found.vae.config)
    typical = all(reference.typicality is not None for reference in made.references.values())
    score = "typicality" if typical and made.references else "free_energy"
    card = found.card.model_copy(update={"anomaly_score": score})
    _change(folder, {CALIBRATION: data, CARD: _json(card.model_dump(mode="json"))})


def _change(folder: Path, changed: dict[str, bytes]) -> None:
    folder = load(folder, calibrated=False).folder
    _replace(folder, {**_files(folder)[0], **changed})


def load(folder: Path, device: str = "cpu", *, calibrated: bool = True) -> Checkpoint:
    """Read a model, check it, and make it ready for inference.

    Args:
        folder: a checkpoint, or a run of `vae train` that holds one.
        calibrated: whether to read its calibration, if it has one.

    Raises:
        CalibrationError: the calibration is not one of this version and this model; all else is well.
        CheckpointError: a file is missing or altered, a name or shape is not the configuration's, a weight not finite.
    """
    folder = find(folder)
    files, sums = _files(folder)
    if sums != _sums(files):
        altered = [name for name, data in files.items() if _sum_line(name, data) not in sums]
        raise CheckpointError(
            f"{folder}: {', '.join(altered) or SUMS} was altered or damaged since it was saved (its SHA-256 is not the "
            f"one in {SUMS}); copy the folder again, or train again"
        )
    config = _parse(ModelConfig, folder / CONFIG, files[CONFIG])
    card = _parse(Card, folder / CARD, files[CARD])
    vae = _build(config, folder / WEIGHTS, files[WEIGHTS])
    known = calibrated and CALIBRATION in files
    found = _calibration(folder / CALIBRATION, files[CALIBRATION], config) if known else None
    decisive = {name: data for name, data in files.items() if name != CARD}
    digest = hashlib.sha256(_sums(decisive)).hexdigest()
    return Checkpoint(vae.to(device), card, digest, folder, found)


def find(folder: Path) -> Path:
    """The checkpoint meant by a path: itself, that of a run, or the name of a shipped model."""
    for place in (folder.absolute(), folder.absolute() / "checkpoint", PRETRAINED / folder):
        # A save that was cut off between its two renames leaves the old model under its second name.
        for found in (place, _previous(place)):
            if (found / CONFIG).is_file():
                return found
    shipped = ", ".join(sorted(path.name for path in PRETRAINED.iterdir())) if PRETRAINED.exists() else ""
    raise CheckpointError(
        f"{folder}: no model is there (no {CONFIG}); give the folder of a run or checkpoint, "
        f"or a shipped model: {shipped}"
    )


def _files(folder: Path) -> tuple[dict[str, bytes], bytes]:
    """The files of a checkpoint, and their seal, which says whether there is a calibration among them."""
    sums = _read(folder / SUMS)
    names = (CONFIG, WEIGHTS, CARD, *([CALIBRATION] if f"  {CALIBRATION}\n".encode() in sums else []))
    return {name: _read(folder / name) for name in names}, sums


def _calibration(path: Path, data: bytes, config: ModelConfig) -> Calibration:
    try:
        return calibration.from_bytes(data, config.latent, measures(config.data))
    except Exception as error:  # as of weights
        raise CalibrationError(
            f"{path}: not a calibration of this model: {error}; make a new one with vae calibrate"
        ) from error


def _build(config: ModelConfig, path: Path, data: bytes) -> VAE:
    try:
        weights = safetensors.torch.load(data)
    except Exception as error:  # a KeyError where the header names a type that torch has not
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    # Compared without memory first: a configuration of absurd sizes must not allocate them.
    with torch.device("meta"):
        expected = VAE(config).state_dict()
    _same_names(path, expected, weights)
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype} of {tuple(tensor.shape)}, but {CONFIG} asks for "
                f"{expected[name].dtype} of {tuple(expected[name].shape)}; the two files are not of one model"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train again")
    # Building draws weights that are about to be replaced; the caller's random numbers are none of its business.
    with torch.random.fork_rng(devices=[]):
        vae = VAE(config)
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False)


def _same_names(path: Path, expected: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or extra:
        said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
        raise CheckpointError(f"{path}: {' and '.join(said)}; it is not the model that {CONFIG} describes")


def _parse(kind: type[T], path: Path, data: bytes) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(error)}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); the folder is not complete") from error


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _sum_line(name: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def _sums(files: dict[str, bytes]) -> bytes:
    return b"".join(_sum_line(name, data) for name, data in sorted(files.items()))


def _previous(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.previous"


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    folder = folder.absolute()
    fresh, previous = folder.with_name(f".{folder.name}.fresh"), _previous(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name, data in {**files, SUMS: _sums(files)}.items():
            write_synced(fresh / name, data)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        fresh.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: cannot be saved ({error.strerror}); what was there before is untouched"
        ) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk, so that a later rename never precedes its contents."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
