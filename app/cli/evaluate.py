"""`vae evaluate`: a report on unseen data as tables, JSON, plots and an HTML page."""

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

from app.cli.options import LabelColumn
from app.cli.progress import plain_console, progress, write_errors
from model.errors import DataError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.data import Array
    from model.datasets import Dataset
    from model.report.evaluation import Evaluation, Report
    from model.report.quality import Quality
    from model.scoring.detection import Detection

#: Which samples are evaluated if the data is the training data.
SPLIT_MESSAGES = {
    "set_aside": "Only its {:,} samples that were set aside are evaluated: training did not use them.",
    "held_out": "Only its {:,} samples that were held out are evaluated: they chose the epoch, so scores are too good.",
}


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or a shipped model's name.")],
    data: Annotated[str, typer.Argument(help="Data that the model was not fitted to, as for `vae train`.")],
    samples: Annotated[int, typer.Option(min=1, max=5000, help="K, number of draws of z per input.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Seed of the draws.")] = 0,
    detection: Annotated[
        int, typer.Option(min=0, help="Number of inputs of each set for outlier detection; 0 skips it.")
    ] = 10_000,
    refine: Annotated[
        int, typer.Option(min=0, max=1000, help="Refinement steps for the regret of a tenth of these; 0 skips it.")
    ] = 20,
    against: Annotated[
        list[str] | None, typer.Option(help="More outliers, as for `vae train`; repeat for more.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write plots into this folder.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report as one HTML page, with its images in a folder beside it.")
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            help="The training data, whose images nearest to samples the HTML page then shows.  (default: DATA, if it "
            "is that)"
        ),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Store the report in the model's card.")] = False,
    label: LabelColumn = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  (default: available cores)")] = None,
) -> None:
    """Evaluate a model on data that it was not fitted to.

    If DATA is the training data, only the samples that were set aside are evaluated; without these, those held out.

    Free energy is an upper bound on -log P(x), in nats. For discrete data it is a code length, and the report also has
    bits per dimension, and for images the code lengths of PNG and other codecs.

    The detection tables have the AUROC of every score: the probability that an outlier of a named set scores higher
    than an input of this data. They use one draw each; for regret, 16 draws of a tenth of the inputs.

    --report out.html writes one page that works offline: learning curves, reconstructions, samples, a map of the
    latents, rates, scores, and the inputs with the highest and lowest scores. out_files/ gets its images.

    Example: vae evaluate runs/fashion fashion-mnist:test --against photos/ --save
    """
    from app.inference.devices import choose_device, set_threads
    from model import checkpoint
    from model.datasets import open_dataset
    from model.files import write_atomic
    from model.report.evaluation import evaluate
    from model.scoring.calibration import ScoringConfig
    from model.scoring.detection import detect
    from model.training.splits import evaluation_subset

    console = plain_console()
    _require_writable(out, plots, report)
    set_threads(threads)
    loaded = checkpoint.load(run, choose_device(device))
    dataset, split = evaluation_subset(open_dataset(data, loaded.vae.config.data, label=label), loaded.card.training)
    if split is not None:
        console.print(f"{data} is what the model was trained on. {SPLIT_MESSAGES[split].format(len(dataset))}")
    source = training or (data if split is not None else None)
    fitted = None if report is None or source is None else _fitted_images(source, loaded)
    others = [open_dataset(name, loaded.vae.config.data) for name in against or ()]
    with progress(console, f"Scoring {dataset.describe()}", len(dataset)) as advance:
        evaluation = evaluate(loaded.vae, dataset, draws=samples, seed=seed, on_batch=advance)
    result = replace(evaluation.report, portion=split)
    for scoring, inputs in (
        (ScoringConfig(1, 0, seed), detection),
        (ScoringConfig(16, refine, seed), detection // 10 if refine else 0),
    ):
        if inputs:
            with console.status(f"Detecting outliers ({scoring})"):
                areas = detect(loaded.vae, dataset, others, scoring, loaded.calibration, inputs)
            result = replace(result, detection=[*result.detection, areas])
    console.print(_table(result, loaded.card.name))
    for areas in result.detection:
        table = _areas(areas)
        # With many sets, lines that are too long are better than numbers that are cut off.
        width = Measurement.get(console, console.options.update(width=1000), table).minimum
        console.print(table, width=max(console.width, width), crop=False)
    if plots is not None:
        from model.report.plots import draw_report

        with write_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
            draw_report(result, evaluation.free_energy, plots)
        console.print(f"Wrote plots into {plots}")
    if save:
        checkpoint.save_card(run, loaded.card.model_copy(update={"evaluation": result.plain()}))
        console.print(f"Stored in the card of {loaded.folder}")
    if out is not None:
        with write_errors(out):
            write_atomic(out, (json.dumps(result.plain(), indent=2) + "\n").encode())
        console.print(f"Wrote {out}")
    if report is not None:
        with console.status(f"Drawing {report}"):
            folder = _write(report, loaded, replace(evaluation, report=result), dataset, fitted)
        console.print(f"Wrote {report}, and its images into {folder}")


def _require_writable(out: Path | None, plots: Path | None, report: Path | None) -> None:
    """Report outputs that cannot be written before the work starts."""
    for file in (out, report):
        if file is not None and not file.absolute().parent.is_dir():
            raise DataError(f"{file}: there is no such folder to write to; make it first")
    if report is not None and report.is_dir():
        raise DataError(f"{report}: is a folder; name a file in it, as in {report / 'report.html'}")
    for option, path in (("--plots", plots), ("--report", report)):
        if path is not None and find_spec("matplotlib") is None:
            raise DataError(f"{option} needs matplotlib: pip install 'vae-server[train]'")


def _fitted_images(training: str, loaded: "Checkpoint") -> "Array | None":
    """The images that a model was fitted to; None for other data. Raise `DataError` if it was not trained on these."""
    from model.config import ImageData
    from model.datasets import open_dataset
    from model.training.splits import training_split

    data = loaded.vae.config.data
    if not isinstance(data, ImageData):
        return None
    return training_split(open_dataset(training, data), loaded.card.training).train


def _write(
    path: Path, loaded: "Checkpoint", evaluation: "Evaluation", dataset: "Dataset", fitted: "Array | None"
) -> Path:
    """Write the page, with samples beside the images that the model was fitted to, if they are given."""
    from model.report import nearest, page
    from model.report.evaluation import evenly_spaced
    from model.training.run import read_records

    beside = None
    if fitted is not None:
        beside = nearest.find(loaded.vae, fitted, evenly_spaced(dataset, evaluation.report.samples))
    records = read_records(loaded.folder) or list(loaded.gallery.learning if loaded.gallery else ())
    return page.write(path, page.ReportInput(loaded, evaluation, dataset, records, beside))


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
    if report.quality is not None:
        _add_quality(table, report.quality)
    table.add_section()
    for sample in report.worst:
        add(f"costliest: {sample['sample']}", sample["free_energy"])
    return table


def _add_quality(table: Table, quality: "Quality") -> None:
    from model.report.text import quality_rows

    table.add_section()
    for row in quality_rows(quality):
        table.add_row(row.name, row.value)
    beside = f"PCA with {quality.components} components"
    if quality.pca_psnr is not None:
        table.add_row(f"PSNR, {beside}", f"{quality.pca_psnr:.1f} dB")
    if quality.pca_explained is not None:
        table.add_row(f"Variance explained, {beside}", f"{quality.pca_explained:.1%}")


def _areas(detection: "Detection") -> Table:
    from model.scoring.detection import SCORES

    table = Table(
        title=Text(
            f"AUROC against {detection.inliers:,} inputs (samples={detection.samples}, refine={detection.refine})"
        ),
        box=box.SIMPLE_HEAD,  # narrow: all sets of outliers for images fit into 80 columns
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("score", no_wrap=True, min_width=max(len(name) for name in SCORES))
    for name, count in detection.outliers.items():
        title = f"{name} ({count:,})"
        # Titles break at spaces if words are short; long words such as paths are folded.
        table.add_column(title, justify="right", overflow="fold", min_width=min(10, max(map(len, title.split()))))
    for score in dict.fromkeys(score for areas in detection.auroc.values() for score in areas):
        table.add_row(score, *(f"{areas[score]:.4f}" for areas in detection.auroc.values()))
    return table
