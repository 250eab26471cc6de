"""`vae calibrate`: add a reference of p-values for one scoring configuration."""

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
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, number of draws of z per input.")] = 1,
    refine: Annotated[int, typer.Option(min=0, max=1000, help="S, number of refinement steps per input.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of the draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Calibrate scores on your own normal data, so that they come with p-values.

    A p-value is the share of these samples with an equal or higher score. It is valid for scores with an equal
    --samples, --refine and --seed; each call adds one such configuration to the model. `vae train` adds some by itself.

    If DATA is the training data, only the samples that were set aside are used.

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
            f"{data}: {len(reference)} samples are too few to calibrate on; give at least {MIN_TYPICALITY_INPUTS}"
        )
    calibration = loaded.calibration or Calibration(None, {})
    half = len(reference) // 2
    if calibration.latents is None and loaded.vae.config.prior.name == "standard" and half >= MIN_TYPICALITY_INPUTS:
        # The training data is not available, so half of these samples fit the density of latents.
        calibration = Calibration(batches.latent_density(loaded.vae, reference[:half]), calibration.references)
        reference = reference[half:]
    scoring = ScoringConfig(samples, refine, seed)
    with progress(console, f"Scoring {data}", len(reference) * batches.draws_of(scoring)) as advance:
        calibration = batches.calibrate(loaded.vae, reference, [scoring], calibration=calibration, on_sample=advance)
    checkpoint.save_calibration(run, calibration)
    if loaded.gallery is not None and scoring == gallery.GALLERY_SCORING:
        checkpoint.save_gallery(run, gallery.rescore(loaded.gallery, loaded.vae, calibration))
    console.print(f"Calibrated {loaded.folder} for {scoring} on {len(reference):,} samples of {dataset.source}")


def _load(run: Path, device: str, console: "Console") -> "Checkpoint":
    """Load a model; without its calibration if that cannot be read, since it will be replaced."""
    from model import checkpoint

    try:
        return checkpoint.load(run, device)
    except CalibrationError as error:
        console.print(f"The current calibration will be replaced: {error}", style="yellow")
        return checkpoint.load(run, device, calibrated=False)
