"""A report on paper: one page of HTML that needs no server, no script and no network, and its pictures as files.

`words.py` says what the figures mean and warns, `pictures.py` draws, `looks.py` shows samples, `page.py` is the page.
"""

import io
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
from matplotlib.figure import Figure as Plot

from model.checkpoint import Checkpoint
from model.config import ImageData
from model.datasets import Dataset
from model.errors import DataError
from model.files import write_synced
from model.record import EpochRecord
from model.report import pictures, plots
from model.report import samples as looks
from model.report import text as words
from model.report.blocks import block, join, page
from model.report.evaluation import Evaluation, Report
from model.report.text import number
from model.scoring.batches import MIN_ACTIVE_VARIANCE
from model.scoring.detection import Detection
from model.training.config import Portion
from model.vae import to_tensor
from model.warnings import model_warnings, unlearned_columns

#: Samples on the map, samples of which columns are judged, and those that are looked at one by one.
ON_MAP, JUDGED, EXTREMES = 4000, 1000, 8
#: Of fewer samples nothing is said of whether a column is learned.
FEW = 100
#: All the pictures that there may be beside a page.
FILES = (
    "learning_curves.png",
    "reconstructions.png",
    "samples.png",
    "latents.png",
    "latents_free_energy.png",
    "rate_per_dimension.png",
    "free_energy.png",
    "most_surprising.png",
    "least_surprising.png",
)
#: What the samples have to do with the training.
WHOSE: dict[Portion | None, str] = {
    None: "What follows is true of the model only where they neither fitted nor chose it.",
    "set_aside": "Its training set them aside: they neither fitted the model nor chose its epoch.",
    "held_out": "Its training held them out: they did not fit the model, but chose its epoch.",
}


@dataclass(frozen=True)
class Subject:
    """What a page is about."""

    checkpoint: Checkpoint
    evaluation: Evaluation
    dataset: Dataset
    records: Sequence[EpochRecord]

    @property
    def report(self) -> Report:
        return self.evaluation.report

    @property
    def active(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which dimensions of the latent are, by falling rate."""
        order = np.argsort(-self.evaluation.rates, kind="stable")
        active: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
            self.evaluation.means.var(axis=0)[order] > MIN_ACTIVE_VARIANCE
        )
        return active

    @cached_property
    def misses(self) -> tuple[tuple[str, ...], list[float]]:
        """Names of columns, and how far reconstructions of each are off, in its standard deviations; none of images."""
        if isinstance(self.checkpoint.vae.config.data, ImageData):
            return (), []
        return looks.misses(self._judged, self.checkpoint.vae.config.data)

    @cached_property
    def blind(self) -> list[str]:
        """The columns that their own mean over these samples rebuilds as well; none where too few tell."""
        if isinstance(self.checkpoint.vae.config.data, ImageData) or self.report.samples < FEW:
            return []
        return looks.blind(self._judged, self.checkpoint.vae.config.data)

    @cached_property
    def _judged(self) -> looks.Look:
        vae, picks = self.checkpoint.vae, self.evenly(JUDGED)
        return looks.look(vae, self.dataset, picks, self.evaluation.free_energy)

    def evenly(self, count: int) -> list[int]:
        """The indices of so many of the samples, or of all."""
        total = self.report.samples
        return (np.arange(min(count, total)) * total // min(count, total)).tolist()

    def extremes(self) -> tuple[list[int], list[int]]:
        """The indices of the most and of the least surprising samples."""
        order = np.argsort(-self.evaluation.free_energy, kind="stable").tolist()
        return order[:EXTREMES], order[::-1][:EXTREMES]


def write(path: Path, subject: Subject) -> Path:
    """Write the page to `path`, and its pictures into the folder beside it that is named like it.

    Returns: that folder.

    Raises:
        DataError: it cannot be written; what was there before is untouched.
    """
    folder = path.with_name(f"{path.stem}_files")
    made = {path: html(subject).encode()} | {folder / name: data for name, data in files(subject).items()}
    fresh = {place: place.with_name(f".{place.name}.fresh") for place in made}
    try:
        folder.mkdir(exist_ok=True)
        for place, data in made.items():
            write_synced(fresh[place], data)
        for place in made:
            os.replace(fresh[place], place)
        for name in FILES:
            if folder / name not in made:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        for place in fresh.values():
            with suppress(OSError):
                place.unlink()
        raise DataError(
            f"{error.filename or path}: cannot be written ({error.strerror}); make room, or name a file in another "
            "folder"
        ) from error
    return folder


def html(subject: Subject) -> str:
    """The page."""
    card, report = subject.checkpoint.card, subject.report
    config = subject.checkpoint.vae.config
    under = (
        f"{report.samples:,} samples of {report.dataset}; {report.draws} draws each, seed {report.seed}. "
        f"{WHOSE[report.portion]}",
        f"The model: {config.network.name} for {config.data.describe()}, latent {config.latent}, "
        f"{config.likelihood.name} likelihood; made {card.created}, digest {subject.checkpoint.digest[:16]}.",
    )
    warnings = model_warnings(report.plain(), subject.records, latent=report.latent, training=card.training)
    warnings += unlearned_columns(subject.blind)
    first = _tiles(report) + join(block("warning", warning.title, warning.text) for warning in warnings)
    sections = [
        ("figures", "Figures", _figures(report)),
        ("learning", "Learning curves", _learning(subject)),
        ("reconstructions", "Reconstructions", _reconstructions(subject)),
        ("samples", "Samples", _samples(subject)),
        ("latent", "The latent", _latent(subject)),
        ("scores", "Scores", _scores(subject)),
        ("extremes", "Most and least surprising", _extremes(subject)),
    ]
    if report.detection:
        sections.append(("detection", "Telling outliers", _detection(report.detection, card.anomaly_score)))
    return page(f"{card.name}: report on held-out data", under, sections, first)


def _tiles(report: Report) -> Markup:
    values = [("Free energy, nats", number(report.free_energy))]
    if report.bits_per_dim is not None:
        values.append(("Bits per dimension", f"{report.bits_per_dim:.4f}"))
    values += [("Distortion, nats", number(report.distortion)), ("Rate, nats", number(report.rate))]
    return block("tiles", [*values, ("Active dimensions", f"{report.active_units} of {report.latent}")])


def _figures(report: Report) -> Markup:
    return block("explained", "What the model costs, and what that means", ("figure", "value"), words.figures(report))


def _learning(subject: Subject) -> Markup:
    records = list(subject.records)
    if not records:
        return block("paragraph", "The records of the training are not with this model.")
    best, own = min(records, key=lambda record: record.free_energy), subject.report.portion == "held_out"
    said = (
        f"Free energy by epoch; held out, it is lowest after epoch {best.epoch}, with {number(best.free_energy)} nats. "
        f"The samples held out there chose the epoch, and {'are' if own else 'are not'} those of this report. In "
        "training it is the mean over an epoch's batches, with the weights of their time, and so starts higher. The "
        "first epochs may lie above the frame."
    )
    terms = (
        "Distortion and rate of held-out samples by epoch: what is not said by the latent, and what the latent says."
    )
    return block(
        "plots",
        [
            block("figure", pictures.plot("course", said, lambda axes: plots.draw_course(axes, records)), said),
            block("figure", pictures.plot("terms", terms, lambda axes: plots.draw_terms(axes, records)), terms),
        ],
    )


def _reconstructions(subject: Subject) -> Markup:
    vae, free_energy = subject.checkpoint.vae, subject.evaluation.free_energy
    data = vae.config.data
    said = "Some of the samples, and the mean of P(x|z) at the mean of their Q: what passes the latent."
    if isinstance(data, ImageData):
        said += " Each sample stands above its reconstruction."
    seen = looks.look(vae, subject.dataset, subject.evenly(plots.SHOWN), free_energy)
    shown = block("paragraph", said) + looks.rebuilt(seen, data)
    if isinstance(data, ImageData):
        return shown
    names, misses = subject.misses
    off = "By column, how far reconstructions are off, in standard deviations: at 1 the column's mean would do as well."
    size = (pictures.SIZE[0], 1.2 + 0.2 * len(names))
    drawn = pictures.plot("misses", off, lambda axes: plots.draw_misses(axes, names, misses), size)
    return shown + block("plots", [block("figure", drawn, off)])


def _samples(subject: Subject) -> Markup:
    vae = subject.checkpoint.vae
    said = "Latents drawn from the prior, seed 0, and decoded: what the model takes the data to be like. " + (
        "Shown is the mean of P(x|z), without its noise."
        if isinstance(vae.config.data, ImageData)
        else "Each value is drawn from P(x|z), noise and all."
    )
    return block("paragraph", said) + looks.samples(vae)


def _latent(subject: Subject) -> Markup:
    report, active = subject.report, subject.active
    rates = f"The rate of each dimension of the latent, in falling order. {active.sum()} of {len(active)} are active."
    figures = [
        block("figure", pictures.plot("rates", rates, lambda axes: plots.draw_rates(axes, report, active)), rates)
    ]
    means, labels, free_energy = _map(subject)
    names = subject.dataset.label_names()
    size = (pictures.SIZE[0], 4.4)
    where = "Means of Q on the plane along which they vary most"
    if labels is not None:
        said = f"{where}, coloured by label{'' if len(np.unique(labels)) <= 20 else '; the first 20 labels'}."
        drawn = pictures.plot("labels", said, lambda axes: plots.draw_map(axes, means, labels, names), size)
        figures.insert(0, block("figure", drawn, said))
    said = f"{where}, coloured by free energy."
    drawn = pictures.plot("costs", said, lambda axes: plots.draw_map(axes, means, None, free_energy=free_energy), size)
    return block("plots", [*figures[:-1], block("figure", drawn, said), figures[-1]])


def _map(subject: Subject) -> tuple[plots.Array, plots.Array | None, plots.Array]:
    """Means, labels and free energies of the samples on the map."""
    picks, labels = subject.evenly(ON_MAP), subject.dataset.labels()
    chosen = None if labels is None else labels[picks]
    return subject.evaluation.means[picks], chosen, subject.evaluation.free_energy[picks]


def _scores(subject: Subject) -> Markup:
    report, free_energy = subject.report, subject.evaluation.free_energy
    spread = "How many samples cost how much; 5, 50 and 95 in a hundred cost less than the lines."
    tail = "The share of samples that cost as much or more: the tail to the right is what outliers are told from."
    figures = [
        block("figure", pictures.plot("spread", spread, lambda a: plots.draw_spread(a, report, free_energy)), spread),
        block("figure", pictures.plot("tail", tail, lambda a: plots.draw_tail(a, free_energy)), tail),
    ]
    unit = None if report.bits_per_dim is None else report.bits_per_dim / report.free_energy
    head = ("percentile", "nats") if unit is None else ("percentile", "nats", "bits per dimension")
    rows = [
        (f"{p} %", number(value), *([] if unit is None else [f"{value * unit:.4f}"]))
        for p, value in report.free_energy_percentiles.items()
    ]
    return block("plots", figures) + block(
        "table", "Free energy by percentile: so many in a hundred cost no more", head, rows
    )


def _extremes(subject: Subject) -> Markup:
    vae, free_energy = subject.checkpoint.vae, subject.evaluation.free_energy
    data = vae.config.data
    how = (
        "Each image, its reconstruction, and the surprise of each pixel: nlog P(x|z), the brighter the more. Below, "
        "the sample's name or number in the data, and its free energy."
        if isinstance(data, ImageData)
        else "Of each row, the columns that surprise most: nlog P(x|z) in nats. Above, the free energy of the row."
    )
    if vae.config.data.kind == "vector" and vae.levels is None:
        how += (
            " The surprise of a column has its standard deviation as unit, so that columns can be compared; the free "
            "energy is in the data's own units."
        )
    parts = [block("paragraph", how)]
    for heading, indices in zip(("Most surprising", "Least surprising"), subject.extremes(), strict=True):
        seen = looks.look(vae, subject.dataset, indices, free_energy)
        parts += [block("subheading", heading), looks.surprises(seen, data)]
    return join(parts)


def _detection(detections: Sequence[Detection], chosen: str) -> Markup:
    said = (
        "How often a score is higher for an outlier of the named set than for a sample of this data (AUROC): at 1 it "
        "tells them apart, at 0.5 it does not, and at 0 it tells them apart the wrong way round, outliers having the "
        f"lower scores. No outlier has fitted anything. The model's own score for outliers is {chosen}; it was not "
        "chosen by this table."
    )
    shown = [name for name in words.SCORES if any(name in by for found in detections for by in found.auroc.values())]
    parts = [block("paragraph", said), block("terms", [(name, words.SCORES[name]) for name in shown])]
    for found in detections:
        head = ["score", *(f"{name} ({count:,})" for name, count in found.outliers.items())]
        rows = [
            [score, *(f"{areas[score]:.3f}" if score in areas else "" for areas in found.auroc.values())]
            for score in shown
            if any(score in areas for areas in found.auroc.values())
        ]
        draws = f"{found.samples} draw{'' if found.samples == 1 else 's'}"
        caption = (
            f"{found.inliers:,} samples against outliers; scores of {draws} and {found.refine} steps of refinement"
        )
        parts.append(block("table", caption, head, rows))
    return join(parts)


def files(subject: Subject) -> dict[str, bytes]:
    """The pictures by name, as PNG."""
    vae, evaluation = subject.checkpoint.vae, subject.evaluation
    means, labels, free_energy = _map(subject)
    device = str(vae.device)
    shown, most, least = (
        to_tensor(looks.pick(subject.dataset, indices), device)
        for indices in (subject.evenly(plots.SHOWN), *subject.extremes())
    )
    with mpl.rc_context(plots.STYLE), torch.inference_mode():
        drawn = {
            "reconstructions.png": plots.reconstructions(vae, shown),
            "samples.png": plots.samples(vae),
            "latents.png": plots.latent_map(means, labels, subject.dataset.label_names(), free_energy),
            "rate_per_dimension.png": plots.rates(subject.report, subject.active),
            "free_energy.png": plots.free_energies(subject.report, evaluation.free_energy),
            "most_surprising.png": plots.reconstructions(vae, most, "Most surprising (above: as they are)"),
            "least_surprising.png": plots.reconstructions(vae, least, "Least surprising (above: as they are)"),
        }
        if labels is not None:
            drawn["latents_free_energy.png"] = plots.latent_map(means, None, None, free_energy)
        if subject.records:
            drawn["learning_curves.png"] = plots.learning_curves(list(subject.records))
        return {name: _png(figure) for name, figure in drawn.items()}


def _png(figure: Plot) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
