"""The held-out report of a trained model: how well it codes data that it was not fitted to.

Every score is per sample, in nats; means come with the standard error over samples. The same draws of z serve every
sample, as they do for a score; their own error, smaller by far than that over samples, is not in it.
"""

import gzip
import io
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model import noise
from model.datasets import Dataset
from model.errors import DataError
from model.free_energy import FreeEnergy, estimate
from model.vae import VAE, to_tensor

Floats = NDArray[np.float64]
#: A latent dimension is active where the variance of its mean over the data is above this (Burda et al. 2016).
ACTIVE = 0.01
PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 99.9, 100)


@dataclass(frozen=True)
class Report:
    """What `vae evaluate` says. `samples` counts the inputs, `draws` those of z for each."""

    dataset: str
    samples: int
    draws: int
    seed: int
    free_energy: float
    free_energy_standard_error: float | None
    distortion: float
    rate: float
    nlog_p_x: float
    bits_per_dim: float | None
    bits_per_dim_standard_error: float | None
    nlog_p_x_bits_per_dim: float | None
    free_energy_percentiles: dict[str, float]
    active_units: int
    latent: int
    rate_per_dimension: list[float]
    codecs_bits_per_dim: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """One batch of a dataset: the index of its first sample, its scores, and its Q."""

    first: int
    scores: FreeEnergy
    mean: Floats
    rate_per_dimension: Floats


def score(vae: VAE, dataset: Dataset, *, draws: int, seed: int, rows: int = 256) -> Iterator[Scored]:
    """Score a dataset of any size, a batch at a time, each sample by the same K draws of the seed.

    Args:
        vae: on the device that it is to run on.
        dataset: of the model's data.
        draws: K.
        seed: of the draws; the service gives the same scores for the same seed and K.
        rows: samples in a batch, and most decodings in one call.
    """
    device = str(vae.origin.device)
    draw = torch.from_numpy(noise.normal(seed, (draws, vae.config.latent))).to(device)
    first = 0
    for batch in dataset.batches(rows):
        x = to_tensor(batch, device)
        with torch.inference_mode():
            q = vae.encode(x)
            scores = estimate(vae, x, q, draw, rows)
            yield Scored(first, scores, q.mean.cpu().double().numpy(), q.rate().cpu().double().numpy())
        first += len(batch)


def evaluate(
    vae: VAE,
    dataset: Dataset,
    *,
    draws: int = 8,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Report:
    """Judge a model on samples that it was not fitted to.

    Args:
        on_batch: called with the number of samples done.

    Raises:
        DataError: the dataset is empty, or a sample cannot be read.
    """
    parts = []
    for part in score(vae, dataset, draws=draws, seed=seed):
        parts.append(part)
        on_batch(part.first + len(part.mean))
    if not parts:
        raise DataError(f"{dataset.source}: there are no samples in it")
    free_energy = np.concatenate([part.scores.free_energy for part in parts])
    means = np.concatenate([part.mean for part in parts])
    rates = np.concatenate([part.rate_per_dimension for part in parts]).mean(axis=0)
    error = float(free_energy.std(ddof=1) / math.sqrt(len(free_energy))) if len(free_energy) > 1 else None
    nlog_p_x = _mean(parts, "nlog_p_x")
    unit = vae.config.data.dims * math.log(2) if vae.levels else None
    return Report(
        dataset=dataset.source,
        samples=len(free_energy),
        draws=draws,
        seed=seed,
        free_energy=float(free_energy.mean()),
        free_energy_standard_error=error,
        distortion=_mean(parts, "distortion"),
        rate=_mean(parts, "rate"),
        nlog_p_x=nlog_p_x,
        bits_per_dim=float(free_energy.mean()) / unit if unit else None,
        bits_per_dim_standard_error=error / unit if unit and error is not None else None,
        nlog_p_x_bits_per_dim=nlog_p_x / unit if unit else None,
        free_energy_percentiles={f"{p:g}": float(np.percentile(free_energy, p)) for p in PERCENTILES},
        active_units=int((means.var(axis=0) > ACTIVE).sum()),
        latent=vae.config.latent,
        rate_per_dimension=sorted(rates.tolist(), reverse=True),
        codecs_bits_per_dim=codecs(dataset) if vae.levels == 256 else {},
    )


def _mean(parts: list[Scored], name: str) -> float:
    return float(np.concatenate([getattr(part.scores, name) for part in parts]).mean())


def codecs(dataset: Dataset) -> dict[str, float]:
    """What general compressors cost on the same bytes, in bits per dimension.

    PNG is one file an image, as such files are kept; gzip and xz get all images as one stream, which favours them.
    Empty where the samples are not bytes.
    """
    stream, png, count = io.BytesIO(), 0, 0
    for batch in dataset.batches(256):
        if batch.dtype != np.uint8:
            return {}
        stream.write(batch.tobytes())
        png += sum(_png_bytes(sample) for sample in batch)
        count += batch.size
    data = stream.getvalue()
    sizes = {"png": png, "gzip": len(gzip.compress(data, 9)), "xz": len(lzma.compress(data, preset=9))}
    return {name: 8 * size / count for name, size in sizes.items()}


def _png_bytes(sample: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    pixels = sample[0] if len(sample) == 1 else sample.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.tell()
