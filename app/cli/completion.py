"""Fitting of priors, calibration and galleries of trained models, for `vae train`, `vae prior` and `vae gallery`."""

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.progress import progress
from model.errors import CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

    from model.checkpoint import Card, Checkpoint, PriorReport
    from model.gallery import Gallery
    from model.record import EpochRecord, PriorRecord
    from model.scoring.calibration import Calibration
    from model.training.prior import PriorFit
    from model.training.splits import Split
    from model.vae import VAE

#: Most lines that a fit prints; a small data set has hundreds of epochs.
MAX_LINES = 25
_HEADER = f"{'epoch':>9} {'held-out nlog P(z)':>19} {'in training':>12} {'samples/s':>9} left"


def fit_prior(
    console: "Console",
    loaded: "Checkpoint",
    split: "Split",
    fit: "PriorFit",
    *,
    source: str,
    records: "Sequence[PriorRecord]" = (),
    on_epoch: "Callable[[PriorRecord], None]" = lambda record: None,
) -> "tuple[VAE, Card] | None":
    """Fit a flow to the latents of a model, or go on with it.

    Args:
        source: name of the data.
        records: of the epochs that are done.
        on_epoch: called with the record of each epoch.

    Returns:
        The model with the flow as its prior, and its card; None if the flow is no better than the prior it has.
    """
    from model.checkpoint import PriorReport
    from model.prior import StandardPrior
    from model.training.prior import Gain, cross_entropies, posteriors, with_flow

    settings, done, seed = fit.settings, list(records), fit.settings.seed
    with console.status("Encoding the samples for the prior ..."):
        train, held_out = (posteriors(loaded.vae, samples) for samples in (split.train, split.validation))
    # One half chooses the epoch; the other half judges the flow, since it would flatter itself on the first.
    choosing, judging = held_out[::2], held_out[1::2]
    if not done:
        fit.start_from(train)
    console.print(f"Fitting a flow to the latents as the prior; {settings.epochs - len(done)} epochs")
    console.print(_HEADER, style="bold")
    batches = math.ceil(len(train) / settings.batch_size)
    with progress(console, "Fitting the prior", batches * settings.epochs) as advance:
        for record in fit.epochs(train, choosing, lambda batch, total: advance(fit.epoch * total + batch)):
            done.append(record)
            on_epoch(record)
            if record.epoch % math.ceil(settings.epochs / MAX_LINES) == 0 or record.epoch == settings.epochs:
                seconds = sum(each.seconds for each in done)
                left = timedelta(seconds=int(seconds / record.epoch * (settings.epochs - record.epoch)))
                console.print(
                    f"{f'{record.epoch}/{settings.epochs}':>9} {record.cross_entropy:19.2f} "
                    f"{record.train_cross_entropy:12.2f} {record.samples_per_second:9.0f} {left}"
                )
    flow, old = fit.fitted(), loaded.vae.prior
    gain = Gain.of(flow, old, judging, seed)
    if not gain.clear:
        console.print(
            f"The prior is kept: a flow changes the free energy of held-out samples by {-gain.nats:+.2f} nats "
            f"(standard error {gain.error:.2f})"
        )
        return None
    console.print(
        f"The flow is the prior: it lowers the free energy of held-out samples by {gain.nats:.2f} nats (standard error "
        f"{gain.error:.2f})"
    )
    report = PriorReport(
        dataset=source,
        dataset_sha256=split.sha256(),
        command=shlex.join(["vae", *sys.argv[1:]]),
        settings=settings.model_dump(mode="json"),
        epoch=min(done, key=lambda record: record.cross_entropy).epoch,
        seconds=round(sum(record.seconds for record in done), 1),
        held_out=float(cross_entropies(flow, held_out, seed).mean()),
        fitted=float(cross_entropies(flow, train, seed).mean()),
        standard=float(cross_entropies(StandardPrior(), held_out, seed).mean()),
    )
    vae = with_flow(loaded.vae, settings.flow, flow)
    saved = float(cross_entropies(old, held_out, seed).mean()) - report.held_out
    return vae, _card(loaded.card, report, saved, vae)


def _card(card: "Card", report: "PriorReport", saved: float, vae: "VAE") -> "Card":
    """The card of a model whose prior saves this many nats. The evaluation was made under the old one."""
    changes: dict[str, object] = {"prior": report, "evaluation": None}
    if card.training is not None:
        scores = dict(card.training.held_out_scores)
        less = {"free_energy": saved, "rate": saved, "bits_per_dim": saved / (vae.config.data.dims * math.log(2))}
        scores |= {name: value - less[name] for name, value in scores.items() if name in less and value is not None}
        changes["training"] = card.training.model_copy(update={"held_out_scores": scores})
    return card.model_copy(update=changes)


def calibrate(console: "Console", vae: "VAE", split: "Split") -> "Calibration | None":
    """Calibrate a model on the samples that were set aside; None without any."""
    from model.scoring import batches
    from model.scoring.calibration import MIN_TYPICALITY_INPUTS, Calibration

    count = len(split.calibration)
    if not count:
        return None
    density = batches.latent_density(vae, split.train) if count >= MIN_TYPICALITY_INPUTS else None
    with progress(console, "Calibrating", count * len(batches.DEFAULT_SCORINGS)) as advance:
        result = batches.calibrate(vae, split.calibration, calibration=Calibration(density, {}), on_sample=advance)
    console.print(f"Calibrated on {count:,} samples that were set aside")
    return result


def make_gallery(
    console: "Console",
    vae: "VAE",
    split: "Split",
    calibration: "Calibration | None",
    *,
    label_names: tuple[str, ...] | None,
    learning: "Sequence[EpochRecord]",
) -> "Gallery | None":
    """Make a gallery of the samples that were set aside; None without any."""
    from model import gallery

    if not len(split.calibration):
        return None
    with progress(console, "Making the gallery", len(split.calibration)) as advance:
        stored = gallery.make(
            vae,
            split.calibration,
            labels=split.calibration_labels,
            label_names=label_names,
            calibration=calibration,
            learning=learning,
            on_sample=advance,
        )
    console.print(f"Gallery of {len(stored):,} of them: --gallery none would leave it out")
    return stored


def learning_records(run: Path, folder: Path) -> "tuple[EpochRecord, ...]":
    """Records of the training: from the run's metrics.csv, or else from the gallery that will be replaced.

    Args:
        run: the model as the user names it.
        folder: where it was found.
    """
    from model import checkpoint
    from model.training.run import read_records

    records = read_records(folder)
    if records:
        return tuple(records)
    try:
        old = checkpoint.load(run).gallery
    except CheckpointError:  # the gallery cannot be read, and will be replaced
        return ()
    return old.learning if old else ()
