"""Random splits of a dataset into training, validation and calibration samples, and their use in evaluation.

Training samples fit the weights. Validation samples (option `--held-out`) choose the best epoch. Calibration samples
(option `--set-aside`) do neither, and are the reference of p-values.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model import random
from model.checkpoint import Provenance
from model.datasets import Dataset, Subset
from model.errors import DataError

Array = NDArray[Any]
Indices = NDArray[np.int64]
Labels = NDArray[np.int64]
#: Name in reports of the split that an evaluation used: calibration ("set_aside") or validation ("held_out").
SplitName = Literal["set_aside", "held_out"]
#: Default upper limit of the validation and of the calibration split, in samples.
MAX_DEFAULT_SAMPLES = 5000
#: Smallest calibration split that is made by default: fewer samples give no p-value below 5 %.
MIN_DEFAULT_CALIBRATION = 20


@dataclass(frozen=True)
class Split:
    """The samples of a dataset in three parts, chosen by the seed. Labels are None if the dataset has none.

    `label_names` are indexed by label.
    """

    train: Array
    validation: Array
    validation_labels: Labels | None
    calibration: Array
    calibration_labels: Labels | None = None
    train_labels: Labels | None = None
    label_names: tuple[str, ...] | None = None

    @classmethod
    def from_dataset(cls, dataset: Dataset, validation: int | None, calibration: int | None, seed: int) -> "Split":
        """Split all samples.

        Args:
            dataset: read into memory completely.
            validation, calibration: number of samples; None for a tenth of the dataset, at most 5,000.
            seed: decides which samples.

        Raises:
            DataError: no sample is left for training, or one cannot be read.
        """
        samples, labels = dataset.load(), dataset.labels()
        tenth = min(MAX_DEFAULT_SAMPLES, len(samples) // 10)
        if validation is None:
            validation = max(1, tenth)
        if calibration is None:
            calibration = tenth if tenth >= MIN_DEFAULT_CALIBRATION else 0
        if validation + calibration >= len(samples):
            raise DataError(
                f"{dataset.source}: {len(samples)} samples are too few for {validation} validation samples, "
                f"{calibration} calibration samples and at least one training sample; give more data or a smaller "
                "--held-out or --set-aside"
            )
        train, held_out, aside = split_indices(len(samples), validation, calibration, seed)
        if labels is None:
            return cls(samples[train], samples[held_out], None, samples[aside])
        return cls(
            samples[train],
            samples[held_out],
            labels[held_out],
            samples[aside],
            labels[aside],
            labels[train],
            dataset.label_names(),
        )

    def sha256(self) -> str:
        """SHA-256 of all samples in the order of the parts, as hex digits."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.calibration):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def split_indices(samples: int, validation: int, calibration: int, seed: int) -> tuple[Indices, Indices, Indices]:
    """Sorted indices of the training, validation and calibration samples.

    >>> [len(part) for part in split_indices(10, validation=2, calibration=3, seed=0)]
    [5, 2, 3]
    """
    order = random.generator(seed, random.SHUFFLE).permutation(samples)
    held_out, aside, train = (np.sort(part) for part in np.split(order, [validation, validation + calibration]))
    return train, held_out, aside


def training_split(dataset: Dataset, training: Provenance | None) -> Split:
    """The split of the data that a model was trained on.

    Raises:
        DataError: the model was not trained on this data, or a sample cannot be read.
    """
    split = _recorded_split(dataset, training)
    if split is None:
        raise DataError(f"{dataset.source}: is not the data that the model was trained on; give that data, unchanged")
    return split


def _recorded_split(dataset: Dataset, training: Provenance | None) -> Split | None:
    """The split of a training, or None if it was not on this dataset."""
    # A dataset of another length is not the training data, and need not be read.
    if training is None or training.samples != len(dataset):
        return None
    settings = training.settings
    split = Split.from_dataset(dataset, training.held_out, settings.get("set_aside", 0), settings.get("seed", 0))
    return split if split.sha256() == training.dataset_sha256 else None


def evaluation_subset(dataset: Dataset, training: Provenance | None) -> tuple[Dataset, SplitName | None]:
    """The samples of a dataset that a model can be evaluated on, and the name of their split.

    Returns: the whole dataset and None if the model was not trained on it; otherwise its calibration split or, if that
        is empty, its validation split, which chose the best epoch.

    Raises:
        DataError: a sample cannot be read.
    """
    split = _recorded_split(dataset, training)
    if split is None or training is None:
        return dataset, None
    sizes = len(split.validation), len(split.calibration)
    _, validation, calibration = split_indices(len(dataset), *sizes, training.settings.get("seed", 0))
    if len(calibration):
        return Subset(dataset, calibration, split.calibration, "set aside"), "set_aside"
    return Subset(dataset, validation, split.validation, "held out"), "held_out"


def require_unseen(dataset: Dataset, training: Provenance | None) -> Dataset:
    """The samples of a dataset that neither fitted the model nor chose its epoch: all, or the calibration split.

    Raises:
        DataError: the model was trained on the dataset without a calibration split, or a sample cannot be read.
    """
    subset, name = evaluation_subset(dataset, training)
    if name == "held_out":
        raise DataError(
            f"{dataset.source}: the model was trained on it, and none of it was set aside; give data that the model "
            "has not seen"
        )
    return subset
