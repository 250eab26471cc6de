"""Outlier detection: how well scores separate a model's data from named sets of outliers, as areas under ROC curves.

None of the sets is used to fit anything. The form of `model.scoring.typicality` was chosen by similar sets, made from
held-out training images (docs/LOG.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model import random
from model.data import Array, Floats, ImageData, VectorData
from model.datasets import Dataset
from model.errors import DataError
from model.scoring.batches import BATCH_ROWS, ScoredBatch, in_batches, score
from model.scoring.calibration import Calibration, ScoringConfig
from model.vae import VAE

#: Scores that need several draws: from one draw they are free energy again, and 0.
SEVERAL_DRAWS_SCORES = ("nlog_p_x", "inference_gap")
CALIBRATED_SCORES = ("regret", "typicality", "free_energy_two_sided")
#: Scores that are compared; those that a model or its calibration lacks are left out.
SCORES = ("free_energy", "distortion", "rate", "cross_entropy", "entropy", *SEVERAL_DRAWS_SCORES, *CALIBRATED_SCORES)


def auroc(inliers: Floats, outliers: Floats) -> float:
    """Probability that an outlier scores higher than an inlier; ties count half.

    >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.875
    """
    ordered = np.sort(inliers)
    below = np.searchsorted(ordered, outliers, side="left") + np.searchsorted(ordered, outliers, side="right")
    return float(below.mean() / (2 * len(inliers)))


@dataclass(frozen=True)
class Detection:
    """Areas under the ROC curve, by set of outliers and by score, for one `ScoringConfig`."""

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
    scoring: ScoringConfig,
    calibration: Calibration | None,
    max_inputs: int,
) -> Detection:
    """Compare scores of inliers that the model was not fitted to with those of outliers.

    `against` holds more sets of outliers. At most `max_inputs` of each set are scored. Raise `DataError` if two sets
    have one name, or a sample cannot be read.
    """
    inliers = _scores(score(vae, _first(dataset, max_inputs), scoring, calibration), scoring)
    counts: dict[str, int] = {}
    areas: dict[str, dict[str, float]] = {}
    for name, batches in outlier_sets(vae.config.data, dataset, against, max_inputs):
        if name in areas:
            raise DataError(f"{name}: two sets of outliers have this name; write one of the paths in another way")
        scores = _scores(score(vae, batches, scoring, calibration), scoring)
        counts[name] = len(scores["free_energy"])
        areas[name] = {key: auroc(inliers[key], values) for key, values in scores.items()}
    return Detection(*scoring, len(inliers["free_energy"]), counts, areas)


def _scores(batches: Iterator[ScoredBatch], scoring: ScoringConfig) -> dict[str, Floats]:
    """Each score of all samples; larger means further out."""
    names = [name for name in SCORES if scoring.samples > 1 or name not in SEVERAL_DRAWS_SCORES]
    columns: dict[str, list[Floats]] = {}
    for batch in batches:
        scores, calibrated = batch.scores, batch.scores.calibrated
        values = vars(scores.estimates) | {"regret": scores.regret, "typicality": calibrated.typicality}
        if calibrated.p_values is not None:
            values["free_energy_two_sided"] = -calibrated.p_values["free_energy_two_sided"]
        for name in names:
            if values.get(name) is not None:
                columns.setdefault(name, []).append(values[name])
    return {name: np.concatenate(values) for name, values in columns.items()}


def outlier_sets(
    data: ImageData | VectorData, dataset: Dataset, against: Sequence[Dataset], max_inputs: int
) -> Iterator[tuple[str, Iterator[Array]]]:
    """Sets of outliers by name, each in batches as a dataset gives them."""
    if isinstance(data, ImageData):
        yield "vertical flips", (batch[:, :, ::-1].copy() for batch in _first(dataset, max_inputs))
        yield "horizontal flips", (batch[:, :, :, ::-1].copy() for batch in _first(dataset, max_inputs))
        digits = handwritten_digits(data)
        if digits is not None:
            yield "digits", in_batches(digits[:max_inputs])
        bytes_ = random.generator(0, random.OUTLIERS).integers(0, 256, (min(max_inputs, 2000), *data.shape), np.uint8)
        yield "noise", in_batches(bytes_)
        grey = np.linspace(0, 255, min(max_inputs, 256)).round().astype(np.uint8)[:, None, None, None]
        yield "constants", in_batches(np.ascontiguousarray(np.broadcast_to(grey, (len(grey), *data.shape))))
    else:
        rows = np.concatenate(list(_first(dataset, max_inputs)))
        draw = random.generator(0, random.OUTLIERS)
        yield "shuffled columns", in_batches(draw.permuted(rows, axis=0))
        yield "noise", in_batches(draw.uniform(rows.min(axis=0), rows.max(axis=0), rows.shape).astype(np.float32))
    for other in against:
        yield other.source, _first(other, max_inputs)


def handwritten_digits(data: ImageData) -> NDArray[np.uint8] | None:
    """The 1,797 digits of scikit-learn, scaled to the size of the data; None where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    small, size = (load_digits().images * (255 / 16)).round().astype(np.uint8), (data.width, data.height)
    scaled = np.stack([np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BILINEAR)) for digit in small])
    return np.repeat(scaled[:, None], data.channels, axis=1)


def _first(dataset: Dataset, count: int) -> Iterator[Array]:
    """The first samples of a dataset, in batches."""
    for index, batch in enumerate(islice(dataset.batches(BATCH_ROWS), -(-count // BATCH_ROWS))):
        yield batch[: count - index * BATCH_ROWS]
