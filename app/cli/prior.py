"""`vae prior`: fit a prior to the latents of a model that is there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli import completion
from app.cli.progress import plain_console
from model.errors import TrainingError


def prior_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="The data that the model was trained on.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="(default: about 3,000 steps)")] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of all random numbers.")] = 0,
    gallery: Annotated[
        Literal["auto", "none"],
        typer.Option(help="none: store no samples with the model. auto: store some of those set aside."),
    ] = "auto",
    exclude: Annotated[list[str] | None, typer.Option(help="A csv column to leave out; repeat for more.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Fit a flow to the latents of a model, as the distribution that samples are drawn from.

    The networks stay as they are. The flow is kept only if it lowers the free energy of held-out samples. Then the
    calibration, the gallery and the held-out scores, which belong to a prior, are made anew and saved with it. DATA is
    split as it was for the training. `vae train` fits a prior by itself.

    Example: vae prior runs/fashion fashion-mnist
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.training.prior import PriorFit, PriorSettings
    from model.training.run import read_records
    from model.training.splits import training_split

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device), calibrated=False, shown=False)
    latent = loaded.vae.config.latent
    if latent < 2:
        raise TrainingError(f"{loaded.folder}: a flow needs a latent of two dimensions or more; this one has {latent}")
    dataset = open_dataset(data, loaded.vae.config.data, exclude=exclude or ())
    with console.status("Reading the samples ..."):
        split = training_split(dataset, loaded.card.training)
    settings = PriorSettings.default_for(latent, len(split.train), seed=seed, device=str(loaded.vae.device))
    if epochs is not None:
        settings = settings.model_copy(update={"epochs": epochs})
    changed = completion.fit_prior(console, loaded, split, PriorFit(latent, settings), source=dataset.source)
    if changed is None:
        return
    vae, card = changed
    calibration = completion.calibrate(console, vae, split)
    stored = None
    if gallery == "auto":
        records, names = read_records(loaded.folder), dataset.label_names()
        stored = completion.make_gallery(console, vae, split, calibration, label_names=names, learning=records)
    checkpoint.save(loaded.folder, vae, card, calibrated=calibration, shown=stored)
    console.print(f"Saved to {loaded.folder}. Evaluate it anew: vae evaluate {run} DATA --save")
