"""`vae score`: the scores of data of any size, as csv."""

import csv
import os
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from app.progress import Advance, plain_console, progress
from model.errors import DataError

if TYPE_CHECKING:
    from model.datasets import Dataset
    from model.vae import VAE


def score_command(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a shipped model's name.")],
    data: Annotated[str, typer.Argument(help="What to score, as for `vae train`; of any size.")],
    out: Annotated[Path, typer.Option(help="The csv to write; it appears when it is complete.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, draws of z per input.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="(default: the cores it may use)")] = None,
) -> None:
    """Score each sample by its variational free energy: the higher, the more anomalous.

    The same scores as POST /free-energy gives for the same --samples and --seed, one line a sample, in nats. Scores
    that do not apply (bits per dimension of a density, the standard error of one draw) are empty cells.

    Example: vae score runs/fashion photos/ --out scores.csv
    """
    from app.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    dataset = open_dataset(data, loaded.vae.config.data)
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", newline="") as file, progress(console, "Scoring", len(dataset)) as advance:
            count = _write(file, loaded.vae, dataset, samples, seed, advance)
        os.replace(part, out)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    console.print(f"Wrote the scores of {count:,} samples to {out}")


def _write(file: IO[str], vae: "VAE", dataset: "Dataset", samples: int, seed: int, advance: Advance) -> int:
    from model.evaluation import score
    from model.free_energy import FreeEnergy

    writer = csv.writer(file)
    columns = [field.name for field in fields(FreeEnergy)]
    writer.writerow(["sample", *columns])
    count = 0
    for part in score(vae, dataset, draws=samples, seed=seed):
        values = [getattr(part.scores, name) for name in columns]
        for row in range(len(part.mean)):
            cells = ["" if column is None else repr(float(column[row])) for column in values]
            writer.writerow([dataset.name_of(part.first + row), *cells])
        count += len(part.mean)
        advance(count)
    return count
