"""`vae calibrate`: the reference of p-values, for the draws and steps of refinement that scores are to be made with."""

from pathlib import Path
from typing import Annotated

import typer

from app.progress import plain_console, progress
from model.errors import DataError


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

    Example: vae calibrate runs/fashion normal-photos/ --samples 64
    """
    from app.devices import choose_device, set_threads
    from model import checkpoint, scoring
    from model.calibration import LEAST, Calibration, Protocol
    from model.datasets import open_dataset

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    reference = open_dataset(data, loaded.vae.config.data).load()
    if len(reference) < LEAST:
        raise DataError(f"{data}: {len(reference)} samples are too few to calibrate on; give {LEAST} at least")
    known = loaded.calibration or Calibration(None, {})
    half = len(reference) // 2
    if known.latents is None and half >= LEAST:
        # The model's own data is not at hand, so a part of this is spent on where latents lie.
        known = Calibration(scoring.latent_density(loaded.vae, reference[:half]), known.references)
        reference = reference[half:]
    protocol = Protocol(samples, refine, seed)
    with progress(console, f"Scoring {data}", len(reference)) as advance:
        made = scoring.calibrate(loaded.vae, reference, [protocol], calibration=known, on_sample=advance)
    checkpoint.save_calibration(run, made)
    console.print(f"Calibrated {loaded.folder} for {protocol} on {len(reference):,} samples")
