"""`vae evaluate`: the held-out report, as a table and as JSON."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from app.cli.progress import plain_console, progress
from model.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.checkpoint import Checkpoint
    from model.datasets import Dataset
    from model.record import EpochRecord
    from model.report.evaluation import Evaluation, Report
    from model.scoring.detection import Detection

#: What is judged of the data of the training itself.
ONLY = {
    "set_aside": "Judged are the {:,} samples of it that were set aside: they neither fitted it nor chose its epoch.",
    "held_out": "Judged are the {:,} samples of it that were held out: they chose its epoch, which flatters it.",
}


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a shipped model's name.")],
    data: Annotated[str, typer.Argument(help="Data the model was not fitted to, as for `vae train`.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, draws of z per input.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the draws.")] = 0,
    detection: Annotated[
        int, typer.Option(min=0, help="Inputs of each set that scores are to tell apart; 0 leaves this away.")
    ] = 10_000,
    refine: Annotated[
        int, typer.Option(min=0, max=1000, help="Steps for the regret of a tenth of these; 0 leaves it away.")
    ] = 20,
    against: Annotated[list[str] | None, typer.Option(help="More outliers, as for `vae train`; repeat.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw its pictures into this folder.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write it as one HTML page, with its pictures in a folder beside it.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep the report in the model's card.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="(default: the cores it may use)")] = None,
) -> None:
    """Judge a model honestly, on data that it was not fitted to.

    Where DATA is the very data of the training, only what was set aside is judged, or held out where nothing was.

    Free energy is what a sample costs under the model: an upper bound on nlog P(x), in nats. Where x is discrete it
    is a code length, given in bits per dimension too, beside what PNG and others make of the same images.

    Then what the scores are good for: the probability that an outlier of a named set scores higher than an input of
    this data (AUROC), for every score, from one draw each; and for regret from 16 draws of a tenth of the inputs.

    --report out.html writes all of it as one page that needs neither a server nor a network: learning curves,
    reconstructions, samples, a map of the latents, rates, scores, and the most and least surprising inputs; out_files/
    gets the pictures.

    Example: vae evaluate runs/fashion fashion-mnist:test --against photos/ --save
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.report.evaluation import evaluate
    from model.scoring.calibration import ScoringConfig
    from model.scoring.detection import detect
    from model.training.splits import evaluation_subset

    console = plain_console()
    _refuse(out, plots, report)
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    dataset, portion = evaluation_subset(open_dataset(data, loaded.vae.config.data), loaded.card.training)
    if portion is not None:
        console.print(f"{data} is what the model was trained on. {ONLY[portion].format(len(dataset))}")
    others = [open_dataset(name, loaded.vae.config.data) for name in against or ()]
    with progress(console, f"Scoring {dataset.describe()}", len(dataset)) as advance:
        found = evaluate(loaded.vae, dataset, draws=samples, seed=seed, on_batch=advance)
    made = replace(found.report, portion=portion)
    protocols = [
        (ScoringConfig(1, 0, seed), detection),
        (ScoringConfig(16, refine, seed), detection // 10 if refine else 0),
    ]
    for protocol, most in protocols:
        if most:
            with console.status(f"Telling outliers apart ({protocol})"):
                compared = detect(loaded.vae, dataset, others, protocol, loaded.calibration, most)
            made = replace(made, detection=[*made.detection, compared])
    console.print(_table(made, loaded.card.name))
    for compared in made.detection:
        table = _areas(compared)
        # Where there are many sets, rather a line that is too long than numbers that are cut off.
        least = Measurement.get(console, console.options.update(width=1000), table).minimum
        console.print(table, width=max(console.width, least), crop=False)
    if plots is not None:
        _draw(made, found.free_energy, plots)
        console.print(f"Drew {plots}")
    if save:
        checkpoint.save_card(run, loaded.card.model_copy(update={"evaluation": made.plain()}))
        console.print(f"Kept in the card of {loaded.folder}")
    if out is not None:
        _write_json(out, made)
        console.print(f"Wrote {out}")
    if report is not None:
        with console.status(f"Drawing {report}"):
            folder = _write(report, loaded, replace(found, report=made), dataset)
        console.print(f"Wrote {report}, and its pictures into {folder}")


def _refuse(out: Path | None, plots: Path | None, report: Path | None) -> None:
    """What cannot be written, before there is work for nothing."""
    for file in (out, report):
        if file is not None and not file.absolute().parent.is_dir():
            raise DataError(f"{file}: there is no such folder to write to; make it first")
    if report is not None and report.is_dir():
        raise DataError(f"{report}: is a folder; name a file in it, as in {report / 'report.html'}")
    for option, wish in (("--plots", plots), ("--report", report)):
        if wish is not None and find_spec("matplotlib") is None:
            raise DataError(f"{option} needs matplotlib: pip install 'vae-server[train]'")


def _write(path: Path, loaded: "Checkpoint", evaluation: "Evaluation", dataset: "Dataset") -> Path:
    from model.report import page as paper

    return paper.write(path, paper.Subject(loaded, evaluation, dataset, _records(loaded)))


def _write_json(path: Path, report: "Report") -> None:
    from model import files

    try:
        files.write_atomic(path, (json.dumps(report.plain(), indent=2) + "\n").encode())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); make room, or name a file in another folder"
        ) from error


def _records(loaded: "Checkpoint") -> "list[EpochRecord]":
    """How the training went, from the run's table or from the gallery."""
    from model.training.run import read_records

    records = read_records(loaded.folder)
    if records or loaded.gallery is None:
        return records
    return list(loaded.gallery.learning)


def _draw(report: "Report", free_energy: "NDArray[np.float64]", folder: Path) -> None:
    from model.report import plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw_report(report, free_energy, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be drawn into ({error.strerror}); make room, or name another folder"
        ) from error


def _table(report: "Report", name: str) -> Table:
    table = Table(title=Text(f"{name} on {report.samples:,} samples of {report.dataset}, {report.draws} draws each"))
    table.add_column("score")
    table.add_column("nats per sample", justify="right")
    scale = report.bits_per_dim / report.free_energy if report.bits_per_dim is not None else None
    if scale is not None:
        table.add_column("bits per dimension", justify="right")

    def add(label: str, nats: float, error: float | None = None) -> None:
        cells = [f"{nats:.2f}" + (f" ± {error:.2f}" if error is not None else "")]
        if scale is not None:
            cells.append(f"{nats * scale:.4f}" + (f" ± {error * scale:.4f}" if error is not None else ""))
        table.add_row(label, *cells)

    add("free energy", report.free_energy, report.free_energy_standard_error)
    add("  distortion", report.distortion)
    add("  rate", report.rate)
    add(f"nlog P(x), importance-weighted, K={report.draws}", report.nlog_p_x)
    for percentile, value in report.free_energy_percentiles.items():
        add(f"free energy, percentile {percentile}", value)
    table.add_section()
    for codec, bits in report.codecs_bits_per_dim.items():
        table.add_row(codec, "", f"{bits:.4f}")
    table.add_row("active latent dimensions", f"{report.active_units} of {report.latent}")
    if report.scales_at_floor is not None:
        table.add_row("scales at their floor", f"{report.scales_at_floor:.2%}")
    table.add_section()
    for sample in report.worst:
        add(f"costliest: {sample['sample']}", sample["free_energy"])
    return table


def _areas(detection: "Detection") -> Table:
    from model.scoring.detection import SCORES

    table = Table(
        title=Text(
            f"AUROC against {detection.inliers:,} inputs (samples={detection.samples}, refine={detection.refine})"
        ),
        box=box.SIMPLE_HEAD,  # narrow enough for 80 columns with all the sets that there are for images
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("score", no_wrap=True, min_width=max(len(name) for name in SCORES))
    for name, count in detection.outliers.items():
        words = f"{name} ({count:,})"
        # Whole words as far as there is room: a path has none to break at.
        table.add_column(words, justify="right", overflow="fold", min_width=min(10, max(map(len, words.split()))))
    scores = list(dict.fromkeys(score for areas in detection.auroc.values() for score in areas))
    for score in scores:
        table.add_row(score, *(f"{areas[score]:.4f}" for areas in detection.auroc.values()))
    return table
