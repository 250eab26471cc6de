"""`vae calibrate`: the reference of p-values, for the draws and steps of refinement that scores are to be made with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.progress import plain_console, progress
from model.errors import CalibrationError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from model.checkpoint import Checkpoint


def calibrate_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="Data that neither fitted nor chose the model, as for `vae train`.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, draws of z per input.")] = 1,
    refine: Annotated[int, typer.Option(min=0, max=1000, help="S, steps of refinement per input.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="(default: the cores it may use)")] = None,
) -> None:
    """Calibrate scores on data of your own: what is normal here, and how rare is a score among it?

    A p-value says how many of these inputs score as high. It holds for scores made alike, with the same --samples,
    --refine and --seed; each call adds one such protocol to the model. `vae train` makes some of its own accord.

    Where DATA is the very data of the training, only the samples that were set aside are taken.

    Example: vae calibrate runs/fashion normal-photos/ --samples 64
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint, gallery
    from model.datasets import open_dataset
    from model.scoring import batches
    from model.scoring.calibration import MIN_TYPICALITY_INPUTS, Calibration, ScoringConfig
    from model.training.splits import require_unseen

    console = plain_console()
    set_threads(threads)
    loaded = _load(run, choose_device(device), console)
    dataset = require_unseen(open_dataset(data, loaded.vae.config.data), loaded.card.training)
    reference = dataset.load()
    if len(reference) < MIN_TYPICALITY_INPUTS:
        raise DataError(
            f"{data}: {len(reference)} samples are too few to calibrate on; give {MIN_TYPICALITY_INPUTS} at least"
        )
    known = loaded.calibration or Calibration(None, {})
    half = len(reference) // 2
    if known.latents is None and half >= MIN_TYPICALITY_INPUTS:
        # The model's own data is not at hand, so a part of this is spent on where latents lie.
        known = Calibration(batches.latent_density(loaded.vae, reference[:half]), known.references)
        reference = reference[half:]
    protocol = ScoringConfig(samples, refine, seed)
    with progress(console, f"Scoring {data}", len(reference)) as advance:
        made = batches.calibrate(loaded.vae, reference, [protocol], calibration=known, on_sample=advance)
    checkpoint.save_calibration(run, made)
    if loaded.gallery is not None and protocol == gallery.PROTOCOL:
        checkpoint.save_gallery(run, gallery.rescore(loaded.gallery, loaded.vae, made))
    console.print(f"Calibrated {loaded.folder} for {protocol} on {len(reference):,} samples of {dataset.source}")


def _load(run: Path, device: str, console: "Console") -> "Checkpoint":
    """A model with its calibration, or without one that cannot be read: a new one is on its way."""
    from model import checkpoint

    try:
        return checkpoint.load(run, device)
    except CalibrationError as error:
        console.print(f"The calibration that is there will be replaced: {error}", style="yellow")
        return checkpoint.load(run, device, calibrated=False)
