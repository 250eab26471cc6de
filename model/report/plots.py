"""Plots of a training run and of a report, drawn with matplotlib (the `train` extra).

Functions `draw_<name>` that take axes draw one plot, for a page or a part of a figure.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from model import files
from model.config import VectorData
from model.projection import PCAProjection
from model.record import EpochRecord
from model.report.evaluation import Report
from model.training.run import Run
from model.training.splits import Split
from model.vae import VAE, to_tensor

Array = NDArray[Any]
#: Most held-out samples that a figure of reconstructions shows.
MAX_SHOWN = 16
#: Formulas are off, because names of columns and labels may contain a dollar sign.
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 120,
    "text.parse_math": False,
}


def draw_run(run: Run, split: Split, vae: VAE) -> None:
    """Write the plots of a run and of this model of it, as PNG files into its folder `plots`.

    Raises:
        OSError: a file cannot be written; the error names it.
    """
    folder = run.folder / "plots"
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE), torch.inference_mode():
        _save(learning_curves(run.records), folder / "learning_curves.png")
        shown = to_tensor(split.validation[:MAX_SHOWN], run.config.settings.device)
        _save(reconstructions(vae, shown), folder / "reconstructions.png")
        _save(samples(vae), folder / "samples.png")
        few = to_tensor(split.validation[:4000], run.config.settings.device)
        means = torch.cat([vae.encode(part).mean for part in torch.split(few, 256)]).cpu().numpy()
        labels = None if split.validation_labels is None else split.validation_labels[:4000]
        _save(latent_map(means, labels), folder / "latents.png")


def draw_report(report: Report, free_energy: NDArray[np.float64], folder: Path) -> None:
    """Write the histogram of free energies and the divergence of each latent dimension as PNG files into a folder."""
    with mpl.rc_context(STYLE):
        _save(free_energies(report, free_energy), folder / "free_energy.png")
        _save(kl_to_normal(report), folder / "kl_to_normal.png")


def free_energies(report: Report, free_energy: NDArray[np.float64]) -> Figure:
    """A histogram of free energies (n, nats) with percentiles, and their tail."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_spread(left, report, free_energy)
    draw_tail(right, free_energy)
    return figure


def draw_spread(axes: Axes, report: Report, free_energy: NDArray[np.float64]) -> None:
    """Draw a histogram of free energies (n, nats) with percentiles."""
    axes.hist(free_energy, bins=min(80, max(10, len(free_energy) // 20)), color="tab:blue")
    for percentile in ("5", "50", "95"):
        value = report.free_energy_percentiles[percentile]
        axes.axvline(value, color="tab:gray", linewidth=1)
        axes.annotate(f"{percentile} %", (value, 1), xycoords=("data", "axes fraction"), rotation=90, va="top")
    # Room above the bars for the labels of the lines.
    axes.set_ylim(top=1.18 * axes.get_ylim()[1])
    axes.set(xlabel="free energy (nats per sample)", ylabel="samples", title=f"{report.samples:,} held-out samples")


def draw_tail(axes: Axes, free_energy: NDArray[np.float64]) -> None:
    """Draw the share of samples with at least a given free energy (n, nats)."""
    ordered = np.sort(free_energy)[::-1]
    axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color="tab:blue")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="free energy (nats per sample)", ylabel="share with at least this free energy", title="The tail")


def kl_to_normal(report: Report, active: NDArray[np.bool_] | None = None) -> Figure:
    """KL(Q, N(0, 1)) of each latent dimension, in falling order."""
    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    draw_kl_to_normal(figure.subplots(), report, active)
    return figure


def draw_kl_to_normal(axes: Axes, report: Report, active: NDArray[np.bool_] | None = None) -> None:
    """Draw KL(Q, N(0, 1)) of each latent dimension, in falling order.

    Args:
        active: True for each active dimension, in that order; inactive ones get a colour of their own.
    """
    mask = np.ones(report.latent, bool) if active is None else active
    places, heights = np.arange(1, report.latent + 1), np.array(report.kl_to_normal)
    axes.bar(places, heights, width=1.0, color=np.where(mask, "tab:green", "tab:red"), label="active")
    if not mask.all():
        # Bars of inactive dimensions are mostly too low to see.
        axes.plot(places[~mask], heights[~mask], "x", color="tab:red", markersize=3, label="inactive", clip_on=False)
    if active is not None:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], frameon=False)
    axes.set(
        xlabel="latent dimension, by divergence",
        ylabel="KL(Q, N(0, 1)) (nats)",
        title=f"{report.active_units} of {report.latent} dimensions active; {sum(report.kl_to_normal):.1f} nats",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def learning_curves(records: list[EpochRecord]) -> Figure:
    """Free energy in training and on held-out samples, and the terms of the latter, by epoch, in nats."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_course(left, records)
    draw_terms(right, records)
    return figure


def draw_course(axes: Axes, records: list[EpochRecord]) -> None:
    """Draw free energy in training and on held-out samples, by epoch."""
    epochs = [record.epoch for record in records]
    axes.plot(epochs, [record.train_free_energy for record in records], label="in training", color="tab:gray")
    axes.plot(epochs, [record.free_energy for record in records], label="held out", color="tab:blue")
    values = np.array([(record.train_free_energy, record.free_energy) for record in records])
    # The first epochs lie so far above the rest that they would flatten the curve.
    low, high = values.min(), np.quantile(values, 0.9)
    axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9)
    axes.set(xlabel="epoch", ylabel="free energy (nats per sample)", title="Free energy")
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_terms(axes: Axes, records: list[EpochRecord]) -> None:
    """Draw distortion and rate on held-out samples, by epoch."""
    epochs = [record.epoch for record in records]
    axes.plot(epochs, [record.distortion for record in records], color="tab:orange")
    axes.set_ylabel("distortion (nats per sample)", color="tab:orange")
    twin = axes.twinx()
    twin.plot(epochs, [record.rate for record in records], color="tab:green")
    twin.set_ylabel("rate (nats per sample)", color="tab:green")
    twin.spines["right"].set_visible(True)
    axes.set(xlabel="epoch", title="Distortion and rate, held out")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def reconstructions(
    vae: VAE, x: Float[Tensor, "batch *data"], title: str = "Held-out inputs (above) and their reconstructions (below)"
) -> Figure:
    """Samples above their reconstructions, the mean of P(x|z) at the mean of Q; of a table, both as lines."""
    mean = vae.decode(vae.encode(x).mean).mean
    if isinstance(vae.config.data, VectorData):
        return _columns(vae.config.data, {"input": x, "reconstruction": mean}, "Held-out rows and reconstructions")
    figure = Figure(figsize=(max(4.0, len(x) * 0.62), 1.75), layout="constrained")
    grid = figure.subplots(2, len(x), squeeze=False)
    for column, (above, below) in enumerate(zip(x, mean, strict=True)):
        _show(grid[0, column], above)
        _show(grid[1, column], below)
    figure.suptitle(title)
    return figure


def samples(vae: VAE, rows: int = 6, columns: int = 12) -> Figure:
    """The mean of P(x|z) for z from the prior, seed 0."""
    mean = vae.decode(vae.sample_prior(rows * columns)).mean
    if isinstance(vae.config.data, VectorData):
        return _columns(vae.config.data, {"sample": mean}, "Samples: the mean of P(x|z), z from the prior")
    figure = Figure(figsize=(columns * 0.6, rows * 0.6 + 0.3), layout="constrained")
    for axes, picture in zip(figure.subplots(rows, columns).flat, mean, strict=True):
        _show(axes, picture)
    figure.suptitle("Samples: the mean of P(x|z), z from the prior")
    return figure


def principal_plane(means: Array) -> tuple[Array, float]:
    """Latent means (n x latent) projected on their first two principal axes (n x 2), and their share of variance."""
    plane = PCAProjection.fit(means)
    return plane(means), float(plane.explained.sum())


def latent_map(
    means: Array,
    labels: NDArray[np.int64] | None,
    names: tuple[str, ...] | None = None,
    free_energy: NDArray[np.float64] | None = None,
) -> Figure:
    """Latent means on their first two principal axes, coloured as by `draw_map`."""
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    draw_map(figure.subplots(), means, labels, names, free_energy)
    return figure


def draw_map(
    axes: Axes,
    means: Array,
    labels: NDArray[np.int64] | None,
    names: tuple[str, ...] | None = None,
    free_energy: NDArray[np.float64] | None = None,
) -> None:
    """Draw latent means (n x latent) on their first two principal axes.

    Args:
        labels: of the samples (n); they decide the colours. At most 20 labels are drawn.
        names: of the labels.
        free_energy: of the samples (n, nats); it decides the colours if there are no labels.
    """
    plane, share = principal_plane(means)
    size = float(np.clip(6000 / len(plane), 4, 20))
    if labels is not None:
        for index, label in enumerate(np.unique(labels)[:20]):
            points = plane[labels == label]
            colour = mpl.colormaps["tab20"](2 * index % 20 + index // 10)
            name = names[label] if names else str(label)
            axes.scatter(points[:, 0], points[:, 1], s=size, linewidths=0, color=colour, label=name, rasterized=True)
        axes.legend(title="label", markerscale=3, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    elif free_energy is not None:
        # Without these limits, a few outliers would leave a single colour to the rest.
        low, high = np.percentile(free_energy, (1, 99))
        scatter = axes.scatter(
            plane[:, 0], plane[:, 1], s=size, linewidths=0, c=free_energy, vmin=low, vmax=high, rasterized=True
        )
        axes.figure.colorbar(scatter, ax=axes, label="free energy (nats)", extend="both")
    else:
        axes.scatter(plane[:, 0], plane[:, 1], s=size, linewidths=0, rasterized=True)
    axes.set(
        xlabel="first principal axis",
        ylabel="second principal axis",
        title=f"{len(means):,} means of held-out samples ({share:.0%} of their variance)",
    )


def draw_column_rmse(axes: Axes, names: tuple[str, ...], rmse: Sequence[float]) -> None:
    """Draw the RMSE of reconstructions by column, in standard deviations of the column."""
    axes.barh(range(len(names)), rmse, color="tab:purple")
    axes.axvline(1, color="tab:gray", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="root mean square error (standard deviations)", title="Error of reconstructions by column")


def _columns(data: VectorData, groups: dict[str, Tensor], title: str) -> Figure:
    """Rows of a table as lines over the columns, each column in its standard deviations."""
    names = data.columns[:40]
    figure = Figure(figsize=(7.0, 1.6 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    shift, unit = np.array(data.mean), np.array(data.std)
    for (label, values), style in zip(groups.items(), ("-", "--"), strict=False):
        standard = (values.cpu().numpy() - shift) / unit
        for index, row in enumerate(standard[:5]):
            axes.plot(
                row[: len(names)], range(len(names)), style, color=f"C{index}", label=label if index == 0 else None
            )
    axes.set_yticks(range(len(names)), [name if len(name) <= 32 else f"{name[:31]}…" for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="standard deviations from the mean of the column", title=title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _show(axes: Axes, picture: Float[Tensor, "channels h w"]) -> None:
    # The mean of a Gaussian can lie outside the range of pixels, of which matplotlib would warn.
    pixels = picture.clamp(0, 1).permute(1, 2, 0).cpu().numpy().squeeze()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")


def png(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _save(figure: Figure, path: Path) -> None:
    files.write_atomic(path, png(figure))
