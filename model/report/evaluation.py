"""Evaluation of a trained model on data that it was not fitted to.

Scores are means over samples, in nats. Standard errors are those over samples. All samples share the same draws of z;
the error of the draws is much smaller and not included.
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
from model.report.quality import MAX_SAMPLES, Quality, measure
from model.scoring.batches import BATCH_ROWS, active_units, score
from model.scoring.calibration import ScoringConfig
from model.scoring.detection import Detection
from model.training.splits import SplitName
from model.vae import VAE, to_tensor

Floats = NDArray[np.float64]
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 99.9, 100)
#: Most samples with the highest free energy that a report names.
MAX_WORST = 10


@dataclass(frozen=True)
class Report:
    """The result of `vae evaluate`.

    `samples` is the number of samples, `draws` that of draws of z for each. `rate` is analytic where the prior has a
    closed form of it; `distortion` is `free_energy - rate`. `kl_to_normal` is KL(Q, N(0, 1)) of each latent dimension,
    in falling order. `portion` is the part of the training data that was evaluated; None for other data.
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
    kl_to_normal: list[float]
    scales_at_floor: float | None
    codecs_bits_per_dim: dict[str, float] = field(default_factory=dict)
    detection: list[Detection] = field(default_factory=list)
    portion: SplitName | None = None
    quality: Quality | None = None

    def plain(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """A report and the arrays that it summarizes."""

    report: Report
    free_energy: Floats  # n, nats
    means: Floats  # of Q, n x latent
    kl_to_normal: Floats  # KL(Q, N(0, 1)) by latent dimension, nats


def evaluate(
    vae: VAE, dataset: Dataset, *, draws: int = 100, seed: int = 0, on_batch: Callable[[int], None] = lambda done: None
) -> Evaluation:
    """Evaluate a model on a dataset.

    Args:
        draws: number K of draws of z for each sample and of the importance-weighted bound.
        on_batch: called with the number of finished samples.

    Raises:
        DataError: the dataset is empty, or a sample cannot be read.
    """
    parts = []
    for part in score(vae, dataset.batches(BATCH_ROWS), ScoringConfig(draws, 0, seed)):
        parts.append(part)
        on_batch(part.first + len(part))
    if not parts:
        raise DataError(f"{dataset.source}: the dataset is empty; name one with samples")
    free_energy = np.concatenate([part.scores.estimates.free_energy for part in parts])
    means = np.concatenate([part.means for part in parts])
    kl_to_normal = np.concatenate([part.kl_to_normal for part in parts]).mean(axis=0)
    cost = float(free_energy.mean())
    # All samples share their draws, so that the error of a rate estimated from them would not average out. Where it is
    # analytic, the free energy minus it varies less than an estimated distortion.
    estimates = [part.scores.estimates for part in parts]
    rates = [each.rate if each.rate_analytic is None else each.rate_analytic for each in estimates]
    rate = float(np.concatenate(rates).mean())
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
        worst=worst_samples(free_energy, unit, dataset),
        active_units=active_units(means),
        latent=vae.config.latent,
        kl_to_normal=sorted(kl_to_normal.tolist(), reverse=True),
        scales_at_floor=scales_at_floor(vae, dataset),
        codecs_bits_per_dim=codecs(dataset) if vae.config.likelihood.is_bytes else {},
        quality=measure(vae, evenly_spaced(dataset, len(free_energy)), kl_to_normal) if len(free_energy) > 1 else None,
    )
    return Evaluation(report, free_energy, means, kl_to_normal)


def evenly_spaced(dataset: Dataset, total: int) -> NDArray[Any]:
    """Read at most `MAX_SAMPLES` samples, evenly spaced over a dataset of this size, which may be sorted."""
    wanted = np.arange(min(total, MAX_SAMPLES)) * total // min(total, MAX_SAMPLES)
    parts, first = [], 0
    for batch in dataset.batches(BATCH_ROWS):
        parts.append(batch[wanted[(wanted >= first) & (wanted < first + len(batch))] - first])
        first += len(batch)
    return np.concatenate(parts)


def worst_samples(free_energy: Floats, unit: float | None, dataset: Dataset) -> list[dict[str, Any]]:
    """Samples with the highest free energy, which a mean hides, in falling order."""
    order = np.argsort(-free_energy, kind="stable")[:MAX_WORST]
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
    """Share of the likelihood's scales within 10 % of their lower bound, over the first batch; None without scales."""
    x = to_tensor(next(dataset.batches(BATCH_ROWS)), str(vae.device))
    return vae.head.scales_at_floor(vae.decode(vae.encode(x).mean))


def codecs(dataset: Dataset) -> dict[str, float]:
    """Bits per dimension of general compressors on the same bytes; empty if the samples are not bytes.

    PNG and lossless WebP compress each image separately. gzip, bz2 and xz compress all images as one stream, which
    favours them.
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
