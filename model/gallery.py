"""Gallery of a model: some held-out inputs with their latents, scores and a 2-D projection, and the learning curves.

The inputs neither fitted nor chose the model. The gallery does not influence any result of the model.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from pydantic import Field

from model.config import Frozen, ImageData, ModelConfig
from model.data import Array
from model.errors import DataError
from model.projection import PCAProjection, embed
from model.record import EpochRecord
from model.scoring.batches import ScoredBatch, active_units, in_batches, score
from model.scoring.calibration import Calibration, ScoringConfig
from model.vae import VAE, to_tensor

Singles = NDArray[np.float32]
#: Limit of the inputs in bytes; least and most inputs, which take precedence over the limit.
MAX_BYTES, MIN_INPUTS, MAX_INPUTS = 8 << 20, 24, 2000
#: Number of bins of the histogram of free energies.
BINS = 60
#: Settings of the scores: one draw, no refinement, seed 0.
GALLERY_SCORING = ScoringConfig(1, 0, 0)
#: Scores of each input; the last two only if the model has them.
SCORES = ("free_energy", "distortion", "rate", "cross_entropy", "entropy", "bits_per_dim", "typicality")
REQUIRED_SCORES = SCORES[:5]


class GalleryMetadata(Frozen):
    """The parts of a gallery that are not arrays."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    active_units: Annotated[int, Field(ge=0)]
    label_names: tuple[str, ...] | None
    learning: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Gallery:
    """n inputs with their latents and scores, and statistics over all inputs that they were picked from."""

    inputs: Array  # n x data: bytes of images, else float32
    mean: Singles  # of Q, n x latent
    variance: Singles  # of Q, n x latent
    projection: PCAProjection  # fitted to the means of all
    coordinates: Singles  # projected means, n x 2
    embedding: Singles | None  # of the means, n x 2: near ones are near there; None if it was not made
    scores: dict[str, Singles]  # n each; nats except for the last two of `SCORES`
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...] | None  # indexed by label
    kl_to_normal: Singles  # KL(Q, N(0, 1)) by dimension, mean over all, nats
    active_units: int
    edges: NDArray[np.float64]  # bin edges of the histogram of all free energies
    counts: NDArray[np.int64]  # of that histogram
    learning: tuple[EpochRecord, ...]  # empty if unknown

    def __len__(self) -> int:
        return len(self.inputs)


def make(
    vae: VAE,
    samples: Array,
    *,
    labels: NDArray[np.int64] | None = None,
    label_names: tuple[str, ...] | None = None,
    calibration: Calibration | None = None,
    learning: Iterable[EpochRecord] = (),
    on_sample: Callable[[int], None] = lambda done: None,
) -> Gallery:
    """Make a gallery of samples that neither fitted nor chose the model.

    All are scored; evenly spaced ones are kept. `on_sample` receives the number of samples done. Raise `DataError` if
    there are no samples, or a score is not finite.
    """
    if not len(samples):
        raise DataError("there are no samples to make a gallery of")
    parts = []
    for part in score(vae, in_batches(samples), GALLERY_SCORING, calibration):
        parts.append(part)
        on_sample(part.first + len(part))
    means = np.concatenate([part.means for part in parts])
    scores = _scores(parts)
    if not all(np.isfinite(numbers).all() for numbers in (means, *scores.values())):
        raise DataError("a sample for the gallery has scores that are not finite; look for extreme values in the data")
    picks = evenly_spaced(len(samples), samples[0].nbytes)
    shown = np.ascontiguousarray(samples[picks])
    with torch.inference_mode():
        posteriors = [vae.encode(to_tensor(batch, str(vae.device))) for batch in in_batches(shown)]
    mean = torch.cat([q.mean for q in posteriors]).float().cpu().numpy()
    projection, embedding = PCAProjection.fit(means), embed(mean)
    edges, counts = histogram(scores["free_energy"])
    return Gallery(
        inputs=shown,
        mean=mean,
        variance=torch.cat([q.scale.square() for q in posteriors]).float().cpu().numpy(),
        projection=replace(
            projection, origin=projection.origin.astype(np.float32), axes=projection.axes.astype(np.float32)
        ),
        coordinates=projection(mean).astype(np.float32),
        embedding=None if embedding is None else embedding.astype(np.float32),
        scores={name: numbers[picks].astype(np.float32) for name, numbers in scores.items()},
        labels=None if labels is None else labels[picks],
        label_names=label_names if labels is not None and _named(labels, label_names) else None,
        kl_to_normal=np.concatenate([part.kl_to_normal for part in parts]).mean(axis=0).astype(np.float32),
        active_units=active_units(means),
        edges=edges,
        counts=counts,
        learning=tuple(learning),
    )


def _named(labels: NDArray[np.int64], names: tuple[str, ...] | None) -> bool:
    return names is not None and bool(((labels >= 0) & (labels < len(names))).all())


def rescore(gallery: Gallery, vae: VAE, calibration: Calibration) -> Gallery:
    """Return the gallery with typicality recomputed by another calibration; without typicality if it has none."""
    scores = {name: numbers for name, numbers in gallery.scores.items() if name != "typicality"}
    rescored = _scores(list(score(vae, in_batches(gallery.inputs), GALLERY_SCORING, calibration)))
    if "typicality" in rescored:
        scores["typicality"] = rescored["typicality"].astype(np.float32)
    return replace(gallery, scores=scores)


def evenly_spaced(count: int, size: int) -> NDArray[np.int64]:
    """Evenly spaced indices of the samples to keep, out of `count` samples of `size` bytes each."""
    number = min(count, max(MIN_INPUTS, min(MAX_INPUTS, MAX_BYTES // size)))
    return np.arange(number) * count // number


def _scores(parts: list[ScoredBatch]) -> dict[str, NDArray[np.float64]]:
    scores = {name: [getattr(part.scores.estimates, name) for part in parts] for name in SCORES[:-1]}
    scores["typicality"] = [part.scores.calibrated.typicality for part in parts]
    return {name: np.concatenate(numbers) for name, numbers in scores.items() if numbers[0] is not None}


def histogram(free_energy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    low, high = float(free_energy.min()), float(free_energy.max())
    # Equal free energies still need bins of positive width.
    edges = np.linspace(low, max(high, low + 1e-6 * max(1.0, abs(low))), BINS + 1)
    return edges, np.histogram(free_energy, edges)[0].astype(np.int64)


def to_bytes(gallery: Gallery) -> bytes:
    """Serialize as safetensors: arrays by name, and `GalleryMetadata` as JSON in the header."""
    metadata = GalleryMetadata(**{name: getattr(gallery, name) for name in ("active_units", "label_names", "learning")})
    arrays = {name: getattr(gallery, name) for name in ARRAYS}
    arrays |= {f"plane.{name}": value for name, value in vars(gallery.projection).items()}
    arrays |= {f"scores.{name}": value for name, value in gallery.scores.items()}
    arrays |= {name: value for name in OPTIONAL if (value := getattr(gallery, name)) is not None}
    plain = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    return safetensors.numpy.save(plain, {"gallery": metadata.model_dump_json()})


ARRAYS = ("inputs", "mean", "variance", "coordinates", "kl_to_normal", "edges", "counts")
OPTIONAL = ("labels", "embedding")
#: The name that earlier versions gave `kl_to_normal`.
FORMER_KL_NAME = "rate_per_dimension"


def from_bytes(data: bytes, config: ModelConfig) -> Gallery:
    """Parse the bytes of `to_bytes`. Raise `ValueError` if a name, shape, type or range is not one of this model."""
    arrays = safetensors.numpy.load(data)
    # safetensors has validated this header in the line above.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = GalleryMetadata.model_validate_json(header.get("__metadata__", {}).get("gallery", ""))
    read = ArrayReader(arrays)
    count, bins, latent = read.length("inputs"), read.length("counts"), config.latent
    bytes_of_images = isinstance(config.data, ImageData) and arrays["inputs"].dtype == np.uint8
    inputs = read("inputs", (count, *config.data.shape), np.uint8 if bytes_of_images else np.float32)
    names = [name for name in SCORES if name in REQUIRED_SCORES or f"scores.{name}" in arrays]
    gallery = Gallery(
        inputs=inputs,
        mean=read("mean", (count, latent)),
        variance=read("variance", (count, latent)),
        projection=PCAProjection(
            origin=read("plane.origin", (latent,)),
            axes=read("plane.axes", (2, latent)),
            explained=read("plane.explained", (2,), np.float64),
        ),
        coordinates=read("coordinates", (count, 2)),
        embedding=read("embedding", (count, 2)) if "embedding" in arrays else None,
        scores={name: read(f"scores.{name}", (count,)) for name in names},
        labels=read("labels", (count,), np.int64) if "labels" in arrays else None,
        label_names=metadata.label_names,
        kl_to_normal=read(FORMER_KL_NAME if FORMER_KL_NAME in arrays else "kl_to_normal", (latent,)),
        active_units=metadata.active_units,
        edges=read("edges", (bins + 1,), np.float64),
        counts=read("counts", (bins,), np.int64),
        learning=metadata.learning,
    )
    if arrays:
        raise ValueError(f"{min(arrays)} is unknown")
    _require_valid_values(gallery, config)
    return gallery


@dataclass
class ArrayReader:
    """Removes arrays from a mapping one by one, and checks the shape and type of each."""

    arrays: dict[str, Array]

    def length(self, name: str) -> int:
        """Number of rows of an array; `ValueError` if it is missing or empty."""
        count = self.arrays[name].shape[0] if name in self.arrays and self.arrays[name].ndim else 0
        if not count:
            raise ValueError(f"{name} is missing or empty")
        return int(count)

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """Remove and return an array; `ValueError` if it is missing, has another shape or type, or is not finite."""
        array = self.arrays.pop(name, None)
        if array is None or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is missing or not {np.dtype(dtype)} of shape {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds what is not finite")
        return array


def _require_valid_values(gallery: Gallery, config: ModelConfig) -> None:
    """Check the ranges of values, and labels against their names."""
    inputs, labels, names = gallery.inputs, gallery.labels, gallery.label_names
    if isinstance(config.data, ImageData) and inputs.dtype != np.uint8 and (inputs.min() < 0 or inputs.max() > 1):
        raise ValueError("inputs holds pixels that are not from 0 to 1")
    if (gallery.variance <= 0).any():
        raise ValueError("variance is not positive")
    if gallery.active_units > config.latent:
        raise ValueError(f"active_units is {gallery.active_units} of {config.latent}")
    if (np.diff(gallery.edges) <= 0).any() or (gallery.counts < 0).any():
        raise ValueError("edges and counts are not those of a histogram")
    if names is not None and (labels is None or not _named(labels, names)):
        raise ValueError("label_names has no name for a label")
