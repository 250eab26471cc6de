"""Samples to look at, before and after the latent: images as pictures, vectors as tables of their columns."""

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
#: Columns of a table that are shown, and of the costliest of a sample.
COLUMNS, COSTLIEST = 40, 5
#: How little better than the mean of a column the model may rebuild it, to know nothing of it.
BLIND = 0.95


@dataclass(frozen=True)
class Look:
    """Some samples as the model has them, n of each."""

    names: list[str]
    free_energy: NDArray[np.float64]
    x: Array
    rebuilt: Array  # the mean of P(x|z) at the mean of Q
    nlog: Array  # nlog P(x_i|z) there, nats; of real columns with the standard deviation of each as its unit

    def __len__(self) -> int:
        return len(self.names)


def pick(dataset: Dataset, indices: Sequence[int]) -> Array:
    """These samples, in this order."""
    found: dict[int, Array] = {}
    wanted, first = set(indices), 0
    for batch in dataset.batches(BATCH_ROWS):
        for index in sorted(wanted):
            if first <= index < first + len(batch):
                found[index] = batch[index - first]
        first += len(batch)
    return np.stack([found[index] for index in indices])


def look(vae: VAE, dataset: Dataset, indices: Sequence[int], free_energy: NDArray[np.float64]) -> Look:
    """At these samples of the data, of which all free energies are given."""
    picked = pick(dataset, indices)
    parts: list[tuple[Array, ...]] = []
    with torch.inference_mode():
        for batch in in_batches(picked):
            x = to_tensor(batch, str(vae.device))
            p = vae.decode(vae.encode(x).mean)
            parts.append(tuple(tensor.cpu().numpy() for tensor in (x, p.mean, p.nlog_prob(x))))
    given, built, nlog = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    data = vae.config.data
    if isinstance(data, VectorData) and vae.levels is None:
        # A density has the unit of its column: metres would cost more than kilometres.
        nlog = nlog - np.log(np.array(data.std))
    return Look(_names(dataset, indices), free_energy[list(indices)], given, built, nlog)


def _names(dataset: Dataset, indices: Sequence[int]) -> list[str]:
    labels, called = dataset.labels(), dataset.label_names()
    source = dataset.whole.source if isinstance(dataset, Subset) else dataset.source
    found = []
    for index in indices:
        name = dataset.name_of(index).removeprefix(source).lstrip("/")
        label = "" if labels is None else f" ({called[labels[index]] if called else labels[index]})"
        found.append(name + label)
    return found


def surprises(seen: Look, data: ImageData | VectorData) -> Markup:
    """Each sample with its free energy: the image, its reconstruction and where the surprise sits; or the columns that
    cost most.
    """
    if isinstance(data, VectorData):
        return block("plots", [_costliest(seen, index, data) for index in range(len(seen))])
    top = max(float(seen.nlog.mean(axis=1).max()), 1e-9)
    items = []
    for name, cost, x, rebuilt, nlog in zip(seen.names, seen.free_energy, seen.x, seen.rebuilt, seen.nlog, strict=True):
        row = (
            pictures.image(x, f"Sample {name}")
            + pictures.image(rebuilt, f"Reconstruction of sample {name}")
            + pictures.image(nlog.mean(axis=0, keepdims=True) / top, f"Where the surprise of sample {name} sits")
        )
        items.append(block("figure", block("row", row), f"{name}: {number(cost)} nats"))
    return block("samples", items, "looks")


def _costliest(seen: Look, index: int, data: VectorData) -> Markup:
    order = np.argsort(-seen.nlog[index], kind="stable")[:COSTLIEST]
    rows = [
        (
            data.columns[i],
            short(float(seen.x[index, i])),
            short(float(seen.rebuilt[index, i])),
            number(float(seen.nlog[index, i])),
        )
        for i in order
    ]
    caption = f"Sample {seen.names[index]}: {number(seen.free_energy[index])} nats"
    return block("table", caption, ("column", "value", "rebuilt", "surprise, nats"), rows)


def rebuilt(seen: Look, data: ImageData | VectorData) -> Markup:
    """Samples above, or beside, their reconstructions."""
    if isinstance(data, ImageData):
        items = [
            pictures.image(x, f"Sample {name}") + pictures.image(y, f"Reconstruction of sample {name}")
            for name, x, y in zip(seen.names, seen.x, seen.rebuilt, strict=True)
        ]
        return block("samples", items)
    few = range(min(4, len(seen)))
    head = ["column", *(f"{seen.names[i]}{what}" for i in few for what in ("", ", rebuilt"))]
    rows = [
        [name, *(short(float(values[i, column])) for i in few for values in (seen.x, seen.rebuilt))]
        for column, name in enumerate(data.columns[:COLUMNS])
    ]
    return block("table", f"Some samples and their reconstructions{_left_out(data)}", head, rows)


def misses(seen: Look, data: VectorData) -> tuple[tuple[str, ...], list[float]]:
    """Names of columns, and by how many of its standard deviations the reconstruction of each is off."""
    off = (seen.x - seen.rebuilt).astype(np.float64) / np.array(data.std)
    return data.columns[:COLUMNS], np.sqrt(np.square(off).mean(axis=0))[:COLUMNS].tolist()


def blind(seen: Look, data: VectorData) -> list[str]:
    """The columns, all of them considered, that their mean over these samples rebuilds nearly as well as the model."""
    x = seen.x.astype(np.float64)
    off, spread = (np.sqrt(np.square(misses).mean(axis=0)) for misses in (x - seen.rebuilt, x - x.mean(axis=0)))
    return [name for name, here in zip(data.columns, (off >= BLIND * spread) & (spread > 0), strict=True) if here]


@torch.inference_mode()
def samples(vae: VAE, count: int = 24) -> Markup:
    """Draws from the prior, decoded."""
    data = vae.config.data
    number_of = count if isinstance(data, ImageData) else 6
    z = torch.from_numpy(random.normal(0, (number_of, vae.config.latent))).to(vae.device)
    p = vae.decode(z)
    if isinstance(data, ImageData):
        drawn = p.mean.cpu().numpy()
        return block(
            "samples", [pictures.image(x, f"Sample {index + 1} from the prior") for index, x in enumerate(drawn)]
        )
    # Their means would vary less than the data, and hardly at all in a column of which the latent says nothing.
    drawn = p.sample(torch.from_numpy(random.uniform(0, range(number_of), data.shape)).to(vae.device)).cpu().numpy()
    head = ["column", *(str(index + 1) for index in range(number_of))]
    rows = [[name, *(short(float(x[column])) for x in drawn)] for column, name in enumerate(data.columns[:COLUMNS])]
    return block("table", f"Samples from the prior{_left_out(data)}", head, rows)


def _left_out(data: VectorData) -> str:
    more = len(data.columns) - COLUMNS
    return f" (the first {COLUMNS} columns; {more} more are left out)" if more > 0 else ""
