"""`vae prior`: fit a prior to the latents of a model that is there."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from app.cli import completion
from app.cli.options import Exclude, LabelColumn, LabelsName
from app.cli.progress import plain_console
from model.errors import explain

if TYPE_CHECKING:
    from model.checkpoint import Card, Checkpoint
    from model.training.splits import Split
    from model.vae import VAE


def prior_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="The data that the model was trained on.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="(default: about 3,000 steps)")] = None,
    fine_tune: Annotated[
        int, typer.Option(min=0, help="Epochs of training that encoder and decoder then have under the new prior.")
    ] = 0,
    auxiliary: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Its weight in the fine-tuning.  (default: that of the training)"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of all random numbers.")] = 0,
    gallery: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: if the model has a gallery, make it anew. none: remove it."),
    ] = "auto",
    labels: Annotated[LabelsName, typer.Option(help="none: do not distinguish the labels of the samples.")] = "auto",
    label: LabelColumn = None,
    exclude: Exclude = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Fit a flow to the latents of a model, as the distribution that samples are drawn from.

    The networks stay as they are, unless --fine-tune trains them on. The flow, and then the fine-tuning, is kept only
    if it lowers the free energy of held-out samples. Then the calibration on set-aside samples, the gallery if there is
    one, and the held-out scores, which belong to a prior, are made anew and saved with it. DATA is split as it was for
    the training. `vae train` does all of this by itself.

    Example: vae prior runs/fashion fashion-mnist
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.training.prior import LearnedLabels, PriorFit, PriorSettings, require_flow
    from model.training.splits import training_split

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device), calibrated=False, shown=False)
    latent = loaded.vae.config.latent
    dataset = open_dataset(data, loaded.vae.config.data, exclude=exclude or (), label=label)
    with console.status("Reading the samples ..."):
        split = training_split(dataset, loaded.card.training)
    require_flow(latent, split)
    learned = LearnedLabels.of(split) if labels == "auto" else None
    settings = PriorSettings.default_for(
        latent,
        len(split.train),
        labels=learned.labels if learned else (),
        seed=seed,
        device=str(loaded.vae.device),
    )
    if epochs is not None:
        settings = settings.model_copy(update={"epochs": epochs})
    changed = completion.fit_prior(console, loaded, split, PriorFit(latent, settings), source=dataset.source)
    if changed is None:
        return
    vae, card = changed
    if fine_tune:
        vae, card = _fine_tune(console, replace(loaded, vae=vae, card=card), split, fine_tune, auxiliary) or changed
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


def _fine_tune(
    console: Console, model: "Checkpoint", split: "Split", epochs: int, auxiliary: float | None
) -> "tuple[VAE, Card] | None":
    from model.errors import TrainingError
    from model.training.loop import TrainingSettings
    from model.training.tuning import FineTuning, tuning_settings

    assert model.card.training is not None
    try:
        settings = TrainingSettings.model_validate(model.card.training.settings)
    except ValidationError as error:
        raise TrainingError(f"{model.folder}: the settings of its training are not known ({explain(error)})") from error
    # The training may have been on another machine.
    changes = {"epochs": epochs, "device": str(model.vae.device), "precision": "float32"}
    changes |= {} if auxiliary is None else {"auxiliary": auxiliary}
    tuning = FineTuning(model.vae.config, tuning_settings(settings).model_copy(update=changes))
    return completion.fine_tune(console, model, split, tuning)
