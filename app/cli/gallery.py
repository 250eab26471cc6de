"""`vae gallery`: what people look at, made for a model that has none, replaced, or taken away."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.progress import plain_console, progress
from model.errors import CheckpointError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.record import EpochRecord


def gallery_command(
    run: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    data: Annotated[str, typer.Argument(help="Data, as for `vae train`; or none, which takes the gallery away.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="(default: the cores it may use)")] = None,
) -> None:
    """Keep some inputs with a model, where everybody who may call the service can look at them.

    DATA must not have fitted the model. Where it is the very data of the training, only the samples that were set aside
    are taken. `vae train` makes a gallery of its own accord.

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
    dataset = require_unseen(open_dataset(data, loaded.vae.config.data), loaded.card.training)
    samples = dataset.load()
    with progress(console, f"Scoring {data}", len(samples)) as advance:
        made = gallery.make(
            loaded.vae,
            samples,
            labels=dataset.labels(),
            label_names=dataset.label_names(),
            calibration=loaded.calibration,
            learning=_learning(run, loaded),
            on_sample=advance,
        )
    checkpoint.save_gallery(run, made)
    console.print(f"Gallery of {loaded.folder}: {len(made):,} of {len(samples):,} samples of {dataset.source}")


def _learning(run: Path, loaded: "Checkpoint") -> "tuple[EpochRecord, ...]":
    """How the training went: from the run's own table, else from the gallery that is to be replaced."""
    from model import checkpoint
    from model.training.run import read_records

    records = read_records(loaded.folder)
    if records:
        return tuple(records)
    try:
        old = checkpoint.load(run).gallery
    except CheckpointError:  # it cannot be read, and is about to be replaced
        return ()
    return old.learning if old else ()
