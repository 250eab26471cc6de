"""Steps after a training: prior, fine-tuning, calibration, gallery; for `vae train`, `vae prior` and `vae gallery`."""

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

    from model.checkpoint import Card, Checkpoint, Provenance
    from model.gallery import Gallery
    from model.record import EpochRecord, PriorRecord
    from model.scoring.calibration import Calibration
    from model.training.prior import PriorFit
    from model.training.splits import Split
    from model.training.tuning import FineTuning
    from model.vae import VAE

#: Most lines that a fit prints; a small data set has hundreds of epochs.
MAX_LINES = 25
_PRIOR_HEADER = f"{'epoch':>9} {'held-out nlog P(z)':>19} {'in training':>12} {'samples/s':>9} left"
#: Titles of `epoch_line`.
EPOCH_HEADER = (
    f"{'epoch':>9} {'free energy':>12} {'distortion':>11} {'rate':>8} {'bits/dim':>9} {'in training':>12} "
    f"{'samples/s':>9} left"
)


def epoch_line(record: "EpochRecord", epochs: int, seconds: float) -> str:
    """One epoch in words: `seconds` are those of all epochs so far."""
    left = timedelta(seconds=int(seconds / record.epoch * (epochs - record.epoch)))
    bits = "" if record.bits_per_dim is None else f"{record.bits_per_dim:.4f}"
    return (
        f"{f'{record.epoch}/{epochs}':>9} {record.free_energy:12.2f} {record.distortion:11.2f} "
        f"{record.rate:8.2f} {bits:>9} {record.train_free_energy:12.2f} {record.samples_per_second:9.0f} {left}"
    )


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
    from model.training.gain import Gain
    from model.training.prior import (
        LearnedLabels,
        PriorFigures,
        cross_entropies,
        posteriors,
        with_flow,
        with_labels,
    )

    settings, done, seed = fit.settings, list(records), fit.settings.seed
    learned = LearnedLabels.of(split) if settings.flow.labels else None
    with console.status("Encoding the samples for the prior ..."):
        fitted, held_out = (posteriors(loaded.vae, samples) for samples in (split.train, split.validation))
    train = fitted if learned is None else with_labels(fitted, learned.train)
    # One half chooses the epoch; the other half judges the flow, since it would flatter itself on the first.
    choosing, judging = held_out[::2], held_out[1::2]
    if not done:
        fit.start_from(train)
    count = f" of {len(settings.flow.labels)} labels" if settings.flow.labels else ""
    console.print(f"Fitting a flow to the latents{count} as the prior; {settings.epochs - len(done)} epochs")
    console.print(_PRIOR_HEADER, style="bold")
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
    gain = Gain.of(cross_entropies(old, judging, seed), cross_entropies(flow, judging, seed))
    if not gain.clear:
        console.print(f"The prior is kept: with a flow, held-out samples gain {gain}")
        return None
    console.print(f"The flow is the prior: the free energy of held-out samples falls by {gain}")
    report = PriorReport(
        dataset=source,
        dataset_sha256=split.sha256(),
        command=shlex.join(["vae", *sys.argv[1:]]),
        settings=settings.model_dump(mode="json"),
        epoch=min(done, key=lambda record: record.cross_entropy).epoch,
        seconds=round(sum(record.seconds for record in done), 1),
        **PriorFigures.of(flow, fitted, held_out, learned, seed)._asdict(),
    )
    vae = with_flow(loaded.vae, settings.flow, flow)
    saved = float(cross_entropies(old, held_out, seed).mean()) - report.held_out
    # The fine-tuning was one under the old prior.
    return vae, loaded.card.model_copy(
        update={
            "prior": report,
            "fine_tuning": None,
            "evaluation": None,
            "training": _with_less(loaded.card.training, saved, vae.config.data.dims),
        }
    )


def _with_less(training: "Provenance | None", saved: float, dims: int) -> "Provenance | None":
    """The origin of a model with its held-out scores as a prior that saves this many nats makes them."""
    if training is None:
        return None
    less = {"free_energy": saved, "rate": saved, "bits_per_dim": saved / (dims * math.log(2))}
    scores = {
        name: value if value is None else value - less.get(name, 0.0)
        for name, value in training.held_out_scores.items()
    }
    return training.model_copy(update={"held_out_scores": scores})


def fine_tune(
    console: "Console",
    loaded: "Checkpoint",
    split: "Split",
    fit: "FineTuning",
    *,
    records: "Sequence[EpochRecord]" = (),
    on_epoch: "Callable[[EpochRecord], None]" = lambda record: None,
) -> "tuple[VAE, Card] | None":
    """Fine-tune a model under its fitted prior, or go on with it.

    Args:
        records: of the epochs that are done.
        on_epoch: called with the record of each epoch.

    Returns:
        The model and its card; None if it is no better than before.
    """
    from model.checkpoint import FineTuningReport
    from model.prior import FlowPrior
    from model.training.gain import Gain
    from model.training.prior import LearnedLabels, PriorFigures, posteriors

    settings, done, prior = fit.settings, list(records), loaded.vae.prior
    assert isinstance(prior, FlowPrior) and loaded.card.prior is not None
    if not done:
        fit.start_from(loaded.vae)
    console.print(f"Fine-tuning encoder and decoder under the flow; {settings.epochs - len(done)} epochs")
    console.print(EPOCH_HEADER, style="bold")
    batches = math.ceil(len(split.train) / settings.batch_size)
    choosing, judging = split.validation[::2], split.validation[1::2]
    with progress(console, "Fine-tuning", batches * settings.epochs) as advance:
        for record in fit.epochs(split.train, choosing, lambda batch, total: advance(fit.epoch * total + batch)):
            done.append(record)
            on_epoch(record)
            console.print(epoch_line(record, settings.epochs, sum(each.seconds for each in done)))
    tuned = fit.tuned()
    gain = Gain.of(fit.score(loaded.vae, judging)[0], fit.score(tuned, judging)[0])
    if not gain.clear:
        console.print(f"The networks are kept: fine-tuned, held-out samples gain {gain}")
        return None
    console.print(f"Encoder and decoder are fine-tuned: the free energy of held-out samples falls by {gain}")
    before = float(fit.score(loaded.vae, split.validation)[0].mean())
    after, distortion, rate = (float(score.mean()) for score in fit.score(tuned, split.validation))
    with console.status("Encoding the samples ..."):
        fitted, held_out = (posteriors(tuned, samples) for samples in (split.train, split.validation))
    learned = LearnedLabels.of(split) if prior.labels else None
    figures = PriorFigures.of(prior, fitted, held_out, learned, loaded.card.prior.settings.get("seed", 0))
    changes: dict[str, object] = {
        "prior": loaded.card.prior.model_copy(update=figures._asdict()),
        "fine_tuning": FineTuningReport(
            dataset=loaded.card.prior.dataset,
            dataset_sha256=split.sha256(),
            command=shlex.join(["vae", *sys.argv[1:]]),
            settings=settings.model_dump(mode="json"),
            epoch=min(done, key=lambda record: record.free_energy).epoch,
            seconds=round(sum(record.seconds for record in done), 1),
            before=before,
            after=after,
        ),
        "evaluation": None,
    }
    if loaded.card.training is not None:
        bits = after / (tuned.config.data.dims * math.log(2)) if tuned.levels else None
        scores = {"free_energy": after, "distortion": distortion, "rate": rate, "bits_per_dim": bits}
        changes["training"] = loaded.card.training.model_copy(update={"held_out_scores": scores})
    return tuned, loaded.card.model_copy(update=changes)


def calibrate(console: "Console", vae: "VAE", split: "Split") -> "Calibration | None":
    """Calibrate a model on the samples that were set aside; None without any."""
    from model.scoring import batches
    from model.scoring.calibration import MIN_TYPICALITY_INPUTS, Calibration

    count = len(split.calibration)
    if not count:
        return None
    density = batches.latent_density(vae, split.train) if count >= MIN_TYPICALITY_INPUTS else None
    with progress(console, "Calibrating", count * sum(map(batches.draws_of, batches.DEFAULT_SCORINGS))) as advance:
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
    tell_if_not_embedded(console, stored)
    return stored


def tell_if_not_embedded(console: "Console", gallery: "Gallery") -> None:
    """Say why a gallery has no map of neighbours, if it could have one."""
    from model.projection import MIN_EMBEDDED

    if gallery.embedding is None and len(gallery) >= MIN_EMBEDDED:
        console.print(
            "No map of neighbours: scikit-learn is not installed (pip install 'vae-server[train]')", style="yellow"
        )


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
