"""A trained model as a folder.

    config.json               the configuration, which decides every shape
    model.safetensors         the weights
    card.json                 name, provenance, held-out report
    calibration.safetensors   optional: reference scores for p-values
    gallery.safetensors       optional: held-out inputs to look at
    SHA256SUMS                checksums of all of these; `sha256sum -c SHA256SUMS` checks them by hand

Saving writes a new folder beside the old one and renames it. Loading runs no code from the folder; it checks every
digest, name and shape, refuses links out of the folder, and ignores other files.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from model import files, gallery
from model.config import Frozen, ModelConfig
from model.errors import CalibrationError, CheckpointError, explain
from model.gallery import Gallery
from model.scoring import calibration
from model.scoring.calibration import Calibration
from model.scoring.complexity import measures
from model.scoring.typicality import LATENT_COMPONENTS
from model.vae import VAE

CONFIG, WEIGHTS, CARD, SUMS = "config.json", "model.safetensors", "card.json", "SHA256SUMS"
CALIBRATION, GALLERY = "calibration.safetensors", "gallery.safetensors"
OPTIONAL = (CALIBRATION, GALLERY)
PRETRAINED = Path(__file__).parent / "pretrained"
#: Largest size in bytes of a file that is read without comparing its size with the configuration.
MAX_UNCHECKED_BYTES = 1 << 28
T = TypeVar("T", bound=Frozen)


class Provenance(Frozen):
    """Origin of a model: its data, command, settings and software."""

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


class FitReport(Frozen):
    """Origin of what was fitted to a trained model."""

    dataset: str
    dataset_sha256: str
    command: str
    settings: dict[str, Any]
    epoch: int
    seconds: float


class PriorReport(FitReport):
    """How the prior was fitted. Cross-entropies are means of nlog P(z) at one draw of Q each, in nats.

    `held_out` and `fitted` are those under the flow, of held-out samples and of those that fitted it; `standard` is
    that of the held-out samples under N(0, I). `held_out_given_label` is the mean of nlog P(z|label), if it has labels.
    """

    held_out: float
    fitted: float
    standard: float
    held_out_given_label: float | None = None


class FineTuningReport(FitReport):
    """How encoder and decoder were fine-tuned under the fitted prior.

    `before` and `after` are mean free energies of the held-out samples at one draw of Q each, in nats.
    """

    before: float
    after: float


class Card(Frozen):
    """Description of a model. `evaluation` is the report of `vae evaluate`, None until that has run."""

    name: str
    created: str
    #: The score to detect outliers by: typicality if it is calibrated.
    anomaly_score: Literal["free_energy", "typicality"] = "free_energy"
    training: Provenance | None = None
    prior: PriorReport | None = None
    fine_tuning: FineTuningReport | None = None
    evaluation: dict[str, Any] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model. `digest` is the SHA-256 of what decides its results: configuration, weights, calibration."""

    vae: VAE
    card: Card
    digest: str
    folder: Path
    calibration: Calibration | None = None
    gallery: Gallery | None = None


def save(
    folder: Path, vae: VAE, card: Card, *, calibrated: Calibration | None = None, shown: Gallery | None = None
) -> None:
    """Write a model to `folder`, replacing the old one in one step, with its calibration and gallery if it has any.

    If it cannot be written, raise `CheckpointError` and leave the old model untouched.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in vae.state_dict().items()}
    contents = {CONFIG: _json(vae.config), WEIGHTS: safetensors.torch.save(weights)}
    if calibrated is not None:
        contents[CALIBRATION] = calibration.to_bytes(calibrated)
    if shown is not None:
        contents[GALLERY] = gallery.to_bytes(shown)
    card = card.model_copy(update={"anomaly_score": _anomaly_score(calibrated)})
    _replace(folder, {**contents, CARD: _json(card)})


def save_card(folder: Path, card: Card) -> None:
    """Replace the card of a saved model. Raise `CheckpointError` if the model is damaged, or as `save`."""
    _update(folder, {CARD: _json(card)})


def save_calibration(folder: Path, new: Calibration) -> None:
    """Replace the calibration of a saved model, and set `anomaly_score` of its card.

    Raise `CheckpointError` if the calibration does not fit the model, or as `save_card`.
    """
    checkpoint, data = load(folder, calibrated=False, shown=False), calibration.to_bytes(new)
    _parse_calibration(checkpoint.folder / CALIBRATION, data, checkpoint.vae.config)
    card = checkpoint.card.model_copy(update={"anomaly_score": _anomaly_score(new)})
    _update(folder, {CALIBRATION: data, CARD: _json(card)})


def _anomaly_score(calibrated: Calibration | None) -> str:
    references = calibrated.references.values() if calibrated else ()
    typical = bool(references) and all(reference.typicality is not None for reference in references)
    return "typicality" if typical else "free_energy"


def save_gallery(folder: Path, new: Gallery | None) -> None:
    """Replace the gallery of a saved model, or remove it if None. The digest of the model stays.

    Raise `CheckpointError` if the gallery does not fit the model, or as `save_card`.
    """
    checkpoint = load(folder, calibrated=False, shown=False)
    data = None if new is None else gallery.to_bytes(new)
    if data is not None:
        parse_gallery(checkpoint.folder / GALLERY, data, checkpoint.vae.config)
    _update(folder, {GALLERY: data})


def _update(folder: Path, changes: dict[str, bytes | None]) -> None:
    folder = load(folder, calibrated=False, shown=False).folder
    contents = {**_read_files(folder)[0], **changes}
    _replace(folder, {name: data for name, data in contents.items() if data is not None})


def load(folder: Path, device: str = "cpu", *, calibrated: bool = True, shown: bool = True) -> Checkpoint:
    """Read a model, check it, and prepare it for inference.

    `calibrated` and `shown` say if to read the calibration and the gallery, where the model has them.

    Raises:
        CalibrationError: the calibration is not one of this version and this model; the model itself is sound.
        CheckpointError: a file is missing or altered, a name or shape contradicts the configuration, or a weight is
            not finite.
    """
    folder = find(folder)
    contents, sums = _read_files(folder)
    if sums != checksums(contents):
        altered = [name for name, data in contents.items() if _checksum_line(name, data) not in sums]
        raise CheckpointError(
            f"{folder}: {', '.join(altered) or SUMS} was altered or damaged after it was saved (its SHA-256 is not the "
            f"one in {SUMS}); copy the folder again, or train again"
        )
    config = _parse(ModelConfig, folder / CONFIG, contents[CONFIG])
    card = _parse(Card, folder / CARD, contents[CARD])
    vae = _build(config, folder / WEIGHTS, contents[WEIGHTS])
    calibrated, shown = calibrated and CALIBRATION in contents, shown and GALLERY in contents
    decisive = {name: data for name, data in contents.items() if name not in {CARD, GALLERY}}
    return Checkpoint(
        vae.to(device),
        card,
        digest=hashlib.sha256(checksums(decisive)).hexdigest(),
        folder=folder,
        calibration=_parse_calibration(folder / CALIBRATION, contents[CALIBRATION], config) if calibrated else None,
        gallery=parse_gallery(folder / GALLERY, contents[GALLERY], config) if shown else None,
    )


def find(folder: Path) -> Path:
    """Resolve a path to a checkpoint: the folder itself, that in a run, or a shipped model; else `CheckpointError`."""
    candidates = (folder.absolute(), folder.absolute() / "checkpoint", PRETRAINED / folder)
    # A save that was interrupted between its two renames leaves the old model under its second name.
    for path in (name for candidate in candidates for name in (candidate, files.previous_path(candidate))):
        try:
            if (path / CONFIG).is_file():
                return path
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be looked into ({error.strerror}); let this user read it, or give another folder"
            ) from error
    shipped = ", ".join(sorted(path.name for path in PRETRAINED.iterdir())) if PRETRAINED.exists() else ""
    raise CheckpointError(
        f"{folder}: no model is there (no {CONFIG}); give the folder of a run or checkpoint, "
        f"or a shipped model: {shipped}"
    )


def _read_files(folder: Path) -> tuple[dict[str, bytes], bytes]:
    """Read the files of a checkpoint by name, and SHA256SUMS, which decides whether optional files belong to it."""
    sums = _read(folder / SUMS).replace(b"\r\n", b"\n")  # editors and Git on Windows change its line ends
    names = (WEIGHTS, CARD, *(name for name in OPTIONAL if f"  {name}\n".encode() in sums))
    try:
        others = {path.name for path in folder.iterdir()} & set(OPTIONAL) - set(names)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed ({error.strerror}); let this user read it") from error
    if others:
        raise CheckpointError(
            f"{folder}: holds {', '.join(sorted(others))}, which {SUMS} does not name; move it elsewhere, or copy the "
            "folder again"
        )
    config = _read(folder / CONFIG)
    return {CONFIG: config, **{name: _read(folder / name, config) for name in names}}, sums


def _parse_calibration(path: Path, data: bytes, config: ModelConfig) -> Calibration:
    try:
        return calibration.from_bytes(data, config.latent, measures(config.data), flow=config.prior.name == "flow")
    except Exception as error:  # damaged bytes raise whatever their reader does
        raise CalibrationError(
            f"{path}: not a calibration of this model: {error}; make a new one with vae calibrate"
        ) from error


def parse_gallery(path: Path, data: bytes, config: ModelConfig) -> Gallery:
    try:
        return gallery.from_bytes(data, config)
    except Exception as error:  # damaged bytes raise whatever their reader does
        reason = explain(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"{path}: not a gallery of this model: {reason}; make a new one with vae gallery"
        ) from error


def _build(config: ModelConfig, path: Path, data: bytes) -> VAE:
    try:
        weights = safetensors.torch.load(data)
    except Exception as error:  # a KeyError if the header names a type that torch does not have
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    expected = _shapes(config)
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or extra:
        problems = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
        raise CheckpointError(f"{path}: {' and '.join(problems)}; it is not the model that {CONFIG} describes")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype} of {tuple(tensor.shape)}, but {CONFIG} asks for "
                f"{expected[name].dtype} of {tuple(expected[name].shape)}; the two files are not of one model"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train again")
    # Building draws initial weights; fork the global generator, so that the caller's random numbers do not change.
    with torch.random.fork_rng(devices=[]):
        vae = VAE(config)
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False)


def _shapes(config: ModelConfig) -> dict[str, Tensor]:
    """Names, shapes and types of the weights of a configuration, without allocating memory for absurd sizes."""
    with torch.device("meta"):
        return VAE(config).state_dict()


def _parse(kind: type[T], path: Path, data: bytes) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(error)}") from error


def _read(path: Path, config: bytes | None = None) -> bytes:
    """Read a file. A size above `MAX_UNCHECKED_BYTES` must be one that the configuration allows."""
    try:
        least, most = 0, MAX_UNCHECKED_BYTES
        if config is not None and path.stat().st_size > MAX_UNCHECKED_BYTES:
            least, most = _size_bounds(path.name, _parse(ModelConfig, path.parent / CONFIG, config))
        return files.read_checked(path, least, most)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); copy the whole folder again, or let this user read it"
        ) from error


def _size_bounds(name: str, config: ModelConfig) -> tuple[int, int]:
    """Bounds in bytes of the size of a file of this model."""
    if name == WEIGHTS:
        least = sum(tensor.numel() * tensor.element_size() for tensor in _shapes(config).values())
        return least, least + MAX_UNCHECKED_BYTES
    return 0, MAX_UNCHECKED_BYTES + (4 * LATENT_COMPONENTS * config.latent**2 if name == CALIBRATION else 0)


def _json(value: Frozen) -> bytes:
    return (json.dumps(value.model_dump(mode="json"), indent=2, allow_nan=False) + "\n").encode()


def _checksum_line(name: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()


def checksums(contents: dict[str, bytes]) -> bytes:
    """Content of SHA256SUMS for these files, by name."""
    return b"".join(_checksum_line(name, data) for name, data in sorted(contents.items()))


def _replace(folder: Path, contents: dict[str, bytes]) -> None:
    try:
        files.replace_folder(folder.absolute(), {**contents, SUMS: checksums(contents)})
    except OSError as error:
        raise CheckpointError(
            f"{folder.absolute()}: cannot be saved ({error.strerror}); the old version is untouched: make room, or "
            "choose another folder, and repeat the command"
        ) from error
