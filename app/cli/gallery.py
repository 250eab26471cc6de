"""`vae gallery`: add, replace or remove the gallery of a model."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import completion
from app.cli.options import LabelColumn
from app.cli.progress import plain_console, progress


def gallery_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="Data, as for `vae train`; or none, to remove the gallery.")],
    label: LabelColumn = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Store some samples with a model, where everyone who can call the service can see them.

    The model must not have been fitted to DATA. If DATA is the training data, only the samples that were set aside are
    used. `vae train` makes a gallery by itself.

    Example: vae gallery runs/photos held-out-photos/
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint, gallery
    from model.datasets import open_dataset
    from model.training.splits import require_unseen

    console = plain_console()
    if data == "none":
        checkpoint.save_gallery(run, None)
        console.print(f"{checkpoint.find(run)} has no gallery")
        return
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device), shown=False)
    dataset = require_unseen(open_dataset(data, loaded.vae.config.data, label=label), loaded.card.training)
    samples = dataset.load()
    with progress(console, f"Scoring {data}", len(samples)) as advance:
        stored = gallery.make(
            loaded.vae,
            samples,
            labels=dataset.labels(),
            label_names=dataset.label_names(),
            calibration=loaded.calibration,
            learning=completion.learning_records(run, loaded.folder),
            on_sample=advance,
        )
    checkpoint.save_gallery(run, stored)
    console.print(f"Gallery of {loaded.folder}: {len(stored):,} of {len(samples):,} samples of {dataset.source}")
    completion.tell_if_not_embedded(console, stored)
