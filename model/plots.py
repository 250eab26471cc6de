"""Pictures of a run and of a report, drawn with matplotlib (the `train` extra), each a PNG in a folder.

Of a run: learning curves, reconstructions, samples, latents. Of a report: free energies, rate per dimension.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from model import files, noise
from model.config import VectorData
from model.evaluation import Report
from model.projection import Plane
from model.recipe import Split
from model.run import Run
from model.training import Record
from model.vae import VAE, to_tensor

Array = NDArray[Any]
SHOWN = 16
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120}


def draw_run(run: Run, split: Split) -> None:
    """Draw all pictures of a run into its folder, of the averaged weights as they are now.

    Raises:
        OSError: one cannot be written; it names which.
    """
    folder = run.folder / "plots"
    folder.mkdir(exist_ok=True)
    vae = run.training.average
    with mpl.rc_context(STYLE), torch.inference_mode():
        _save(learning_curves(run.records), folder / "learning_curves.png")
        shown = to_tensor(split.held_out[:SHOWN], run.recipe.settings.device)
        _save(reconstructions(vae, shown), folder / "reconstructions.png")
        _save(samples(vae), folder / "samples.png")
        few = to_tensor(split.held_out[:4000], run.recipe.settings.device)
        means = torch.cat([vae.encode(part).mean for part in torch.split(few, 256)]).cpu().numpy()
        labels = None if split.held_out_labels is None else split.held_out_labels[:4000]
        _save(latent_map(means, labels), folder / "latents.png")


def draw_report(report: Report, free_energy: NDArray[np.float64], folder: Path) -> None:
    """Draw what a report says: the spread of free energies, and the rate of each latent dimension."""
    with mpl.rc_context(STYLE):
        _save(free_energies(report, free_energy), folder / "free_energy.png")
        _save(rates(report), folder / "rate_per_dimension.png")


def free_energies(report: Report, free_energy: NDArray[np.float64]) -> Figure:
    """A histogram with percentiles, and how many samples cost more than a given free energy, which shows the tail."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(free_energy, bins=min(80, max(10, len(free_energy) // 20)), color="tab:blue")
    for percentile in ("5", "50", "95"):
        value = report.free_energy_percentiles[percentile]
        left.axvline(value, color="tab:gray", linewidth=1)
        left.annotate(f"{percentile} %", (value, 1), xycoords=("data", "axes fraction"), rotation=90, va="top")
    left.set(xlabel="free energy (nats per sample)", ylabel="samples", title=f"{report.samples:,} held-out samples")
    ordered = np.sort(free_energy)[::-1]
    right.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color="tab:blue")
    right.set_yscale("log")
    right.set(xlabel="free energy (nats per sample)", ylabel="share that costs as much or more", title="The tail")
    return figure


def rates(report: Report) -> Figure:
    """The rate of each latent dimension in falling order; what carries nothing lies at zero."""
    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(1, report.latent + 1), report.rate_per_dimension, width=1.0, color="tab:green")
    axes.set(
        xlabel="latent dimension, by rate",
        ylabel="rate (nats)",
        title=f"{report.active_units} of {report.latent} dimensions active; {sum(report.rate_per_dimension):.1f} nats",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def learning_curves(records: list[Record]) -> Figure:
    """Free energy in training and on held-out samples, and the two terms of the latter, by epoch, in nats."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    left.plot(epochs, [record.train_free_energy for record in records], label="in training", color="tab:gray")
    left.plot(epochs, [record.free_energy for record in records], label="held out", color="tab:blue")
    values = np.array([(record.train_free_energy, record.free_energy) for record in records])
    # The first epochs lie so far above the rest that they would flatten all that is worth seeing.
    low, high = values.min(), np.quantile(values, 0.9)
    left.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
    left.set(xlabel="epoch", ylabel="free energy (nats per sample)", title="Free energy")
    left.legend(frameon=False)
    right.plot(epochs, [record.distortion for record in records], color="tab:orange")
    right.set_ylabel("distortion (nats per sample)", color="tab:orange")
    twin = right.twinx()
    twin.plot(epochs, [record.rate for record in records], color="tab:green")
    twin.set_ylabel("rate (nats per sample)", color="tab:green")
    twin.spines["right"].set_visible(True)
    right.set(xlabel="epoch", title="Its two terms, held out")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def reconstructions(vae: VAE, x: Float[Tensor, "batch *data"]) -> Figure:
    """Held-out samples above the mean of P(x|z) at the mean of their Q."""
    rebuilt = vae.decode(vae.encode(x).mean).mean
    if isinstance(vae.config.data, VectorData):
        return _columns(vae.config.data, {"input": x, "reconstruction": rebuilt}, "Held-out rows and reconstructions")
    figure = Figure(figsize=(len(x) * 0.62, 1.75), layout="constrained")
    grid = figure.subplots(2, len(x), squeeze=False)
    for column, (above, below) in enumerate(zip(x, rebuilt, strict=True)):
        _show(grid[0, column], above)
        _show(grid[1, column], below)
    figure.suptitle("Held-out inputs (above) and their reconstructions (below)")
    return figure


def samples(vae: VAE, rows: int = 6, columns: int = 12) -> Figure:
    """The mean of P(x|z) for z from the prior, seed 0."""
    z = torch.from_numpy(noise.normal(0, (rows * columns, vae.config.latent))).to(vae.origin.device)
    drawn = vae.decode(z).mean
    if isinstance(vae.config.data, VectorData):
        return _columns(vae.config.data, {"sample": drawn}, "Samples from the prior")
    figure = Figure(figsize=(columns * 0.6, rows * 0.6 + 0.3), layout="constrained")
    for axes, picture in zip(figure.subplots(rows, columns).flat, drawn, strict=True):
        _show(axes, picture)
    figure.suptitle("Samples: the mean of P(x|z), z from the prior")
    return figure


def principal_plane(means: Array) -> tuple[Array, float]:
    """Latent means projected on their first two principal axes (n x 2), and the share of variance these hold."""
    plane = Plane.fit(means)
    return plane(means), float(plane.explained.sum())


def latent_map(means: Array, labels: NDArray[np.int64] | None) -> Figure:
    """Held-out latent means on their first two principal axes, coloured by label where there are labels."""
    plane, share = principal_plane(means)
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axes = figure.subplots()
    if labels is None:
        axes.scatter(plane[:, 0], plane[:, 1], s=4, linewidths=0)
    else:
        for index, label in enumerate(np.unique(labels)[:20]):
            here = plane[labels == label]
            colour = mpl.colormaps["tab20"](2 * index % 20 + index // 10)
            axes.scatter(here[:, 0], here[:, 1], s=4, linewidths=0, color=colour, label=str(label))
        axes.legend(title="label", markerscale=3, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(
        xlabel="first principal axis",
        ylabel="second principal axis",
        title=f"Latent means of {len(means):,} held-out samples ({share:.0%} of their variance)",
    )
    return figure


def _columns(data: VectorData, groups: dict[str, Tensor], title: str) -> Figure:
    """Rows of a table as lines over the columns, each in its own standard deviations."""
    names = data.columns[:40]
    figure = Figure(figsize=(max(6.0, 0.3 * len(names)), 3.6), layout="constrained")
    axes = figure.subplots()
    shift, unit = np.array(data.mean), np.array(data.std)
    for (label, values), style in zip(groups.items(), ("-", "--"), strict=False):
        standard = (values.cpu().numpy() - shift) / unit
        for index, row in enumerate(standard[:5]):
            axes.plot(row[: len(names)], style, color=f"C{index}", label=label if index == 0 else None)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set(ylabel="standard deviations from the mean", title=title)
    axes.legend(frameon=False)
    return figure


def _show(axes: Axes, picture: Float[Tensor, "channels h w"]) -> None:
    axes.imshow(picture.permute(1, 2, 0).cpu().numpy().squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write_whole(path, picture.getvalue())
