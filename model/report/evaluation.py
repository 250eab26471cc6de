"""The held-out report of a trained model: how well it codes data that it was not fitted to, and what it tells apart.

Every score is per sample, in nats; means come with the standard error over samples. The same draws of z serve every
sample, as they do for a score; their own error, smaller by far than that over samples, is not in it.
"""

import bz2
import gzip
import io
import lzma
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.datasets import Dataset
from model.errors import DataError
from model.images import to_pil
from model.scoring.batches import BATCH_ROWS, active_units, score
from model.scoring.calibration import ScoringConfig
from model.scoring.detection import Detection
from model.training.config import Portion
from model.vae import VAE, to_tensor

Floats = NDArray[np.float64]
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 99.9, 100)
#: How many of the costliest samples are named.
WORST = 10


@dataclass(frozen=True)
class Report:
    """What `vae evaluate` says. `samples` counts the inputs, `draws` those of z for each; `portion` says which part of
    the data of the training the samples are, None where they are other data. `rate` is exact, and `distortion` what is
    left of `free_energy`.
    """

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
    worst: list[dict[str, Any]]
    active_units: int
    latent: int
    rate_per_dimension: list[float]
    scales_at_floor: float | None
    codecs_bits_per_dim: dict[str, float] = field(default_factory=dict)
    detection: list[Detection] = field(default_factory=list)
    portion: Portion | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """A report, and what it sums up: of each sample the free energy and the mean of Q (n x latent), and of each latent
    dimension the rate, in the order of the latent.
    """

    report: Report
    free_energy: Floats
    means: Floats
    rates: Floats


def evaluate(
    vae: VAE,
    dataset: Dataset,
    *,
    draws: int = 100,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Judge a model on samples that it was not fitted to.

    Args:
        draws: K; the importance-weighted bound is that of K draws.
        on_batch: called with the number of samples done.

    Raises:
        DataError: the dataset is empty, or a sample cannot be read.
    """
    parts = []
    for part in score(vae, dataset.batches(BATCH_ROWS), ScoringConfig(draws, 0, seed)):
        parts.append(part)
        on_batch(part.first + len(part.rate_per_dimension))
    if not parts:
        raise DataError(f"{dataset.source}: there are no samples in it")
    free_energy = np.concatenate([part.scores.estimates.free_energy for part in parts])
    means = np.concatenate([part.means for part in parts])
    rates = np.concatenate([part.rate_per_dimension for part in parts]).mean(axis=0)
    cost = float(free_energy.mean())
    # The same draws serve every sample, so that the error of a drawn rate would not average out; for these Gaussians it
    # is known without draws, and what is left of the free energy is surer than a drawn distortion.
    rate = float(rates.sum())
    error = float(free_energy.std(ddof=1) / math.sqrt(len(free_energy))) if len(free_energy) > 1 else None
    nlog_p_x = float(np.concatenate([part.scores.estimates.nlog_p_x for part in parts]).mean())
    unit = vae.config.data.dims * math.log(2) if vae.levels else None
    report = Report(
        dataset=dataset.source,
        samples=len(free_energy),
        draws=draws,
        seed=seed,
        free_energy=cost,
        free_energy_standard_error=error,
        distortion=cost - rate,
        rate=rate,
        nlog_p_x=nlog_p_x,
        bits_per_dim=cost / unit if unit else None,
        bits_per_dim_standard_error=error / unit if unit and error is not None else None,
        nlog_p_x_bits_per_dim=nlog_p_x / unit if unit else None,
        free_energy_percentiles={f"{p:g}": float(np.percentile(free_energy, p)) for p in PERCENTILES},
        worst=_worst(free_energy, unit, dataset),
        active_units=active_units(means),
        latent=vae.config.latent,
        rate_per_dimension=sorted(rates.tolist(), reverse=True),
        scales_at_floor=scales_at_floor(vae, dataset),
        codecs_bits_per_dim=codecs(dataset) if vae.config.likelihood.is_bytes else {},
    )
    return Evaluation(report, free_energy, means, rates)


def _worst(free_energy: Floats, unit: float | None, dataset: Dataset) -> list[dict[str, Any]]:
    """The costliest samples: a mean hides that one in a thousand can cost ten times the rest."""
    order = np.argsort(-free_energy, kind="stable")[:WORST]
    return [
        {
            "sample": dataset.name_of(int(index)),
            "free_energy": float(free_energy[index]),
            "bits_per_dim": float(free_energy[index]) / unit if unit else None,
        }
        for index in order
    ]


@torch.inference_mode()
def scales_at_floor(vae: VAE, dataset: Dataset) -> float | None:
    """The share of the likelihood's scales that lie within a tenth of their floor, over the first samples.

    A model that is held up by its floor would rather be surer than it is allowed to be. None for bits, which have no
    scale.
    """
    x = to_tensor(next(dataset.batches(BATCH_ROWS)), str(vae.device))
    return vae.head.scales_at_floor(vae.decode(vae.encode(x).mean))


def codecs(dataset: Dataset) -> dict[str, float]:
    """What general compressors cost on the same bytes, in bits per dimension.

    PNG and lossless WebP are one file an image, as such files are kept; gzip, bz2 and xz get all images as one stream,
    which favours them. Empty where the samples are not bytes.
    """
    stream, png, webp, count = io.BytesIO(), 0, 0, 0
    for batch in dataset.batches(BATCH_ROWS):
        if batch.dtype != np.uint8:
            return {}
        stream.write(batch.tobytes())
        png += sum(_file_bytes(sample, "PNG", optimize=True) for sample in batch)
        webp += sum(_file_bytes(sample, "WEBP", lossless=True, quality=100, method=6) for sample in batch)
        count += batch.size
    data = stream.getvalue()
    sizes = {
        "png": png,
        "webp": webp,
        "gzip": len(gzip.compress(data, 9)),
        "bz2": len(bz2.compress(data, 9)),
        "xz": len(lzma.compress(data, preset=9)),
    }
    return {name: 8 * size / count for name, size in sizes.items()}


def _file_bytes(sample: NDArray[np.uint8], kind: str, **options: Any) -> int:
    file = io.BytesIO()
    to_pil(sample).save(file, kind, **options)
    return file.tell()
