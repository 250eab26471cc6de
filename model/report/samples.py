"""Samples and their reconstructions as HTML: images as pictures, rows of a table as tables of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from model import random
from model.config import ImageData, VectorData
from model.datasets import Dataset, Subset
from model.report import pictures
from model.report.blocks import block
from model.report.text import number, short
from model.scoring.batches import BATCH_ROWS, in_batches
from model.vae import VAE, to_tensor

Array = NDArray[Any]
#: Most columns of a table that are shown, and most of the surprising columns of a row.
MAX_COLUMNS, MAX_SURPRISING_COLUMNS = 40, 5
#: RMSE of a column's reconstructions relative to its standard deviation from which the column counts as unlearned.
UNLEARNED_RMSE = 0.95


@dataclass(frozen=True)
class Reconstructions:
    """n samples and their reconstructions."""

    names: list[str]
    free_energy: NDArray[np.float64]  # nats
    x: Array
    mean: Array  # of P(x|z) at the mean of Q
    nlog: Array  # nlog P(x_i|z) there, nats; of real columns with the standard deviation of each as its unit

    def __len__(self) -> int:
        return len(self.names)


def read_samples(dataset: Dataset, indices: Sequence[int]) -> Array:
    """Read the samples with these indices, in this order."""
    samples: dict[int, Array] = {}
    wanted, first = set(indices), 0
    for batch in dataset.batches(BATCH_ROWS):
        samples |= {index: batch[index - first] for index in wanted if first <= index < first + len(batch)}
        first += len(batch)
    return np.stack([samples[index] for index in indices])


def reconstruct(
    vae: VAE, dataset: Dataset, indices: Sequence[int], free_energy: NDArray[np.float64]
) -> Reconstructions:
    """Reconstruct the samples with these indices; `free_energy` is that of every sample of the dataset."""
    parts: list[tuple[Array, ...]] = []
    with torch.inference_mode():
        for batch in in_batches(read_samples(dataset, indices)):
            x = to_tensor(batch, str(vae.device))
            p = vae.decode(vae.encode(x).mean)
            parts.append(tuple(tensor.cpu().numpy() for tensor in (x, p.mean, p.nlog_prob(x))))
    inputs, mean, nlog = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    data = vae.config.data
    if isinstance(data, VectorData) and vae.levels is None:
        # A density depends on the unit of its column: a length in metres would cost more than in kilometres.
        nlog = nlog - np.log(np.array(data.std))
    return Reconstructions(sample_names(dataset, indices), free_energy[list(indices)], inputs, mean, nlog)


def sample_names(dataset: Dataset, indices: Sequence[int]) -> list[str]:
    """Name of each sample within its source, with its label if it has one."""
    labels, label_names = dataset.labels(), dataset.label_names()
    source = dataset.whole.source if isinstance(dataset, Subset) else dataset.source
    names = []
    for index in indices:
        name = dataset.name_of(index).removeprefix(source).lstrip("/")
        label = "" if labels is None else f" ({label_names[labels[index]] if label_names else labels[index]})"
        names.append(name + label)
    return names


def surprises(samples: Reconstructions, data: ImageData | VectorData) -> Markup:
    """Each sample with its free energy and what surprises in it: a map of its pixels, or a table of its columns."""
    if isinstance(data, VectorData):
        return block("plots", [_surprising_columns(samples, index, data) for index in range(len(samples))])
    top = max(float(samples.nlog.mean(axis=1).max()), 1e-9)
    items = []
    for index, name in enumerate(samples.names):
        surprise = samples.nlog[index].mean(axis=0, keepdims=True) / top
        row = _pair(samples, index) + pictures.image(surprise, f"Surprise by pixel of sample {name}")
        items.append(block("figure", block("row", row), f"{name}: {number(samples.free_energy[index])} nats"))
    return block("samples", items, "surprises")


def _surprising_columns(samples: Reconstructions, index: int, data: VectorData) -> Markup:
    x, mean, nlog = samples.x[index], samples.mean[index], samples.nlog[index]
    rows = [
        (data.columns[i], short(float(x[i])), short(float(mean[i])), number(float(nlog[i])))
        for i in np.argsort(-nlog, kind="stable")[:MAX_SURPRISING_COLUMNS]
    ]
    caption = f"Sample {samples.names[index]}: {number(samples.free_energy[index])} nats"
    return block("table", caption, ("column", "value", "reconstruction", "surprise, nats"), rows)


def _pair(samples: Reconstructions, index: int) -> Markup:
    """An image and its reconstruction."""
    name = samples.names[index]
    original = pictures.image(samples.x[index], f"Sample {name}")
    return original + pictures.image(samples.mean[index], f"Reconstruction of sample {name}")


def pairs(samples: Reconstructions, data: ImageData | VectorData) -> Markup:
    """Images above their reconstructions, or a table of a few rows beside theirs."""
    if isinstance(data, ImageData):
        return block("samples", [_pair(samples, index) for index in range(len(samples))])
    shown = range(min(4, len(samples)))
    head = ["column", *(f"{samples.names[i]}{suffix}" for i in shown for suffix in ("", ", decoded"))]
    values = [values[i] for i in shown for values in (samples.x, samples.mean)]
    return _table("Some samples and their reconstructions (decoded)", head, values, data)


def column_rmse(samples: Reconstructions, data: VectorData) -> tuple[tuple[str, ...], list[float]]:
    """Names of the shown columns and the RMSE of their reconstructions, in standard deviations of the column."""
    errors = (samples.x - samples.mean).astype(np.float64) / np.array(data.std)
    return data.columns[:MAX_COLUMNS], np.sqrt(np.square(errors).mean(axis=0))[:MAX_COLUMNS].tolist()


def unlearned(samples: Reconstructions, data: VectorData) -> list[str]:
    """Names of all columns that their mean over these samples predicts nearly as well as the model does."""
    x = samples.x.astype(np.float64)
    rmse, std = (np.sqrt(np.square(errors).mean(axis=0)) for errors in (x - samples.mean, x - x.mean(axis=0)))
    return [data.columns[i] for i in np.flatnonzero((rmse >= UNLEARNED_RMSE * std) & (std > 0))]


@torch.inference_mode()
def prior_samples(vae: VAE) -> Markup:
    """Decoded draws from the prior, seed 0: 24 images, or 6 rows of a table."""
    data = vae.config.data
    count = 24 if isinstance(data, ImageData) else 6
    p = vae.decode(vae.sample_prior(count))
    if isinstance(data, ImageData):
        images = enumerate(p.mean.cpu().numpy(), 1)
        return block("samples", [pictures.image(x, f"Sample {index} from the prior") for index, x in images])
    # The means vary less than the data, and hardly at all in a column that the latent does not determine.
    rows = p.sample(torch.from_numpy(random.uniform(0, range(count), data.shape)).to(vae.device)).cpu().numpy()
    return _table("Samples from the prior", ["column", *map(str, range(1, count + 1))], list(rows), data)


def _table(caption: str, head: Sequence[str], values: Sequence[Array], data: VectorData) -> Markup:
    """A table with one line for each column of the data and one column for each row of `values`."""
    more = len(data.columns) - MAX_COLUMNS
    caption += f" (the first {MAX_COLUMNS} columns; {more} more are left out)" if more > 0 else ""
    rows = [
        [name, *(short(float(row[column])) for row in values)] for column, name in enumerate(data.columns[:MAX_COLUMNS])
    ]
    return block("table", caption, head, rows)
