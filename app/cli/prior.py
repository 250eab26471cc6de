"""`vae prior`: fit a prior to the latents of a model that is there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli import completion
from app.cli.progress import plain_console


def prior_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="The data that the model was trained on.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="(default: about 3,000 steps)")] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of all random numbers.")] = 0,
    gallery: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: if the model has a gallery, make it anew. none: remove it."),
    ] = "auto",
    exclude: Annotated[list[str] | None, typer.Option(help="A csv column to leave out; repeat for more.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Fit a flow to the latents of a model, as the distribution that samples are drawn from.

    The networks stay as they are. The flow is kept only if it lowers the free energy of held-out samples. Then the
    calibration on set-aside samples, the gallery if there is one, and the held-out scores, which belong to a prior, are
    made anew and saved with it. DATA is split as it was for the training. `vae train` fits a prior by itself.

    Example: vae prior runs/fashion fashion-mnist
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.training.prior import PriorFit, PriorSettings, require_flow
    from model.training.splits import training_split

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device), calibrated=False, shown=False)
    latent = loaded.vae.config.latent
    dataset = open_dataset(data, loaded.vae.config.data, exclude=exclude or ())
    with console.status("Reading the samples ..."):
        split = training_split(dataset, loaded.card.training)
    require_flow(latent, split)
    settings = PriorSettings.default_for(latent, len(split.train), seed=seed, device=str(loaded.vae.device))
    if epochs is not None:
        settings = settings.model_copy(update={"epochs": epochs})
    changed = completion.fit_prior(console, loaded, split, PriorFit(latent, settings), source=dataset.source)
    if changed is None:
        return
    vae, card = changed
    calibration = completion.calibrate(console, vae, split)
    stored = None
    # A model without a gallery may have been trained on private data.
    if gallery == "auto" and (loaded.folder / checkpoint.GALLERY).exists():
        records, names = completion.learning_records(run, loaded.folder), dataset.label_names()
        stored = completion.make_gallery(console, vae, split, calibration, label_names=names, learning=records)
    checkpoint.save(loaded.folder, vae, card, calibrated=calibration, shown=stored)
    if calibration is None:
        console.print("No samples were set aside, so it has no calibration: vae calibrate makes one on other data")
    console.print(f"Saved to {loaded.folder}. Evaluate it anew: vae evaluate {run} DATA --save")
