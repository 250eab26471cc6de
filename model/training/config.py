"""The configuration of a training: defaults that follow from the data, and overrides by the user."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model.config import ConvNetwork, Frozen, ImageData, Likelihood, MLPNetwork, ModelConfig, Network, VectorData
from model.datasets import Dataset
from model.errors import ConfigError, DataError, explain
from model.likelihoods import LIKELIHOODS
from model.training.loop import PrecisionName, TrainingSettings
from model.training.splits import Split

Array = NDArray[Any]
Overrides = dict[str, Any]
#: Optimizer steps that the default number of epochs aims at, and its upper limit.
DEFAULT_STEPS, MAX_DEFAULT_EPOCHS = 8000, 1000
#: Fewer training vectors than this get a linear network and a small latent by default. On two splits of a table of 30
#: columns, linear networks had a lower validation free energy, by 3 and by 10 nats.
MIN_NONLINEAR_ROWS = 1000


class TrainingConfig(Frozen):
    """Everything that decides the outcome of a training. A run resumes only under the configuration it began with."""

    dataset: str
    dataset_sha256: str
    samples: int
    config: ModelConfig
    settings: TrainingSettings

    @classmethod
    def resolve(
        cls, dataset: Dataset, *, network: Overrides, likelihood: Overrides, latent: int | None, settings: Overrides
    ) -> "tuple[TrainingConfig, Split]":
        """Split the samples and complete the overrides by defaults for this data.

        Args:
            dataset: read into memory completely.
            network, likelihood: keys of their configurations, with or without `name`.
            latent: size of the latent, or None for the default.
            settings: keys of `TrainingSettings`.

        Raises:
            ConfigError: an override is invalid, or does not fit the data or another override.
            DataError: the samples cannot be read, are too few, or are out of the likelihood's range.
        """
        # Validate the settings before reading the data, which can take minutes.
        checked = _validate({"epochs": 1, "held_out": 1, **settings})
        split = Split.from_dataset(dataset, settings.get("held_out"), settings.get("set_aside"), checked.seed)
        data, count = default_data(dataset, split.train), len(split.train)
        # An unknown name keeps the default's other keys; `ModelConfig` refuses it.
        config = ModelConfig.build(
            data=data.model_dump(),
            network={**default_network(data, count, network.get("name")).model_dump(), **network},
            latent=default_latent(data, count) if latent is None else latent,
            likelihood={**default_likelihood(data, split.train, likelihood.get("name")).model_dump(), **likelihood},
        )
        try:
            config.likelihood.require_samples(data, split.train, (split.validation, split.calibration))
        except DataError as error:
            raise DataError(f"{dataset.source}: {error}") from error
        if settings.get("auxiliary") and not config.likelihood.has_auxiliary_loss:
            raise ConfigError("auxiliary: only autoregressive likelihoods have this loss; omit it or set it to 0")
        if (checked.flip or checked.shift) and not isinstance(data, ImageData):
            raise ConfigError("flip, shift: these are for images; omit them")
        settings = {"batch_size": default_batch_size(count), **settings}
        defaults = {
            "epochs": default_epochs(count, settings["batch_size"]),
            "optimizer": "muon" if config.network.name == "conv" else "adamw",
            **({} if config.likelihood.has_auxiliary_loss else {"auxiliary": 0.0}),
        }
        sizes = {"held_out": len(split.validation), "set_aside": len(split.calibration)}
        resolved = cls(
            dataset=dataset.source,
            dataset_sha256=split.sha256(),
            samples=count + sum(sizes.values()),
            config=config,
            settings=_validate({**defaults, **settings, **sizes}),
        )
        return resolved, split

    def with_precision(self, name: PrecisionName) -> "TrainingConfig":
        """Return a copy of this training in another precision."""
        return self.model_copy(update={"settings": self.settings.model_copy(update={"precision": name})})


def _validate(settings: Overrides) -> TrainingSettings:
    try:
        return TrainingSettings(**settings)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def default_data(dataset: Dataset, train: Array) -> ImageData | VectorData:
    """The data configuration of a dataset; vectors are standardized by mean and standard deviation of `train`.

    Raises:
        DataError: no model takes images of this size, or this many columns.
    """
    try:
        if len(dataset.shape) == 3:
            channels, height, width = dataset.shape
            return ImageData(height=height, width=width, channels=3 if channels == 3 else 1)
        mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
        # A column that varies no more than the rounding error of float32 keeps its units.
        std[(std <= 1e-7 * np.abs(mean)) | (std < 1e-30)] = 1.0
        return VectorData(columns=dataset.columns, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    except ValidationError as error:
        raise DataError(f"{dataset.source}: {explain(error)[:500]}") from error


def default_network(data: ImageData | VectorData, samples: int, name: str | None = None) -> Network:
    """The network for this number of training samples.

    Images of at least 16 pixels a side get `conv`, with stages that halve them to about 8 pixels. Other data gets
    `mlp`; it is linear for few vectors, where deeper networks overfit. A `name` chooses between the two.
    """
    if name == "conv" or (name is None and isinstance(data, ImageData) and min(data.height, data.width) >= 16):
        side = min(data.height, data.width) if isinstance(data, ImageData) else 16
        stages = max(2, round(math.log2(side / 8)))
        return ConvNetwork(channels=(32, 64, 128, 128, 128, 128, 128)[:stages], blocks=(1, 2, 2, 2, 2, 2, 2)[:stages])
    if isinstance(data, ImageData):
        return MLPNetwork()
    width = 64 if data.dims <= 64 else 256
    return MLPNetwork(hidden=() if samples < MIN_NONLINEAR_ROWS else (width, width))


def default_latent(data: ImageData | VectorData, samples: int) -> int:
    """Latent size: 64 for images; for vectors half the columns, or a sixth for few samples, from 2 to 32.

    >>> default_latent(ImageData(height=28, width=28), samples=60_000)
    64
    """
    if isinstance(data, ImageData):
        return 64
    return min(32, max(2, data.dims // (6 if samples < MIN_NONLINEAR_ROWS else 2)))


def default_likelihood(data: ImageData | VectorData, samples: Array, name: str | None = None) -> Likelihood:
    """The named likelihood, or the default one for these samples, with its settings for this data."""
    kind = LIKELIHOODS.get(name or "") or next(kind for kind in LIKELIHOODS.values() if kind.is_default_for(samples))
    return kind.default_for(data)


def default_batch_size(samples: int) -> int:
    """128, or fewer (at least 16) if 1,000 epochs of few samples would make fewer than 8,000 steps.

    >>> default_batch_size(60_000), default_batch_size(800)
    (128, 100)
    """
    return min(128, max(16, samples * MAX_DEFAULT_EPOCHS // DEFAULT_STEPS))


def default_epochs(samples: int, batch_size: int) -> int:
    """Number of epochs that make about 8,000 steps, from 20 to 1,000.

    >>> default_epochs(60_000, batch_size=128)
    20
    """
    return min(MAX_DEFAULT_EPOCHS, max(20, round(DEFAULT_STEPS / math.ceil(samples / batch_size))))
