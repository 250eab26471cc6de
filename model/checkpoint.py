"""A trained model as a folder: config.json, model.safetensors, card.json, and SHA256SUMS over them; where scores have
been calibrated, calibration.safetensors too, and where there is something to look at, gallery.safetensors.

Saving writes a whole new folder beside the old one, then renames: whoever loads sees the old model or the new one.
Loading runs no code from the folder; it checks every digest, name and shape, and refuses with the remedy. No file may
be a link out of it; what else lies there is not looked at.
`sha256sum -c SHA256SUMS` checks the same by hand.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from model import files, gallery
from model.config import Frozen, ModelConfig, explain
from model.errors import CalibrationError, CheckpointError
from model.gallery import Gallery, OnDisk
from model.scoring import calibration
from model.scoring.calibration import Calibration
from model.scoring.complexity import measures
from model.scoring.typicality import LATENT_COMPONENTS
from model.vae import VAE

CONFIG, WEIGHTS, CARD, SUMS = "config.json", "model.safetensors", "card.json", "SHA256SUMS"
CALIBRATION, GALLERY = "calibration.safetensors", "gallery.safetensors"
OPTIONAL = (CALIBRATION, GALLERY)
PRETRAINED = Path(__file__).parent / "pretrained"
#: Bytes of a file that are read without asking whether a model like this can have so many.
UNASKED = 1 << 28
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
    gallery: OnDisk | None = None


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
    found, data = load(folder, calibrated=False, shown=False), calibration.to_bytes(made)
    _calibration(found.folder / CALIBRATION, data, found.vae.config)
    typical = all(reference.typicality is not None for reference in made.references.values())
    score = "typicality" if typical and made.references else "free_energy"
    card = found.card.model_copy(update={"anomaly_score": score})
    _change(folder, {CALIBRATION: data, CARD: _json(card.model_dump(mode="json"))})


def save_gallery(folder: Path, made: Gallery | None) -> None:
    """Give a saved model this gallery in place of the one it has, or none; its digest stays.

    Raises:
        CheckpointError: it is not one of this model; or as `save_card`.
    """
    found = load(folder, calibrated=False, shown=False)
    data = None if made is None else gallery.to_bytes(made)
    if data is not None:
        with _of_this_model(found.folder / GALLERY):
            gallery.from_bytes(data, found.vae.config)
    _change(folder, {GALLERY: data})


def _change(folder: Path, changed: dict[str, bytes | None]) -> None:
    folder = load(folder, calibrated=False, shown=False).folder
    held = {**_held(folder)[0], **changed}
    _replace(folder, {name: data for name, data in held.items() if data is not None})


def load(folder: Path, device: str = "cpu", *, calibrated: bool = True, shown: bool = True) -> Checkpoint:
    """Read a model, check it, and make it ready for inference.

    Args:
        folder: a checkpoint, or a run of `vae train` that holds one.
        calibrated, shown: whether to read its calibration and its gallery, if it has them.

    Raises:
        CalibrationError: the calibration is not one of this version and this model; all else is well.
        CheckpointError: a file is missing or altered, a name or shape is not the configuration's, a weight not finite.
    """
    folder = find(folder)
    held, sums = _held(folder)
    if sums != _sums(held):
        altered = [name for name, data in held.items() if _sum_line(name, data) not in sums]
        raise CheckpointError(
            f"{folder}: {', '.join(altered) or SUMS} was altered or damaged since it was saved (its SHA-256 is not the "
            f"one in {SUMS}); copy the folder again, or train again"
        )
    config = _parse(ModelConfig, folder / CONFIG, held[CONFIG])
    card = _parse(Card, folder / CARD, held[CARD])
    vae = _build(config, folder / WEIGHTS, held[WEIGHTS])
    known = calibrated and CALIBRATION in held
    found = _calibration(folder / CALIBRATION, held[CALIBRATION], config) if known else None
    seen = _gallery(folder / GALLERY, held[GALLERY], config) if shown and GALLERY in held else None
    decisive = {name: data for name, data in held.items() if name not in {CARD, GALLERY}}
    digest = hashlib.sha256(_sums(decisive)).hexdigest()
    return Checkpoint(vae.to(device), card, digest, folder, found, seen)


def find(folder: Path) -> Path:
    """The checkpoint meant by a path: itself, that of a run, or the name of a shipped model."""
    for place in (folder.absolute(), folder.absolute() / "checkpoint", PRETRAINED / folder):
        # A save that was cut off between its two renames leaves the old model under its second name.
        for found in (place, _previous(place)):
            if _is_model(found):
                return found
    shipped = ", ".join(sorted(path.name for path in PRETRAINED.iterdir())) if PRETRAINED.exists() else ""
    raise CheckpointError(
        f"{folder}: no model is there (no {CONFIG}); give the folder of a run or checkpoint, "
        f"or a shipped model: {shipped}"
    )


def _is_model(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be looked into ({error.strerror}); let this user read it, or give another folder"
        ) from error


def _held(folder: Path) -> tuple[dict[str, bytes], bytes]:
    """The files of a checkpoint, and their seal, which says whether a calibration and a gallery are among them."""
    sums = _read(folder / SUMS)
    names = (WEIGHTS, CARD, *(name for name in OPTIONAL if f"  {name}\n".encode() in sums))
    _all_sealed(folder, set(names))
    config = _read(folder / CONFIG)
    return {CONFIG: config, **{name: _read(folder / name, config) for name in names}}, sums


def _all_sealed(folder: Path, sealed: set[str]) -> None:
    """Nothing that would belong to the model may be there without its seal."""
    try:
        others = {path.name for path in folder.iterdir()} & set(OPTIONAL) - sealed
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({error.strerror}); let this user read it") from error
    if others:
        raise CheckpointError(
            f"{folder}: holds {', '.join(sorted(others))}, which {SUMS} does not name; move it elsewhere, or copy the "
            "folder again"
        )


def _calibration(path: Path, data: bytes, config: ModelConfig) -> Calibration:
    try:
        return calibration.from_bytes(data, config.latent, measures(config.data))
    except Exception as error:  # as of weights
        raise CalibrationError(
            f"{path}: not a calibration of this model: {error}; make a new one with vae calibrate"
        ) from error


def _gallery(path: Path, data: bytes, config: ModelConfig) -> OnDisk:
    with _of_this_model(path):
        return OnDisk(path, data, config)


@contextmanager
def _of_this_model(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as of weights
        said = explain(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"{path}: not a gallery of this model: {said}; make a new one with vae gallery"
        ) from error


def _build(config: ModelConfig, path: Path, data: bytes) -> VAE:
    try:
        weights = safetensors.torch.load(data)
    except Exception as error:  # a KeyError where the header names a type that torch has not
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    expected = _shapes(config)
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


def _shapes(config: ModelConfig) -> dict[str, Tensor]:
    """The weights that a configuration asks for, without memory: one of absurd sizes must not allocate them."""
    with torch.device("meta"):
        return VAE(config).state_dict()


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


def _read(path: Path, config: bytes | None = None) -> bytes:
    """A file, unless it is larger than it can be; of more than `UNASKED` bytes the configuration says whether it is."""
    try:
        least, most = 0, UNASKED
        if config is not None and path.stat().st_size > UNASKED:
            least, most = _sizes(path.name, _parse(ModelConfig, path.parent / CONFIG, config))
        return files.read(path, least, most)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); copy the whole folder again, or let this user read it"
        ) from error


def _sizes(name: str, config: ModelConfig) -> tuple[int, int]:
    """The least and the most bytes that a file of this model can have; small ones are read whatever they are."""
    if name == WEIGHTS:
        least = sum(tensor.numel() * tensor.element_size() for tensor in _shapes(config).values())
        return least, least + UNASKED
    return 0, UNASKED + (4 * LATENT_COMPONENTS * config.latent**2 if name == CALIBRATION else 0)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _sum_line(name: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def _sums(files: dict[str, bytes]) -> bytes:
    return b"".join(_sum_line(name, data) for name, data in sorted(files.items()))


def _previous(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.previous"


def _replace(folder: Path, held: dict[str, bytes]) -> None:
    folder = folder.absolute()
    fresh, previous = folder.with_name(f".{folder.name}.fresh"), _previous(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name, data in {**held, SUMS: _sums(held)}.items():
            files.write_synced(fresh / name, data)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        fresh.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            if not folder.exists():
                previous.rename(folder)
        raise CheckpointError(
            f"{folder}: cannot be saved ({error.strerror}); what was there before is untouched: make room, or choose "
            "another place, and repeat the command"
        ) from error
