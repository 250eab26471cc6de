"""From a dataset and a few wishes to all that decides a training: what is not wished for is chosen by the data."""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model import random
from model.config import ConvNetwork, Frozen, ImageData, Likelihood, MLPNetwork, ModelConfig, Network, VectorData
from model.datasets import Dataset, Subset
from model.errors import ConfigError, DataError, explain
from model.likelihoods import LIKELIHOODS
from model.training.loop import TrainingSettings

if TYPE_CHECKING:
    from model.checkpoint import Provenance

Array = NDArray[Any]
Indices = NDArray[np.int64]
Wishes = dict[str, Any]
#: A portion of the data of a training: what neither fits nor chooses the model, and what chooses it.
Portion = Literal["set_aside", "held_out"]
#: Steps of gradient descent that a training takes when no number of epochs is wished for.
STEPS, MOST_EPOCHS = 8000, 1000
#: With fewer vectors than this to fit, linear networks and small latents are the default: on one table of 30 columns
#: linear ones held out better by 3 and by 10 nats, on two splits.
FEW = 1000
#: Fewer samples than this make no p-value below 5 %, so none are set aside unless asked for.
LEAST_SET_ASIDE = 20


@dataclass(frozen=True)
class Split:
    """Samples that fit the weights, those that choose among epochs, and those that do neither, chosen by the seed."""

    fit: Array
    held_out: Array
    held_out_labels: NDArray[np.int64] | None
    set_aside: Array
    set_aside_labels: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, dataset: Dataset, held_out: int | None, set_aside: int | None, seed: int) -> "Split":
        """Hold out and set aside so many samples, or a tenth for each but no more than 5,000."""
        samples, labels = dataset.load(), dataset.labels()
        tenth = min(5000, len(samples) // 10)
        count = max(1, tenth) if held_out is None else held_out
        aside = (tenth if tenth >= LEAST_SET_ASIDE else 0) if set_aside is None else set_aside
        if count + aside >= len(samples):
            raise DataError(
                f"{dataset.source}: {len(samples)} samples cannot hold out {count}, set aside {aside} and train on the "
                "rest; give more data or a smaller --held-out or --set-aside"
            )
        held, apart, rest = _parted(len(samples), count, aside, seed)
        if labels is None:
            return cls(samples[rest], samples[held], None, samples[apart])
        return cls(samples[rest], samples[held], labels[held], samples[apart], labels[apart])

    def sha256(self) -> str:
        """A digest of all samples and of how they were split."""
        digest = hashlib.sha256()
        for part in (self.fit, self.held_out, self.set_aside):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def _parted(samples: int, held_out: int, set_aside: int, seed: int) -> tuple[Indices, Indices, Indices]:
    """Which samples are held out, which set aside, and which are left to fit the weights."""
    order = random.generator(seed, random.SHUFFLE).permutation(samples)
    held, apart, rest = (np.sort(part) for part in np.split(order, [held_out, held_out + set_aside]))
    return held, apart, rest


def judges(dataset: Dataset, training: "Provenance | None") -> tuple[Dataset, Portion | None]:
    """The samples of a dataset that may judge a model.

    Returns: all of it, and None; where it is the very data of the training, the samples that this set aside or, where
        it set none aside, those that it held out, which have chosen the best epoch; and which of the two.

    Raises:
        DataError: a sample cannot be read.
    """
    # Only as many samples can be the same ones: other data need not be read whole.
    if training is None or training.samples != len(dataset):
        return dataset, None
    aside, seed = training.settings.get("set_aside", 0), training.settings.get("seed", 0)
    split = Split.of(dataset, training.held_out, aside, seed)
    if split.sha256() != training.dataset_sha256:
        return dataset, None
    held, apart, _ = _parted(len(dataset), training.held_out, aside, seed)
    if len(apart):
        return Subset(dataset, apart, split.set_aside, "set aside"), "set_aside"
    return Subset(dataset, held, split.held_out, "held out"), "held_out"


def unseen(dataset: Dataset, training: "Provenance | None") -> Dataset:
    """The samples of a dataset that neither fitted nor chose a model: all of it, or what its training set aside of it.

    Raises:
        DataError: the model was trained on it, and nothing was set aside; or a sample cannot be read.
    """
    found, portion = judges(dataset, training)
    if portion == "held_out":
        raise DataError(
            f"{dataset.source}: the model was trained on it, and none of it was set aside; give data that the model "
            "has not seen"
        )
    return found


class Recipe(Frozen):
    """All that decides the outcome of a training; the same recipe resumes a run, another one is refused."""

    dataset: str
    dataset_sha256: str
    samples: int
    config: ModelConfig
    settings: TrainingSettings

    @classmethod
    def plan(
        cls, dataset: Dataset, *, network: Wishes, likelihood: Wishes, latent: int | None, settings: Wishes
    ) -> "tuple[Recipe, Split]":
        """Choose what was not wished for, and split the samples.

        Args:
            dataset: read whole into memory here.
            network, likelihood: wished-for keys of their configurations, with or without `name`.
            latent: the wished-for size of the latent.
            settings: wished-for keys of `TrainingSettings`.

        Raises:
            ConfigError: a wish that does not go with the data or with another wish.
            DataError: the samples cannot be read, are too few, or are out of the likelihood's range.
        """
        # What is wrong with a setting is said before the data is read.
        checked = _settings({"epochs": 1, "held_out": 1, **settings})
        split = Split.of(dataset, settings.get("held_out"), settings.get("set_aside"), checked.seed)
        data = default_data(dataset, split.fit)
        config = ModelConfig.build(
            data=data.model_dump(),
            network=_wished(network, default_network(data, len(split.fit), network.get("name"))),
            latent=default_latent(data, len(split.fit)) if latent is None else latent,
            likelihood=_wished(likelihood, default_likelihood(data, split.fit, likelihood.get("name"))),
        )
        _require_samples(config, split, dataset.source)
        _require_neighbours(config, settings)
        settings = {"batch_size": default_batch_size(len(split.fit)), **settings}
        chosen = {
            "epochs": default_epochs(len(split.fit), settings["batch_size"]),
            "optimizer": "muon" if config.network.name == "conv" else "adamw",
            **({} if config.likelihood.has_auxiliary_loss else {"auxiliary": 0.0}),
            **settings,
            "held_out": len(split.held_out),
            "set_aside": len(split.set_aside),
        }
        recipe = cls(
            dataset=dataset.source,
            dataset_sha256=split.sha256(),
            samples=len(split.fit) + len(split.held_out) + len(split.set_aside),
            config=config,
            settings=_settings(chosen),
        )
        return recipe, split


def _settings(values: Wishes) -> TrainingSettings:
    try:
        return TrainingSettings(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def _wished(wishes: Wishes, default: Network | Likelihood) -> Wishes:
    """The wishes, completed by the default; a name that has no default is left to the configuration to refuse."""
    return {**default.model_dump(), **wishes}


def _require_neighbours(config: ModelConfig, settings: Wishes) -> None:
    if settings.get("auxiliary") and not config.likelihood.has_auxiliary_loss:
        raise ConfigError("auxiliary: is a loss of autoregressive likelihoods alone; leave it away, or make it 0")


def _require_samples(config: ModelConfig, split: Split, source: str) -> None:
    try:
        config.likelihood.require_samples(config.data, split.fit, (split.held_out, split.set_aside))
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def default_data(dataset: Dataset, fit: Array) -> ImageData | VectorData:
    """What the model is told of the data; the standardization is measured on the samples that fit the weights."""
    if len(dataset.shape) == 3:
        channels, height, width = dataset.shape
        return _image_data(dataset.source, height, width, channels)
    mean, std = fit.mean(axis=0, dtype=np.float64), fit.std(axis=0, dtype=np.float64)
    # A column that does not vary beyond the rounding of float32 has no scale of its own; 1 leaves it in its units.
    std[(std <= 1e-7 * np.abs(mean)) | (std < 1e-30)] = 1.0
    try:
        return VectorData(columns=dataset.columns, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    except ValidationError as error:
        raise DataError(f"{dataset.source}: {explain(error)[:500]}") from error


def _image_data(source: str, height: int, width: int, channels: int) -> ImageData:
    try:
        return ImageData(height=height, width=width, channels=3 if channels == 3 else 1)
    except ValidationError as error:
        raise DataError(f"{source}: {explain(error)}") from error


def default_network(data: ImageData | VectorData, samples: int, name: str | None = None) -> Network:
    """`conv` for images of 16 pixels and more a side, halved until some 8 pixels are left; `mlp` for the rest, linear
    where so few samples fit a vector model that it would learn them by heart.
    """
    if name == "conv" or (name is None and isinstance(data, ImageData) and min(data.height, data.width) >= 16):
        side = min(data.height, data.width) if isinstance(data, ImageData) else 16
        stages = max(2, round(math.log2(side / 8)))
        return ConvNetwork(channels=(32, 64, 128, 128, 128, 128, 128)[:stages], blocks=(1, 2, 2, 2, 2, 2, 2)[:stages])
    if isinstance(data, ImageData):
        return MLPNetwork()
    width = 64 if data.dims <= 64 else 256
    return MLPNetwork(hidden=() if samples < FEW else (width, width))


def default_latent(data: ImageData | VectorData, samples: int) -> int:
    """64 for images; from 2 to 32 for vectors: half as many as columns, a sixth where few samples fit the model."""
    if isinstance(data, ImageData):
        return 64
    return min(32, max(2, data.dims // (6 if samples < FEW else 2)))


def default_likelihood(data: ImageData | VectorData, samples: Array, name: str | None = None) -> Likelihood:
    """The named likelihood, else the one that is the default for samples like these, with its settings for the data."""
    kind = LIKELIHOODS.get(name or "") or next(kind for kind in LIKELIHOODS.values() if kind.is_default_for(samples))
    return kind.default_for(data)


def default_batch_size(samples: int) -> int:
    """128; fewer where samples are so few that 1,000 epochs would not make 8,000 steps, but no less than 16."""
    return min(128, max(16, samples * MOST_EPOCHS // STEPS))


def default_epochs(samples: int, batch_size: int) -> int:
    """As many as make some 8,000 steps, from 20 to 1,000."""
    return min(MOST_EPOCHS, max(20, round(STEPS / math.ceil(samples / batch_size))))
