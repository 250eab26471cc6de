"""The report page: one HTML file without scripts or other requests, and its pictures as PNG files in a folder."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from markupsafe import Markup

from model.checkpoint import Checkpoint
from model.config import ImageData
from model.datasets import Dataset
from model.errors import DataError
from model.files import temporary_path, write_synced
from model.record import EpochRecord
from model.report import pictures, plots, samples, text
from model.report.blocks import block, render_page
from model.report.evaluation import Evaluation, Report
from model.report.nearest import Nearest
from model.report.text import number
from model.scoring.batches import MIN_ACTIVE_VARIANCE
from model.scoring.detection import Detection
from model.training.splits import SplitName
from model.vae import to_tensor
from model.warnings import model_warnings, unlearned_columns

#: Most samples on the map, most samples that judge the columns, and number of most and of least surprising samples.
MAX_MAP_SAMPLES, MAX_JUDGING_SAMPLES, EXTREME_SAMPLES = 4000, 1000, 8
#: Fewest samples that can show that a column is unlearned.
MIN_JUDGING_SAMPLES = 100
#: Pictures that a page may lack; an older page may have left them in the folder.
OPTIONAL_PICTURES = ("learning_curves.png", "latents_free_energy.png")
#: How training used the samples.
PORTION_NOTES: dict[SplitName | None, str] = {
    None: "The figures are unbiased only if training neither fitted the model to them nor chose it by them.",
    "set_aside": "Training set them aside: they neither fitted the model nor chose its epoch.",
    "held_out": "Training held them out: they did not fit the model, but chose its epoch.",
}


@dataclass(frozen=True)
class ReportInput:
    """A model, its evaluation on a dataset, its training history, which may be empty, and what its samples are near."""

    checkpoint: Checkpoint
    evaluation: Evaluation
    dataset: Dataset
    records: Sequence[EpochRecord]
    nearest: Nearest | None = None

    @property
    def report(self) -> Report:
        return self.evaluation.report

    @property
    def active(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """True for each active latent dimension, by falling KL(Q, N(0, 1))."""
        order = np.argsort(-self.evaluation.kl_to_normal, kind="stable")
        active: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
            self.evaluation.means.var(axis=0)[order] > MIN_ACTIVE_VARIANCE
        )
        return active

    @cached_property
    def column_rmse(self) -> tuple[tuple[str, ...], list[float]]:
        """Column names and the RMSE of their reconstructions, in standard deviations; empty for images."""
        if isinstance(self.checkpoint.vae.config.data, ImageData):
            return (), []
        return samples.column_rmse(self._judging, self.checkpoint.vae.config.data)

    @cached_property
    def unlearned(self) -> list[str]:
        """Columns that their mean predicts as well as the model does; empty for images or too few samples."""
        if isinstance(self.checkpoint.vae.config.data, ImageData) or self.report.samples < MIN_JUDGING_SAMPLES:
            return []
        return samples.unlearned(self._judging, self.checkpoint.vae.config.data)

    @cached_property
    def _judging(self) -> samples.Reconstructions:
        return self.reconstruct(self.evenly(MAX_JUDGING_SAMPLES))

    def reconstruct(self, indices: Sequence[int]) -> samples.Reconstructions:
        """The samples with these indices and their reconstructions."""
        return samples.reconstruct(self.checkpoint.vae, self.dataset, indices, self.evaluation.free_energy)

    def evenly(self, count: int) -> list[int]:
        """Indices of at most `count` samples, evenly spaced."""
        total = self.report.samples
        return (np.arange(min(count, total)) * total // min(count, total)).tolist()

    def extremes(self) -> tuple[list[int], list[int]]:
        """Indices of the most and of the least surprising samples, most extreme first."""
        order = np.argsort(-self.evaluation.free_energy, kind="stable").tolist()
        return order[:EXTREME_SAMPLES], order[::-1][:EXTREME_SAMPLES]


def write(path: Path, source: ReportInput) -> Path:
    """Write the page to `path`, and its pictures into the folder `<stem>_files` beside it.

    All files are written under temporary names before the first one replaces an older version.

    Returns: the folder of pictures.

    Raises:
        DataError: a file cannot be written; if the disk is full, older versions are untouched.
    """
    folder = path.with_name(f"{path.stem}_files")
    contents = {path: html(source).encode()} | {folder / name: data for name, data in files(source).items()}
    try:
        folder.mkdir(exist_ok=True)
        for file, data in contents.items():
            write_synced(temporary_path(file), data)
        for file in contents:
            os.replace(temporary_path(file), file)
        for name in OPTIONAL_PICTURES:
            if folder / name not in contents:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        for file in contents:
            with suppress(OSError):
                temporary_path(file).unlink()
        raise DataError(
            f"{error.filename or path}: cannot be written ({error.strerror}); make room, or name a file in another "
            "folder"
        ) from error
    return folder


def html(source: ReportInput) -> str:
    """Render the page."""
    card, report, config = source.checkpoint.card, source.report, source.checkpoint.vae.config
    lines = (
        f"{report.samples:,} samples of {report.dataset}; {report.draws} draws each, seed {report.seed}. "
        f"{PORTION_NOTES[report.portion]}",
        f"Model: {config.network.name} for {config.data.describe()}, latent {config.latent}, "
        f"{config.likelihood.name} likelihood; created {card.created}, digest {source.checkpoint.digest[:16]}.",
    )
    warnings = model_warnings(report.plain(), source.records, latent=report.latent, training=card.training)
    warnings += unlearned_columns(source.unlearned)
    rows = block("explained", "Scores of the model and their meaning", ("figure", "value"), text.report_rows(report))
    sections = [
        ("figures", "Figures", rows),
        ("learning", "Learning curves", _learning(source)),
        ("reconstructions", "Reconstructions", _reconstructions(source)),
        ("samples", "Samples", _samples(source)),
        ("latent", "Latent", _latent(source)),
        ("scores", "Scores", _scores(source)),
        ("extremes", "Most and least surprising", _extremes(source)),
    ]
    if report.detection:
        sections.append(("detection", "Outlier detection", _detection(report.detection, card.anomaly_score)))
    title = f"{card.name}: report on held-out data"
    return render_page(title, lines, text.tiles(report), warnings, sections)


def _learning(source: ReportInput) -> Markup:
    records = list(source.records)
    if not records:
        return block("paragraph", "This model comes without its training history.")
    best, own = min(records, key=lambda record: record.free_energy), source.report.portion == "held_out"
    caption = (
        f"Free energy by epoch. On held-out samples it is lowest after epoch {best.epoch}: {number(best.free_energy)} "
        f"nats. These samples chose the epoch, and {'are' if own else 'are not'} those of this report. The training "
        "curve is the mean over the batches of an epoch, each with the weights of its step, and so starts higher. The "
        "first epochs may lie above the frame."
    )
    terms = "Distortion and rate of held-out samples by epoch."
    course = pictures.plot("course", caption, lambda axes: plots.draw_course(axes, records))
    return block("plots", [course, pictures.plot("terms", terms, lambda axes: plots.draw_terms(axes, records))])


def _reconstructions(source: ReportInput) -> Markup:
    data = source.checkpoint.vae.config.data
    intro = "Some of the samples, and their reconstructions: the mean of P(x|z) at the mean of Q."
    if isinstance(data, ImageData):
        intro += " Each sample stands above its reconstruction."
    content = block("paragraph", intro) + samples.pairs(source.reconstruct(source.evenly(plots.MAX_SHOWN)), data)
    if isinstance(data, ImageData):
        return content
    names, rmse = source.column_rmse
    caption = (
        "Root mean square error of the reconstructions by column, in standard deviations of the column. At 1, the "
        "column's mean predicts as well."
    )
    size = (pictures.SIZE[0], 1.2 + 0.2 * len(names))
    plot = pictures.plot("column_rmse", caption, lambda axes: plots.draw_column_rmse(axes, names, rmse), size)
    return content + block("plots", [plot])


def _samples(source: ReportInput) -> Markup:
    vae = source.checkpoint.vae
    intro = "Latents drawn from the prior with seed 0, and decoded. " + (
        "Each image is the mean of P(x|z), without noise."
        if isinstance(vae.config.data, ImageData)
        else "Each value is drawn from P(x|z), with noise."
    )
    content = block("paragraph", intro) + samples.prior_samples(vae)
    return content if source.nearest is None else content + _beside_training(source.nearest)


def _beside_training(nearest: Nearest) -> Markup:
    ours, theirs = (float(np.median(values)) for values in (nearest.distances, nearest.held_out_distances))
    intro = (
        "Below, each sample stands above the training image nearest to it. A model that copies what it was trained on "
        f"would show the same image twice. The median distance of {len(nearest.distances):,} samples to their nearest "
        f"training images is {ours:.3f}; that of reconstructions of {len(nearest.held_out_distances):,} images of this "
        f"report, which are none of them, {theirs:.3f} (root mean square over pixels in [0, 1]). Far smaller distances "
        "of samples would be a sign of copying."
    )
    pairs = [
        pictures.image(sample, f"Sample {i + 1}") + pictures.image(image, f"Training image nearest to sample {i + 1}")
        for i, (sample, image) in enumerate(zip(nearest.samples, nearest.images, strict=True))
    ]
    return block("paragraph", intro) + block("samples", pairs)


def _latent(source: ReportInput) -> Markup:
    report, active, names = source.report, source.active, source.dataset.label_names()
    means, labels, free_energy = _map(source)
    size, figures = (pictures.SIZE[0], 4.4), []
    plane = "Means of Q on their first two principal axes, coloured by"
    if labels is not None:
        caption = f"{plane} label{'' if len(np.unique(labels)) <= 20 else '; the first 20 labels'}."
        figures.append(pictures.plot("labels", caption, lambda axes: plots.draw_map(axes, means, labels, names), size))
    caption = f"{plane} free energy."
    figures.append(
        pictures.plot("costs", caption, lambda axes: plots.draw_map(axes, means, None, free_energy=free_energy), size)
    )
    caption = (
        "KL(Q, N(0, 1)) of each latent dimension, averaged over the samples, in falling order. "
        f"{active.sum()} of {len(active)} are active."
    )
    figures.append(pictures.plot("kl_to_normal", caption, lambda axes: plots.draw_kl_to_normal(axes, report, active)))
    return block("plots", figures)


def _map(source: ReportInput) -> tuple[plots.Array, plots.Array | None, plots.Array]:
    """Means (n x latent), labels (n) and free energies (n, nats) of the samples on the map."""
    indices, labels = source.evenly(MAX_MAP_SAMPLES), source.dataset.labels()
    evaluation = source.evaluation
    return evaluation.means[indices], None if labels is None else labels[indices], evaluation.free_energy[indices]


def _scores(source: ReportInput) -> Markup:
    report, free_energy = source.report, source.evaluation.free_energy
    spread = "Histogram of free energy. The lines mark the 5th, 50th and 95th percentiles."
    tail = "Share of samples with at least this free energy. Outliers should lie to the right of this tail."
    figures = [
        pictures.plot("spread", spread, lambda axes: plots.draw_spread(axes, report, free_energy)),
        pictures.plot("tail", tail, lambda axes: plots.draw_tail(axes, free_energy)),
    ]
    percentiles = report.free_energy_percentiles
    head, columns = ["percentile", "nats"], [[number(value) for value in percentiles.values()]]
    if report.bits_per_dim is not None:
        unit = report.bits_per_dim / report.free_energy
        head.append("bits per dimension")
        columns.append([f"{value * unit:.4f}" for value in percentiles.values()])
    rows = list(zip((f"{p} %" for p in percentiles), *columns, strict=True))
    return block("plots", figures) + block("table", "Percentiles of free energy", head, rows)


def _extremes(source: ReportInput) -> Markup:
    config = source.checkpoint.vae.config
    intro = (
        "Each image, its reconstruction, and the surprise of each pixel, nlog P(x|z): brighter is more surprising. "
        "Below, the name or number of the sample in the data, and its free energy."
        if isinstance(config.data, ImageData)
        else "The most surprising columns of each row, by nlog P(x|z) in nats, and the free energy of the row."
    )
    if config.data.kind == "vector" and config.likelihood.levels is None:
        intro += (
            " The surprise of a column is measured with its standard deviation as unit, which makes columns "
            "comparable; free energy is measured in the units of the data."
        )
    content = block("paragraph", intro)
    for heading, indices in zip(("Most surprising", "Least surprising"), source.extremes(), strict=True):
        content += block("subheading", heading) + samples.surprises(source.reconstruct(indices), config.data)
    return content


def _detection(detections: Sequence[Detection], anomaly_score: str) -> Markup:
    intro = (
        "Probability that an outlier of the named set has a higher score than a sample of this data (AUROC): 1 "
        "separates them, 0.5 does not, and 0 separates them with the outliers below. Training has seen no outlier. "
        f"The model's own anomaly score is {anomaly_score}; this table did not choose it."
    )
    areas = [by_score for detection in detections for by_score in detection.auroc.values()]
    scores = [score for score in text.SCORES if any(score in by_score for by_score in areas)]
    content = block("paragraph", intro) + block("terms", [(score, text.SCORES[score]) for score in scores])
    for detection in detections:
        head = ["score", *(f"{name} ({count:,})" for name, count in detection.outliers.items())]
        rows = [
            [score, *(f"{by_score[score]:.3f}" if score in by_score else "" for by_score in detection.auroc.values())]
            for score in scores
            if any(score in by_score for by_score in detection.auroc.values())
        ]
        draws = f"{detection.samples} draw{'' if detection.samples == 1 else 's'}"
        caption = f"{detection.inliers:,} samples against outliers; {draws}, {detection.refine} steps of refinement"
        content += block("table", caption, head, rows)
    return content


def files(source: ReportInput) -> dict[str, bytes]:
    """Draw the pictures; PNG by file name."""
    vae, evaluation = source.checkpoint.vae, source.evaluation
    means, labels, free_energy = _map(source)
    shown, most, least = (
        to_tensor(samples.read_samples(source.dataset, indices), str(vae.device))
        for indices in (source.evenly(plots.MAX_SHOWN), *source.extremes())
    )
    with mpl.rc_context(plots.STYLE), torch.inference_mode():
        figures = {
            "reconstructions.png": plots.reconstructions(vae, shown),
            "samples.png": plots.samples(vae),
            "latents.png": plots.latent_map(means, labels, source.dataset.label_names(), free_energy),
            "kl_to_normal.png": plots.kl_to_normal(source.report, source.active),
            "free_energy.png": plots.free_energies(source.report, evaluation.free_energy),
            "most_surprising.png": plots.reconstructions(vae, most, "Most surprising samples (above)"),
            "least_surprising.png": plots.reconstructions(vae, least, "Least surprising samples (above)"),
        }
        if labels is not None:
            figures["latents_free_energy.png"] = plots.latent_map(means, None, None, free_energy)
        if source.records:
            figures["learning_curves.png"] = plots.learning_curves(list(source.records))
        return {name: plots.png(figure) for name, figure in figures.items()}
