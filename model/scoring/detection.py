"""How well scores tell a model's data from other data: named sets of outliers, and the area under the ROC curve.

The sets are close to the data (flips, shuffled columns) and far from it (another source, noise, constants). None of
them is used to fit anything; the form of `model.scoring.typicality` was chosen with their like in sight, made from
held-out training images (docs/LOG.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model import random
from model.config import ImageData, VectorData
from model.datasets import Dataset
from model.errors import DataError
from model.scoring.calibration import Calibration, Protocol
from model.scoring.score import ROWS, Part, in_batches, score
from model.vae import VAE

Array = NDArray[Any]
Floats = NDArray[np.float64]
#: Every score that is compared; one that a model or protocol does not have is left out.
SCORES = (
    "free_energy",
    "distortion",
    "rate",
    "cross_entropy",
    "entropy",
    "nlog_p_x",
    "inference_gap",
    "regret",
    "typicality",
    "free_energy_two_sided",
)
#: Those that say something only where there are several draws: of one, free energy again, and 0.
OF_SEVERAL = ("nlog_p_x", "inference_gap")


def auroc(inliers: Floats, outliers: Floats) -> float:
    """The probability that an outlier scores higher than an inlier, ties counting half."""
    ordered = np.sort(inliers)
    below = np.searchsorted(ordered, outliers, side="left") + np.searchsorted(ordered, outliers, side="right")
    return float(below.mean() / (2 * len(inliers)))


@dataclass(frozen=True)
class Detection:
    """Areas under the ROC curve, by set of outliers and by score, under one protocol."""

    samples: int
    refine: int
    seed: int
    inliers: int
    outliers: dict[str, int]
    auroc: dict[str, dict[str, float]]


def detect(
    vae: VAE,
    dataset: Dataset,
    against: Sequence[Dataset],
    protocol: Protocol,
    calibration: Calibration | None,
    most: int,
) -> Detection:
    """Compare scores of a dataset with those of outliers.

    Args:
        dataset: of inliers that the model was not fitted to.
        against: more sets of outliers, named by their source.
        most: inputs of each set.

    Raises:
        DataError: two sets have one name, or a sample cannot be read.
    """
    inliers = _scores(score(vae, _first(dataset, most), protocol, calibration), protocol)
    counts: dict[str, int] = {}
    areas: dict[str, dict[str, float]] = {}
    for name, batches in outlier_sets(vae.config.data, dataset, against, most):
        if name in areas:
            raise DataError(f"{name}: there is another set of outliers of this name; name the path another way")
        scores = _scores(score(vae, batches, protocol, calibration), protocol)
        counts[name] = len(scores["free_energy"])
        areas[name] = {key: auroc(inliers[key], values) for key, values in scores.items()}
    return Detection(*protocol, len(inliers["free_energy"]), counts, areas)


def _scores(parts: Iterator[Part], protocol: Protocol) -> dict[str, Floats]:
    """Each score of all samples, larger meaning further out."""
    names = [name for name in SCORES if protocol.samples > 1 or name not in OF_SEVERAL]
    columns: dict[str, list[Floats]] = {}
    for part in parts:
        verdict = part.verdict
        found = vars(part.scored.scores) | {"regret": part.scored.regret, "typicality": verdict.typicality}
        if verdict.p_values is not None:
            found["free_energy_two_sided"] = -verdict.p_values["free_energy_two_sided"]
        for name in names:
            if found.get(name) is not None:
                columns.setdefault(name, []).append(found[name])
    return {name: np.concatenate(values) for name, values in columns.items()}


def outlier_sets(
    data: ImageData | VectorData, dataset: Dataset, against: Sequence[Dataset], most: int
) -> Iterator[tuple[str, Iterator[Array]]]:
    """Each set by name, in batches as a dataset gives them."""
    if isinstance(data, ImageData):
        yield "vertical flips", (batch[:, :, ::-1].copy() for batch in _first(dataset, most))
        yield "horizontal flips", (batch[:, :, :, ::-1].copy() for batch in _first(dataset, most))
        digits = handwritten_digits(data)
        if digits is not None:
            yield "digits", in_batches(digits[:most])
        bytes_ = random.generator(0, random.OUTLIERS).integers(0, 256, (min(most, 2000), *data.shape), np.uint8)
        yield "noise", in_batches(bytes_)
        grey = np.linspace(0, 255, min(most, 256)).round().astype(np.uint8)[:, None, None, None]
        yield "constants", in_batches(np.ascontiguousarray(np.broadcast_to(grey, (len(grey), *data.shape))))
    else:
        rows = np.concatenate(list(_first(dataset, most)))
        draw = random.generator(0, random.OUTLIERS)
        yield "shuffled columns", in_batches(draw.permuted(rows, axis=0))
        yield "noise", in_batches(draw.uniform(rows.min(axis=0), rows.max(axis=0), rows.shape).astype(np.float32))
    for other in against:
        yield other.source, _first(other, most)


def handwritten_digits(data: ImageData) -> NDArray[np.uint8] | None:
    """scikit-learn's 1,797 digits, scaled to the size of the data; None where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    small = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    size = (data.width, data.height)
    scaled = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in small])
    return np.repeat(scaled[:, None], data.channels, axis=1)


def _first(dataset: Dataset, most: int) -> Iterator[Array]:
    """The first samples of a dataset, in batches."""
    left = most
    for batch in islice(dataset.batches(ROWS), -(-most // ROWS)):
        yield batch[:left]
        left -= len(batch)
