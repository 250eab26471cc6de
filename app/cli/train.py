"""`vae train`: train a model on a dataset, into a run folder, with a progress bar and one line per epoch."""

import math
import shlex
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from app.cli import completion
from app.cli.options import LabelsName
from app.cli.progress import plain_console, progress
from model.errors import TrainingError

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.record import EpochRecord
    from model.training.config import TrainingConfig
    from model.training.prior import PriorSettings
    from model.training.run import Run
    from model.training.splits import Split
    from model.vae import VAE

NetworkName = Literal["mlp", "conv"]
ScaleName = Literal["shared", "per_dimension"]
OptimizerName = Literal["adamw", "muon"]
PrecisionName = Literal["float32", "bfloat16"]
GalleryName = Literal["auto", "none"]
PriorName = Literal["standard", "flow"]

_data, _model, _training = (partial(typer.Option, rich_help_panel=panel) for panel in ("Data", "Model", "Training"))
#: Seconds between two drawings of the plots. An epoch of a small table takes less time than its plots.
PLOT_INTERVAL_S = 60.0
#: Weights of a fully connected network for images from which on the user is warned of them.
MANY_WEIGHTS = 20_000_000


def _likelihood_name(name: str | None) -> str | None:
    """Check the name when the command runs, since the table of likelihoods imports torch."""
    if name is not None:
        from model.likelihoods import LIKELIHOODS

        if name not in LIKELIHOODS:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(LIKELIHOODS)}")
    return name


def train(
    data: Annotated[str, typer.Argument(help="fashion-mnist, or a path: idx(.gz), .npy, .npz, .csv, image folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the run. Repeat the command to resume it.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.  (default: the name of OUT)")] = None,
    exclude: Annotated[list[str] | None, _data(help="A csv column to leave out; repeat for more.")] = None,
    label: Annotated[
        str | None, _data(help="The csv column with the labels of the samples, which may hold any text.")
    ] = None,
    held_out: Annotated[
        int | None,
        _data(help="Number of validation samples, which choose the best epoch.  (default: a tenth, at most 5,000)"),
    ] = None,
    set_aside: Annotated[
        int | None,
        _data(
            help="Number of calibration samples: not used in training, they are the reference of p-values.  (default: "
            "a tenth, at most 5,000)"
        ),
    ] = None,
    gallery: Annotated[
        GalleryName,
        _data(
            help="none: store no samples with the model. auto: store some of those set aside; everyone who can call "
            "the service can see them."
        ),
    ] = "auto",
    network: Annotated[
        NetworkName | None, _model(help="Architecture.  (default: conv for images, mlp for vectors)")
    ] = None,
    hidden: Annotated[
        str | None,
        _model(
            help="mlp: layer widths from the data inwards, as in 512,256; '' for a linear model.  (default: 512,256 "
            "for images; for vectors 64,64 or 256,256, and '' below 1,000 rows)"
        ),
    ] = None,
    channels: Annotated[str | None, _model(help="conv: number of channels of each stage, as in 32,64.")] = None,
    blocks: Annotated[str | None, _model(help="conv: number of residual blocks of each stage, as in 1,2.")] = None,
    latent: Annotated[
        int | None,
        _model(
            help="Size of the latent.  (default: 64 for images; for vectors half the columns, a sixth below 1,000 rows)"
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        _model(
            callback=_likelihood_name,
            help="Distribution of the data given the latent, such as discretized (bytes, scores in bits), gaussian "
            "(real numbers, scores of a density) or bernoulli (bits).  (default: discretized for bytes, else gaussian)",
        ),
    ] = None,
    components: Annotated[int | None, _model(help="discretized: number of logistics per pixel.  (default: 3)")] = None,
    autoregressive: Annotated[
        bool | None, _model(help="discretized: condition each byte on its neighbours.  (default: true)")
    ] = None,
    scale: Annotated[
        ScaleName | None,
        _model(help="gaussian: number of learned noise scales.  (default: shared for images, else per_dimension)"),
    ] = None,
    min_scale: Annotated[
        float | None, _model(help="Minimum of the noise scale.  (default: 0.01, discretized 0.1 bytes)")
    ] = None,
    prior: Annotated[
        PriorName | None,
        _model(
            help="Distribution of the latent that samples are drawn from. standard: N(0, I). flow: one that is fitted "
            "to the latents after the training, and kept if it lowers the free energy of held-out samples.  (default: "
            "flow from 1,000 training samples on)"
        ),
    ] = None,
    fine_tune: Annotated[
        bool,
        _training(
            help="After a flow, train encoder and decoder under it for a tenth of the epochs; kept if that lowers "
            "the free energy of held-out samples."
        ),
    ] = True,
    labels: Annotated[
        LabelsName,
        _model(help="auto: the flow distinguishes the labels of the samples, if there are 2 to 64. none: it does not."),
    ] = "auto",
    epochs: Annotated[int | None, _training(help="(default: about 8,000 steps, at least 20 epochs)")] = None,
    batch_size: Annotated[int | None, _training(help="Samples per step.  (default: 128, fewer for small data)")] = None,
    optimizer: Annotated[OptimizerName | None, _training(help="(default: muon for conv, adamw for mlp)")] = None,
    learning_rate: Annotated[float, _training(help="Peak learning rate; it falls to zero as a cosine.")] = 2e-3,
    weight_decay: Annotated[float, _training(help="Weight decay of the optimizer.")] = 0.01,
    average: Annotated[float, _training(help="Decay of the running average of the weights.")] = 0.999,
    inference_steps: Annotated[int, _training(help="Number of encoder steps per decoder step.")] = 1,
    auxiliary: Annotated[
        float | None,
        _training(
            help="autoregressive: weight of an extra loss, the distortion of bytes without their neighbours. It makes "
            "the latent informative; with 0 decoded means may be meaningless.  (default: 0.3)"
        ),
    ] = None,
    flip: Annotated[
        bool, _training("--flip", help="Mirror each image of a step left to right with probability 1/2.")
    ] = False,
    shift: Annotated[
        int | None,
        _training(help="Most pixels by which each image of a step is moved across and down; its edge fills the gap."),
    ] = None,
    seed: Annotated[int, _training(help="Seed of all random numbers.")] = 0,
    precision: Annotated[
        PrecisionName | None, _training(help="Of conv networks.  (default: bfloat16 where it is measured to be faster)")
    ] = None,
    device: Annotated[str, _training(help="auto, cpu or cuda; auto takes cuda if available.")] = "auto",
    threads: Annotated[
        int | None, _training(min=1, help="Number of CPU threads.  (default: the available cores; 1 for tables)")
    ] = None,
) -> None:
    """Train a VAE on your data. Every setting has a default. A killed training resumes when you repeat its command.

    The run folder holds the best model so far (checkpoint/), metrics.csv, plots/ and the state to resume from. At the
    end, the samples that were set aside calibrate the scores of the best model, and some go into its gallery.

    Scores are means over the held-out samples, in nats per sample: free energy = distortion + rate, an upper bound on
    the code length of a sample; lower is better. For bytes they are also in bits per dimension, to compare with PNG.

    Example: vae train fashion-mnist --out runs/fashion --epochs 30
    """
    import torch

    from app.inference.devices import choose_device, set_threads
    from model.datasets import open_dataset
    from model.training.config import TrainingConfig
    from model.training.prior import choose_prior
    from model.training.run import Run, read_recipe

    console = plain_console()
    dataset = open_dataset(data, exclude=exclude or (), label=label)
    # The layers of a table's model are too small for threads, which would mostly wait for each other.
    set_threads(threads or (1 if dataset.columns else None))
    console.print(f"Reading {dataset.describe()}")
    settings = _overrides(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optimizer=optimizer,
        average=average,
        inference_steps=inference_steps,
        auxiliary=auxiliary,
        held_out=held_out,
        set_aside=set_aside,
        flip=flip,
        shift=shift,
        seed=seed,
        precision=precision,
        device=choose_device(device),
    )
    with console.status("Reading the samples ..."):
        config, split = TrainingConfig.resolve(
            dataset,
            network=_overrides(name=network, hidden=_sizes(hidden), channels=_sizes(channels), blocks=_sizes(blocks)),
            likelihood=_overrides(
                name=likelihood, components=components, autoregressive=autoregressive, scale=scale, min_scale=min_scale
            ),
            latent=latent,
            settings=settings,
        )
    flow = choose_prior(prior, config.config.latent, split, config.settings, labels=labels == "auto")
    if precision is None and config.config.network.name == "conv":
        config = _choose_precision(console, config, read_recipe(out))
    run = Run.open(out, config)
    _introduce(console, run, torch.get_num_threads())
    _Loop(console, run, split, name or out.name).run_epochs()
    _fit_prior(console, run, split, flow)
    _fine_tune(console, run, split, flow if fine_tune else None)
    _calibrate(console, run, split)
    _save_gallery(console, run, split, dataset.label_names(), wanted=gallery == "auto")
    _conclude(console, run)
    console.print(f"Serve it: vae serve {run.folder}    Evaluate it: vae evaluate {run.folder} DATA")


def _choose_precision(console: Console, config: "TrainingConfig", resumed: "TrainingConfig | None") -> "TrainingConfig":
    """Train in the precision that the run began with, or in the faster one."""
    from model.training.precision import MeasuredPrecision

    if resumed is not None:
        return config.with_precision(resumed.settings.precision)
    with console.status("Measuring steps in float32 and in bfloat16 ..."):
        measured = MeasuredPrecision.of(config.config, config.settings)
    console.print(f"Precision: {measured}")
    return config.with_precision(measured.name)


def _conclude(console: Console, run: "Run") -> None:
    """Print the held-out scores of the model as it is saved, with its prior."""
    from model import checkpoint

    training = checkpoint.load(run.folder, calibrated=False, shown=False).card.training
    assert training is not None
    scores = training.held_out_scores
    bits = "" if scores["bits_per_dim"] is None else f", {scores['bits_per_dim']:.4f} bits per dimension"
    console.print(f"Best on held-out samples: epoch {training.epoch}, {scores['free_energy']:.2f} nats{bits}")


def _overrides(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def _sizes(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(",") if text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of whole numbers; write them as in 32,64") from None


def _introduce(console: Console, run: "Run", threads: int) -> None:
    config, settings = run.config.config, run.config.settings
    weights = sum(p.numel() for p in run.training.vae.parameters())
    console.print(
        f"Model: {config.network.name}, latent {config.latent}, {config.likelihood.name} likelihood, "
        f"{weights:,} weights; {config.data.describe()}"
    )
    if config.network.name == "mlp" and config.data.kind == "image" and weights > MANY_WEIGHTS:
        console.print(
            "These are many weights for images: --network conv has far fewer, is faster and learns more of few samples",
            style="yellow",
        )
    console.print(
        f"Training on {run.config.samples - settings.held_out - settings.set_aside:,} samples, "
        f"{settings.held_out:,} held out, {settings.set_aside:,} set aside; "
        f"{settings.epochs} epochs on {settings.device} with {threads} threads"
    )
    if run.records:
        console.print(f"Resuming {run.folder} after epoch {run.records[-1].epoch}")


class _Loop:
    """Epochs, each saved and printed, with plots in between."""

    def __init__(self, console: Console, run: "Run", split: "Split", name: str) -> None:
        self.console, self.run, self.split, self.name = console, run, split, name
        self.epochs = run.config.settings.epochs
        self.drawn_at = time.monotonic()
        self.seconds = sum(record.seconds for record in run.records)

    def run_epochs(self) -> None:
        training, train, validation = self.run.training, self.split.train, self.split.validation
        self.console.print(completion.EPOCH_HEADER, style="bold")
        for record in self.run.records[-3:]:
            self.console.print(self._line(record))
        batches = math.ceil(len(train) / self.run.config.settings.batch_size)
        with progress(self.console, "Training", batches * self.epochs) as advance:
            for record in training.epochs(
                train, validation, lambda done, total: advance(training.epoch * total + done)
            ):
                self.seconds += record.seconds
                self.run.add(record, self._card(record))
                self.console.print(self._line(record))
                if time.monotonic() - self.drawn_at > PLOT_INTERVAL_S and record.epoch < self.epochs:
                    self._draw()
        self._draw()

    def _draw(self) -> None:
        _draw(self.console, self.run, self.split, self.run.training.average)
        self.drawn_at = time.monotonic()

    def _line(self, record: "EpochRecord") -> str:
        return completion.epoch_line(record, self.epochs, self.seconds)

    def _card(self, record: "EpochRecord") -> "Card":
        from model import machine
        from model.checkpoint import Card, Provenance

        config = self.run.config
        return Card(
            name=self.name,
            created=datetime.now(UTC).date().isoformat(),
            training=Provenance(
                dataset=config.dataset,
                dataset_sha256=config.dataset_sha256,
                samples=config.samples,
                held_out=config.settings.held_out,
                command=shlex.join(["vae", *sys.argv[1:]]),
                settings=config.settings.model_dump(mode="json"),
                epoch=record.epoch,
                seconds=round(self.seconds, 1),
                machine=machine.describe(config.settings.device),
                versions=machine.versions(),
                held_out_scores=record.model_dump(include={"free_energy", "distortion", "rate", "bits_per_dim"}),
            ),
        )


def _draw(console: Console, run: "Run", split: "Split", vae: "VAE") -> None:
    try:
        from model.report import plots

        plots.draw_run(run, split, vae)
    except ImportError:
        console.print("No plots: matplotlib is not installed (pip install 'vae-server[train]')", style="yellow")
    except OSError as error:
        raise TrainingError(
            f"{run.folder / 'plots'}: cannot be written ({error.strerror}); make room and run the command again, it "
            "resumes from the last epoch"
        ) from error


def _fit_prior(console: Console, run: "Run", split: "Split", settings: "PriorSettings | None") -> None:
    """Fit a prior to the best model, unless it has one or is to keep the standard one."""
    from model import checkpoint
    from model.training.prior import PriorFit

    saved = checkpoint.load(run.folder, run.config.settings.device, calibrated=False, shown=False)
    if settings is None or saved.vae.config.prior.name != "standard":
        return
    journal = run.open_prior(settings)
    assert isinstance(journal.fit, PriorFit)
    changed = completion.fit_prior(
        console,
        saved,
        split,
        journal.fit,
        source=run.config.dataset,
        records=tuple(journal.records),
        on_epoch=journal.add,
    )
    if changed is not None:
        checkpoint.save(run.folder / "checkpoint", *changed)
        _draw(console, run, split, changed[0])


def _fine_tune(console: Console, run: "Run", split: "Split", prior: "PriorSettings | None") -> None:
    """Fine-tune the model under the prior that was fitted to it, unless that is done."""
    from model import checkpoint
    from model.training.tuning import FineTuning

    saved = checkpoint.load(run.folder, run.config.settings.device, shown=False)
    # A model that is calibrated went on after its fine-tuning.
    if prior is None or saved.card.prior is None or saved.card.fine_tuning is not None or saved.calibration:
        return
    journal = run.open_tuning(saved.vae.config, prior)
    assert isinstance(journal.fit, FineTuning)
    changed = completion.fine_tune(
        console, saved, split, journal.fit, records=tuple(journal.records), on_epoch=journal.add
    )
    if changed is not None:
        checkpoint.save(run.folder / "checkpoint", *changed)
        _draw(console, run, split, changed[0])


def _calibrate(console: Console, run: "Run", split: "Split") -> None:
    """Calibrate the best model if it is not; a run that was killed before is calibrated when it resumes."""
    from model import checkpoint

    saved = checkpoint.load(run.folder, run.config.settings.device)
    if saved.calibration is None:
        calibration = completion.calibrate(console, saved.vae, split)
        if calibration is not None:
            checkpoint.save_calibration(run.folder, calibration)


def _save_gallery(
    console: Console, run: "Run", split: "Split", label_names: tuple[str, ...] | None, *, wanted: bool
) -> None:
    """Add a gallery to the best model if it has none; remove its gallery if none is wanted."""
    from model import checkpoint

    saved = checkpoint.load(run.folder, run.config.settings.device, shown=wanted)
    if not wanted:
        if (saved.folder / checkpoint.GALLERY).exists():
            checkpoint.save_gallery(run.folder, None)
        return
    if saved.gallery is None:
        stored = completion.make_gallery(
            console, saved.vae, split, saved.calibration, label_names=label_names, learning=run.records
        )
        if stored is not None:
            checkpoint.save_gallery(run.folder, stored)
