"""`vae score`: scores of data of any size, as CSV."""

import csv
import os
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, get_args

import typer

from app.cli.progress import ProgressCallback, plain_console, progress, write_errors
from model.errors import DataError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.datasets import Dataset
    from model.scoring.calibration import ScoringConfig

ScoreName = Literal["free_energy", "free_energy_two_sided", "regret", "typicality"]
SCORES: tuple[str, ...] = get_args(ScoreName)


def score_command(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a shipped model's name.")],
    data: Annotated[str, typer.Argument(help="Data to score, as for `vae train`; of any size.")],
    out: Annotated[Path, typer.Option(help="CSV file to write; it appears when it is complete.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, number of draws of z per input.")] = 1,
    refine: Annotated[int, typer.Option(min=0, max=1000, help="S, number of refinement steps per input.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of the draws.")] = 0,
    flag: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mark outliers, with at most this share of false positives.")
    ] = None,
    by: Annotated[
        ScoreName | None, typer.Option(help="Score whose p-values decide.  (default: typicality, else free_energy)")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Score each sample by its variational free energy: the higher, the more anomalous.

    Writes one line per sample, in nats, with p-values where the model is calibrated for these options. POST
    /free-energy computes the same scores from the same --samples, --refine and --seed. Scores that do not apply (bits
    per dimension of a density, the standard error of one draw) are empty cells.

    --flag 0.1 adds a column `flagged`, by the procedure of Benjamini and Hochberg over all samples: if these are
    independent, at most a tenth of the flagged ones is expected to be normal.

    Example: vae score runs/fashion photos/ --out scores.csv --flag 0.1
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.files import atomic_write
    from model.scoring.calibration import ScoringConfig

    console = plain_console()
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    dataset = open_dataset(data, loaded.vae.config.data)
    scoring = ScoringConfig(samples, refine, seed)
    if flag is not None:
        _require_p_values(loaded, scoring, by)
    with write_errors(out), atomic_write(out) as temporary:
        with temporary.open("w", newline="") as file, progress(console, "Scoring", len(dataset)) as advance:
            count, reason = _write(file, loaded, dataset, scoring, advance)
        flagged = None if flag is None else _flag(temporary, by, flag)
    if flagged is not None:
        console.print(flagged)
    elif reason is not None:
        console.print(f"No p-values: {reason}", style="yellow")
    console.print(f"Wrote the scores of {count:,} samples to {out}")


def _write(
    file: IO[str], loaded: "Checkpoint", dataset: "Dataset", scoring: "ScoringConfig", advance: ProgressCallback
) -> tuple[int, str | None]:
    """Write all scores; return the number of samples, and the reason if they have no p-values."""
    from model.scoring.batches import BATCH_ROWS, score
    from model.scoring.free_energy import FreeEnergy

    writer = csv.writer(file)
    names = [field.name for field in fields(FreeEnergy)]
    writer.writerow(["sample", *names, "regret", "typicality", *(f"p_{name}" for name in SCORES)])
    count, reason = 0, None
    for batch in score(loaded.vae, dataset.batches(BATCH_ROWS), scoring, loaded.calibration):
        scores, calibrated = batch.scores, batch.scores.calibrated
        p_values, reason = calibrated.p_values or {}, calibrated.reason
        columns = [getattr(scores.estimates, name) for name in names]
        columns += [scores.regret, calibrated.typicality, *(p_values.get(name) for name in SCORES)]
        for row in range(len(batch)):
            cells = ["" if column is None else repr(float(column[row])) for column in columns]
            writer.writerow([dataset.name_of(batch.first + row), *cells])
        count += len(batch)
        advance(count)
    return count, reason


def _require_p_values(loaded: "Checkpoint", scoring: "ScoringConfig", by: str | None) -> None:
    """Report missing p-values before the work that needs them."""
    from model.scoring.calibration import UNCALIBRATED

    calibration = loaded.calibration
    if calibration is None or scoring not in calibration.references:
        reason = UNCALIBRATED if calibration is None else calibration.missing(scoring)
        raise DataError(f"nothing can be flagged without p-values: {reason}")
    reference_name = by.removesuffix("_two_sided") if by else "free_energy"
    if getattr(calibration.references[scoring], reference_name) is None:
        raise DataError(f"--by {by}: this model has no p-values of it for these scores; omit --by")


def _flag(path: Path, by: str | None, rate: float) -> str:
    """Add the column `flagged` in a second pass over the file, since it depends on the p-values of all samples."""
    import numpy as np

    from model.scoring.calibration import discoveries

    with path.open(newline="") as file:
        first = next(csv.DictReader(file), None)
    by = by or ("typicality" if first and first["p_typicality"] else "free_energy")
    with path.open(newline="") as file:
        p = np.array([float(row[f"p_{by}"]) for row in csv.DictReader(file)])
    flagged = discoveries(p, rate)
    temporary = path.with_name(f"{path.name}.flagged")
    try:
        with path.open(newline="") as file, temporary.open("w", newline="") as output:
            writer, rows = csv.writer(output), csv.reader(file)
            writer.writerow([*next(rows), "flagged"])
            writer.writerows([*row, int(flag)] for row, flag in zip(rows, flagged, strict=True))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return f"Flagged {int(flagged.sum()):,} of {len(p):,} by {by}, with a false discovery rate of {rate:g}"
