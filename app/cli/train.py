"""`vae train`: from a name or path of data to a run, with a progress bar and a line an epoch."""

import math
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.progress import plain_console, progress
from model.errors import TrainingError

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.record import EpochRecord
    from model.training.run import Run
    from model.training.splits import Split

NetworkName = Literal["mlp", "conv"]
LikelihoodName = Literal["gaussian", "discretized", "bernoulli"]
ScaleName = Literal["shared", "per_dimension"]
OptimizerName = Literal["adamw", "muon"]
PrecisionName = Literal["float32", "bfloat16"]
GalleryName = Literal["auto", "none"]

MODEL, TRAINING, DATA_PANEL = "What the model is", "How it is trained", "Data"
#: Seconds between two drawings of the plots: an epoch of a small table takes less time than its pictures.
PLOT_EVERY = 60.0


def train(
    data: Annotated[str, typer.Argument(help="fashion-mnist, or a path: idx(.gz), .npy, .npz, .csv, image folder.")],
    out: Annotated[Path, typer.Option(help="The run's folder. Repeat the same command to resume it.")],
    name: Annotated[str | None, typer.Option(help="What the model calls itself.  (default: the name of OUT)")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A csv column to leave out; repeat for more.", rich_help_panel=DATA_PANEL)
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(help="Samples that only judge.  (default: a tenth, 5,000 at most)", rich_help_panel=DATA_PANEL),
    ] = None,
    set_aside: Annotated[
        int | None,
        typer.Option(
            help="Samples that neither fit nor judge: the reference of p-values.  (default: a tenth, 5,000 at most)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    gallery: Annotated[
        GalleryName,
        typer.Option(
            help="none: keep no samples with the model. auto: keep some of those set aside, where everybody who may "
            "call the service can look at them.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = "auto",
    network: Annotated[
        NetworkName | None, typer.Option(help="(default: conv for images, mlp for vectors)", rich_help_panel=MODEL)
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="mlp: widths from the data inwards, as in 512,256, or ''.  (default: 512,256 for images; for vectors "
            "64,64 or 256,256, and linear, '', below 1,000 rows)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="conv: channels of each stage, as in 32,64.", rich_help_panel=MODEL)
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="conv: residual blocks of each stage, as in 1,2.", rich_help_panel=MODEL)
    ] = None,
    latent: Annotated[
        int | None,
        typer.Option(
            help="Numbers in a latent.  (default: 64 for images; for vectors half the columns, or a sixth of few rows)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    likelihood: Annotated[
        LikelihoodName | None,
        typer.Option(
            help="discretized: bytes, scores in bits. gaussian: real numbers, scores of a density. bernoulli: bits.  "
            "(default: discretized for bytes, else gaussian)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    components: Annotated[
        int | None, typer.Option(help="discretized: logistics per pixel.  (default: 3)", rich_help_panel=MODEL)
    ] = None,
    autoregressive: Annotated[
        bool | None,
        typer.Option(help="discretized: each byte leans on its neighbours.  (default: it does)", rich_help_panel=MODEL),
    ] = None,
    scale: Annotated[
        ScaleName | None,
        typer.Option(
            help="gaussian: how many noise scales are learned.  (default: shared for images, else per_dimension)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    min_scale: Annotated[
        float | None,
        typer.Option(help="Floor of the noise scale.  (default: 0.01, discretized 0.1 bytes)", rich_help_panel=MODEL),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="(default: some 8,000 steps, at least 20)", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Samples a step.  (default: 128, fewer for small data)", rich_help_panel=TRAINING),
    ] = None,
    optimizer: Annotated[
        OptimizerName | None, typer.Option(help="(default: muon for conv, adamw for mlp)", rich_help_panel=TRAINING)
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="At its highest; cosine to zero.", rich_help_panel=TRAINING)
    ] = 2e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.", rich_help_panel=TRAINING)] = 0.01,
    average: Annotated[
        float, typer.Option(help="Decay of the running average of the weights.", rich_help_panel=TRAINING)
    ] = 0.999,
    inference_steps: Annotated[
        int, typer.Option(help="The encoder's steps for one of the decoder's.", rich_help_panel=TRAINING)
    ] = 1,
    auxiliary: Annotated[
        float | None,
        typer.Option(
            help="autoregressive: weight of an added loss, of bytes without their neighbours. It fills the latent, "
            "and keeps decoded means true: with 0 they may mean nothing.  (default: 0.3)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides all chance.", rich_help_panel=TRAINING)] = 0,
    precision: Annotated[
        PrecisionName, typer.Option(help="bfloat16 is faster where the hardware has it.", rich_help_panel=TRAINING)
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda; auto takes cuda where there is one.", rich_help_panel=TRAINING)
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="(default: the cores it may use; 1 for tables)", rich_help_panel=TRAINING)
    ] = None,
) -> None:
    """Train a VAE on your data. Every setting has a default; killed at any moment, the same command resumes.

    The run's folder holds the best model so far (checkpoint/), metrics.csv, plots/, and the state to resume from. When
    it has ended, samples that were set aside calibrate the scores of the best model, and some go into its gallery.

    Scores are on held-out samples, in nats per sample: free energy = distortion + rate, lower is better, and never
    below the true cost of a sample. For bytes the same in bits per dimension: PNG's cost is the one to beat.

    Example: vae train fashion-mnist --out runs/fashion --epochs 30
    """
    import torch

    from app.inference.devices import choose_device, set_threads
    from model.datasets import open_dataset
    from model.training.config import Recipe
    from model.training.run import Run

    console = plain_console()
    dataset = open_dataset(data, exclude=exclude or ())
    # The layers of a table's model are so small that threads would wait for each other most of the time.
    set_threads(threads or (1 if dataset.columns else None))
    console.print(f"Reading {dataset.describe()}")
    wishes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "optimizer": optimizer,
        "average": average,
        "inference_steps": inference_steps,
        "auxiliary": auxiliary,
        "held_out": held_out,
        "set_aside": set_aside,
        "seed": seed,
        "precision": precision,
        "device": choose_device(device),
    }
    shape = _given(name=network, hidden=_sizes(hidden), channels=_sizes(channels), blocks=_sizes(blocks))
    observed = _given(
        name=likelihood, components=components, autoregressive=autoregressive, scale=scale, min_scale=min_scale
    )
    with console.status("Reading the samples ..."):
        recipe, split = Recipe.plan(
            dataset, network=shape, likelihood=observed, latent=latent, settings=_given(**wishes)
        )
    run = Run.open(out, recipe)
    _introduce(console, run, torch.get_num_threads())
    _Loop(console, run, split, name or out.name, _Shown(gallery == "auto", dataset.label_names())).go()


def _given(**wishes: Any) -> dict[str, Any]:
    """What was asked for, without what was not."""
    return {key: value for key, value in wishes.items() if value is not None}


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of whole numbers; write them as in 32,64") from None


def _introduce(console: Console, run: "Run", threads: int) -> None:
    config, settings = run.recipe.config, run.recipe.settings
    weights = sum(p.numel() for p in run.training.vae.parameters())
    console.print(
        f"Model: {config.network.name}, latent {config.latent}, {config.likelihood.name} likelihood, "
        f"{weights:,} weights; {config.data.describe()}"
    )
    console.print(
        f"Training on {run.recipe.samples - settings.held_out - settings.set_aside:,} samples, judged on "
        f"{settings.held_out:,} held out, {settings.set_aside:,} set aside; "
        f"{settings.epochs} epochs on {settings.device} with {threads} threads"
    )
    if run.records:
        console.print(f"Resuming {run.folder} after epoch {run.records[-1].epoch}")


@dataclass(frozen=True)
class _Shown:
    """Whether the model gets a gallery, and what its labels are called."""

    wanted: bool
    label_names: tuple[str, ...] | None


class _Loop:
    """Epochs, with what is shown and saved between them."""

    def __init__(self, console: Console, run: "Run", split: "Split", name: str, shown: _Shown) -> None:
        self.console, self.run, self.split, self.name, self.shown = console, run, split, name, shown
        self.total = run.recipe.settings.epochs
        self.drawn_at = time.monotonic()
        self.busy = sum(record.seconds for record in run.records)

    def go(self) -> None:
        self.console.print(_HEADER, style="bold")
        for record in self.run.records[-3:]:
            self.console.print(self._line(record))
        with Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} batches"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            batches = math.ceil(len(self.split.fit) / self.run.recipe.settings.batch_size)
            bar = progress.add_task("", epoch=self.run.training.epoch + 1, total=batches)

            def on_batch(done: int, total: int) -> None:
                progress.update(bar, completed=done, total=total, epoch=self.run.training.epoch + 1)

            for record in self.run.training.epochs(self.split.fit, self.split.held_out, on_batch):
                self.busy += record.seconds
                self.run.add(record, self._card(record))
                progress.console.print(self._line(record))
                if time.monotonic() - self.drawn_at > PLOT_EVERY and record.epoch < self.total:
                    self._draw()
        self._finish()

    def _finish(self) -> None:
        self._draw()
        self._calibrate()
        self._show()
        best = self.run.best
        assert best is not None
        bits = f", {best.bits_per_dim:.4f} bits per dimension" if best.bits_per_dim is not None else ""
        self.console.print(f"Best on held-out samples: epoch {best.epoch}, {best.free_energy:.2f} nats{bits}")
        self.console.print(f"Serve it: vae serve {self.run.folder}    Judge it: vae evaluate {self.run.folder} DATA")

    def _calibrate(self) -> None:
        """Of the best epoch, once; a run that was killed before is calibrated when its command is repeated."""
        from model import checkpoint
        from model.scoring import batches
        from model.scoring.calibration import MIN_TYPICALITY_INPUTS, Calibration

        saved = checkpoint.load(self.run.folder, self.run.recipe.settings.device)
        if saved.calibration is not None or not len(self.split.set_aside):
            return
        enough = len(self.split.set_aside) >= MIN_TYPICALITY_INPUTS
        density = batches.latent_density(saved.vae, self.split.fit) if enough else None
        total = len(self.split.set_aside) * len(batches.DEFAULT_SCORINGS)
        with progress(self.console, "Calibrating", total) as advance:
            made = batches.calibrate(
                saved.vae, self.split.set_aside, calibration=Calibration(density, {}), on_sample=advance
            )
        checkpoint.save_calibration(self.run.folder, made)
        self.console.print(f"Calibrated on {len(self.split.set_aside):,} samples that were set aside")

    def _show(self) -> None:
        """Make the gallery of the best epoch, once; or take it away."""
        from model import checkpoint, gallery

        saved = checkpoint.load(self.run.folder, self.run.recipe.settings.device, shown=self.shown.wanted)
        if not self.shown.wanted:
            if (saved.folder / checkpoint.GALLERY).exists():
                checkpoint.save_gallery(self.run.folder, None)
            return
        if saved.gallery is not None or not len(self.split.set_aside):
            return
        with progress(self.console, "Making the gallery", len(self.split.set_aside)) as advance:
            made = gallery.make(
                saved.vae,
                self.split.set_aside,
                labels=self.split.set_aside_labels,
                label_names=self.shown.label_names,
                calibration=saved.calibration,
                learning=self.run.records,
                on_sample=advance,
            )
        checkpoint.save_gallery(self.run.folder, made)
        self.console.print(f"Gallery of {len(made):,} of them: --gallery none would leave it out")

    def _draw(self) -> None:
        try:
            from model.report import plots
        except ImportError:
            self.console.print(
                "No plots: matplotlib is not installed (pip install 'vae-server[train]')", style="yellow"
            )
            return
        try:
            plots.draw_run(self.run, self.split)
        except OSError as error:
            raise TrainingError(
                f"{self.run.folder / 'plots'}: cannot be drawn into ({error.strerror}); make room and repeat the "
                "command, it goes on from the last epoch"
            ) from error
        self.drawn_at = time.monotonic()

    def _line(self, record: "EpochRecord") -> str:
        mean = self.busy / max(1, record.epoch)
        left = int(mean * (self.total - record.epoch))
        bits = "" if record.bits_per_dim is None else f"{record.bits_per_dim:.4f}"
        return (
            f"{f'{record.epoch}/{self.total}':>9} {record.free_energy:12.2f} {record.distortion:11.2f} "
            f"{record.rate:8.2f} {bits:>9} {record.train_free_energy:12.2f} {record.samples_per_second:9.0f} "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        )

    def _card(self, record: "EpochRecord") -> "Card":
        from model import machine
        from model.checkpoint import Card, Provenance

        recipe = self.run.recipe
        return Card(
            name=self.name,
            created=datetime.now(UTC).date().isoformat(),
            training=Provenance(
                dataset=recipe.dataset,
                dataset_sha256=recipe.dataset_sha256,
                samples=recipe.samples,
                held_out=recipe.settings.held_out,
                command=shlex.join(["vae", *sys.argv[1:]]),
                settings=recipe.settings.model_dump(mode="json"),
                epoch=record.epoch,
                seconds=round(self.busy, 1),
                machine=machine.describe(recipe.settings.device),
                versions=machine.versions(),
                held_out_scores={
                    key: value
                    for key, value in record.model_dump().items()
                    if key in {"free_energy", "distortion", "rate", "bits_per_dim"}
                },
            ),
        )


_HEADER = (
    f"{'epoch':>9} {'free energy':>12} {'distortion':>11} {'rate':>8} {'bits/dim':>9} {'in training':>12} "
    f"{'samples/s':>9} left"
)
