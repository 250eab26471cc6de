"""`vae score`: the scores of data of any size, as csv."""

import csv
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, get_args

import typer

from app.cli.progress import Advance, plain_console, progress
from model.errors import DataError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.datasets import Dataset
    from model.scoring.calibration import Protocol

ScoreName = Literal["free_energy", "free_energy_two_sided", "regret", "typicality"]
SCORES: tuple[str, ...] = get_args(ScoreName)


def score_command(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a shipped model's name.")],
    data: Annotated[str, typer.Argument(help="What to score, as for `vae train`; of any size.")],
    out: Annotated[Path, typer.Option(help="The csv to write; it appears when it is complete.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, draws of z per input.")] = 1,
    refine: Annotated[int, typer.Option(min=0, max=1000, help="S, steps of refinement per input.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the draws.")] = 0,
    flag: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mark outliers, of which at most this share is in error.")
    ] = None,
    by: Annotated[
        ScoreName | None, typer.Option(help="Whose p-values decide.  (default: typicality, else free_energy)")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="(default: the cores it may use)")] = None,
) -> None:
    """Score each sample by its variational free energy: the higher, the more anomalous.

    The same scores as POST /free-energy gives for the same --samples, --refine and --seed, one line a sample, in nats,
    with p-values where the model is calibrated for these. Scores that do not apply (bits per dimension of a density,
    the standard error of one draw) are empty cells.

    --flag 0.1 adds a column `flagged`, by the procedure of Benjamini and Hochberg over all samples: where they are
    independent, at most a tenth of those flagged is expected to be normal.

    Example: vae score runs/fashion photos/ --out scores.csv --flag 0.1
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.files import atomic_write
    from model.scoring.calibration import Protocol

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    dataset = open_dataset(data, loaded.vae.config.data)
    protocol = Protocol(samples, refine, seed)
    if flag is not None:
        _require_p_values(loaded, protocol, by)
    try:
        with atomic_write(out) as part:
            with part.open("w", newline="") as file, progress(console, "Scoring", len(dataset)) as advance:
                written = _write(file, loaded, dataset, protocol, advance)
            flagged = None if flag is None else _flag(part, by, flag)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror}); make room, or name a file in another folder that is there"
        ) from error
    if flagged is not None:
        console.print(flagged)
    elif written.reason is not None:
        console.print(f"No p-values: {written.reason}", style="yellow")
    console.print(f"Wrote the scores of {written.count:,} samples to {out}")


@dataclass(frozen=True)
class _Written:
    count: int
    reason: str | None


def _write(file: IO[str], loaded: "Checkpoint", dataset: "Dataset", protocol: "Protocol", advance: Advance) -> _Written:
    from model.scoring.free_energy import FreeEnergy
    from model.scoring.score import ROWS, score

    writer = csv.writer(file)
    names = [field.name for field in fields(FreeEnergy)]
    writer.writerow(["sample", *names, "regret", "typicality", *(f"p_{name}" for name in SCORES)])
    count, reason = 0, None
    for part in score(loaded.vae, dataset.batches(ROWS), protocol, loaded.calibration):
        scored, verdict = part.scored, part.verdict
        p_values, reason = verdict.p_values or {}, verdict.reason
        values = [getattr(scored.scores, name) for name in names]
        values += [scored.regret, verdict.typicality, *(p_values.get(name) for name in SCORES)]
        for row in range(len(part.rate_per_dimension)):
            cells = ["" if column is None else repr(float(column[row])) for column in values]
            writer.writerow([dataset.name_of(part.first + row), *cells])
        count += len(part.rate_per_dimension)
        advance(count)
    return _Written(count, reason)


def _require_p_values(loaded: "Checkpoint", protocol: "Protocol", by: str | None) -> None:
    """Say before the work what would be missing after it."""
    from model.scoring.calibration import UNCALIBRATED

    known = loaded.calibration
    if known is None or protocol not in known.references:
        reason = UNCALIBRATED if known is None else known.refuse(protocol).reason
        raise DataError(f"nothing can be flagged without p-values: {reason}")
    kept = by.removesuffix("_two_sided") if by else "free_energy"
    if getattr(known.references[protocol], kept) is None:
        raise DataError(f"--by {by}: this model has no p-values of it for these scores; leave --by away")


def _flag(path: Path, by: str | None, rate: float) -> str:
    """Add a column to a file of scores in a second pass over it: the p-values of all samples decide about each."""
    import numpy as np

    from model.scoring.calibration import discoveries

    with path.open(newline="") as file:
        first = next(csv.DictReader(file), None)
    by = by or ("typicality" if first and first["p_typicality"] else "free_energy")
    with path.open(newline="") as file:
        p = np.array([float(row[f"p_{by}"]) for row in csv.DictReader(file)])
    flagged = discoveries(p, rate)
    fresh = path.with_name(f"{path.name}.flagged")
    try:
        with path.open(newline="") as file, fresh.open("w", newline="") as marked:
            writer, rows = csv.writer(marked), csv.reader(file)
            writer.writerow([*next(rows), "flagged"])
            writer.writerows([*row, int(mark)] for row, mark in zip(rows, flagged, strict=True))
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return f"Flagged {int(flagged.sum()):,} of {len(p):,} by {by}, with a false discovery rate of {rate:g}"
