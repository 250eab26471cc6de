"""Plots of runs and reports, for every kind of data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from model import random
from model.checkpoint import Card
from model.report import plots
from model.report.evaluation import PERCENTILES, Evaluation, evaluate
from model.training.config import TrainingConfig
from model.training.run import Run
from model.training.splits import Split
from tests.support.data import Array, Memory, rows, stripes
from tests.support.models import build, epoch_record

KINDS = {
    "grey": Memory(stripes(60), labels=[i % 3 for i in range(60)]),
    "rgb": Memory(stripes(40, (3, 9, 10))),
    "table": Memory(rows(60)),
}
PICTURES = ["latents.png", "learning_curves.png", "reconstructions.png", "samples.png"]
RECORD = epoch_record(1, 10.0, 8.0, 2.0, None, 11.0, 1e-3, 1.0, 100.0)


def run(folder: Path, data: Memory) -> tuple[Run, Split]:
    recipe, split = TrainingConfig.resolve(
        data, network={"name": "mlp", "hidden": (8,)}, likelihood={}, latent=3, settings={"epochs": 2}
    )
    trained = Run.open(folder, recipe)
    for record in trained.training.epochs(split.train, split.validation):
        trained.add(record, Card(name="x", created="2024-01-01"))
    return trained, split


def image(figure: Figure, path: Path) -> Array:
    figure.savefig(path)
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_four_plots_with_content(kind: str, tmp_path: Path) -> None:
    trained, split = run(tmp_path / "run", KINDS[kind])
    plots.draw_run(trained, split, trained.training.average)
    folder = tmp_path / "run" / "plots"
    assert sorted(path.name for path in folder.iterdir()) == PICTURES
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            shades = np.asarray(picture.convert("L"))
        assert min(shades.shape) > 100
        assert shades.std() > 5
        assert len(np.unique(shades)) > 20


def test_principal_plane_has_the_axes_of_largest_variance() -> None:
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(7, 7)))[0]
    spread = np.array([5.0, 2.0, *[0.01] * 5])
    hidden = generator.normal(size=(500, 7)) * spread
    plane, share = plots.principal_plane(hidden @ axes.T + generator.normal(size=7))
    for axis in (0, 1):
        assert abs(np.corrcoef(plane[:, axis], hidden[:, axis])[0, 1]) > 0.99
        assert plane[:, axis].std() == pytest.approx(spread[axis], rel=0.1)
    assert share > 0.9999


@pytest.mark.parametrize("shape", [(9, 1), (1, 4), (1, 1), (2, 5)])
def test_principal_plane_of_few_samples_or_one_latent(shape: tuple[int, int]) -> None:
    means = np.random.default_rng(0).normal(size=shape)
    plane, share = plots.principal_plane(means)
    assert plane.shape == (shape[0], 2)
    assert np.isfinite(plane).all() and 0 <= share <= 1 + 1e-12


def test_principal_plane_of_equal_means() -> None:
    plane, share = plots.principal_plane(np.ones((5, 3)))
    assert (plane == 0).all() and share == 0


def test_labels_have_colours_and_a_legend() -> None:
    means = np.random.default_rng(0).normal(size=(50, 3))
    plain, coloured = plots.latent_map(means, None), plots.latent_map(means, np.arange(50) % 4)
    assert plain.axes[0].get_legend() is None
    legend = coloured.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2", "3"]
    assert len({str(points.get_facecolor()) for points in coloured.axes[0].collections}) == 4


def test_twenty_labels_have_twenty_colours() -> None:
    figure = plots.latent_map(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 20)
    assert len({str(points.get_facecolor()) for points in figure.axes[0].collections}) == 20


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e9])
def test_learning_curves_are_drawn_from_the_first_epoch_on(scale: float, tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"free_energy": 10 * scale, "train_free_energy": 11 * scale})
    assert image(plots.learning_curves([record]), tmp_path / "x.png").std() > 5
    figure = plots.learning_curves([record, record.model_copy(update={"epoch": 2, "free_energy": 9 * scale})])
    assert [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines] == [
        [11 * scale] * 2,
        [10 * scale, 9 * scale],
    ]


def test_first_epochs_do_not_flatten_the_curve() -> None:
    records = [
        RECORD.model_copy(update={"epoch": i, "free_energy": 1e6 if i < 2 else 100.0 - i, "train_free_energy": 100.0})
        for i in range(40)
    ]
    assert plots.learning_curves(records).axes[0].get_ylim()[1] < 200


def test_columns_are_drawn_in_their_own_standard_deviations() -> None:
    figure = plots.samples(build("table-mlp-gaussian"))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["age", "height", "weight"]
    assert max(np.abs(np.asarray(line.get_xdata(), np.float64)).max() for line in axes.lines) < 10


def test_samples_are_drawn_through_the_prior() -> None:
    vae = build("grey-conv-flow")
    epsilon = torch.from_numpy(random.normal(0, (1, vae.config.latent)))
    labels = vae.prior.draw_labels(random.generator(0, random.LABELS).random(1))
    expected = vae.decode(vae.prior.to_latent(vae.prior.place(epsilon, labels))).mean[0, 0].numpy()
    shown = np.asarray(plots.samples(vae).axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    assert not np.allclose(shown, vae.decode(epsilon).mean[0, 0].numpy(), atol=1e-3)


def test_values_outside_the_range_of_pixels_are_drawn_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(plots.reconstructions(build("rgb-conv-discretized"), 3 * torch.rand(4, 3, 9, 10) - 1), tmp_path / "plot.png")
    assert not caplog.records


def test_reconstructions_stand_under_their_inputs() -> None:
    x = torch.rand(5, 3, 9, 10)
    figure = plots.reconstructions(build("rgb-conv-discretized"), x)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(shown) == 10
    for above, sample in zip(shown[:5], x, strict=True):
        assert np.allclose(above, sample.permute(1, 2, 0).numpy())


def evaluation_of(kind: str) -> Evaluation:
    name = {"grey": "grey-mlp-discretized", "rgb": "rgb-conv-discretized", "table": "table-mlp-gaussian"}[kind]
    return evaluate(build(name), KINDS[kind], draws=1)


def with_free_energies(free_energy: Array) -> Evaluation:
    """An evaluation with these free energies."""
    percentiles = {f"{p:g}": float(np.percentile(free_energy, p)) for p in PERCENTILES}
    evaluation = evaluation_of("table")
    report = replace(evaluation.report, free_energy_percentiles=percentiles, samples=len(free_energy))
    return replace(evaluation, report=report, free_energy=free_energy)


class TestReport:
    @pytest.mark.parametrize("kind", KINDS)
    def test_has_two_plots_with_content(self, kind: str, tmp_path: Path) -> None:
        evaluation = evaluation_of(kind)
        plots.draw_report(evaluation.report, evaluation.free_energy, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["free_energy.png", "kl_to_normal.png"]
        for path in tmp_path.iterdir():
            with Image.open(path) as picture:
                shades = np.asarray(picture.convert("L"))
            assert min(shades.shape) > 100 and shades.std() > 5 and len(np.unique(shades)) > 20

    @pytest.mark.parametrize("count", [1, 2, 60, 3000])
    def test_histogram_and_tail_count_every_sample(self, count: int) -> None:
        evaluation = with_free_energies(np.random.default_rng(0).normal(size=count))
        left, right = plots.free_energies(evaluation.report, evaluation.free_energy).axes
        heights = [patch.get_height() for patch in left.patches]  # type: ignore[attr-defined]
        assert sum(heights) == count
        (tail,) = right.lines
        x, y = np.asarray(tail.get_xdata()), np.asarray(tail.get_ydata())
        # One sample has at least the largest free energy, and all have at least the smallest.
        assert (x[0], x[-1]) == (evaluation.free_energy.max(), evaluation.free_energy.min())
        assert (y[0], y[-1]) == (1 / count, 1)
        for value, share in zip(x[:50], y[:50], strict=True):
            assert share == np.mean(evaluation.free_energy >= value)

    def test_percentiles_are_marked(self) -> None:
        evaluation = with_free_energies(np.random.default_rng(0).exponential(size=500))
        left = plots.free_energies(evaluation.report, evaluation.free_energy).axes[0]
        marked = [float(np.asarray(line.get_xdata())[0]) for line in left.lines]
        assert marked == pytest.approx([np.percentile(evaluation.free_energy, p) for p in (5, 50, 95)])
        assert [text.get_text() for text in left.texts] == ["5 %", "50 %", "95 %"]

    @pytest.mark.parametrize(
        "free_energy",
        [np.full(1, 5.0), np.full(50, -3.0), np.full(9, 0.0), np.append(np.arange(99.0), 1e9), np.arange(40.0) * 1e-9],
    )
    def test_draws_degenerate_free_energies(self, free_energy: Array, tmp_path: Path) -> None:
        evaluation = with_free_energies(free_energy)
        assert image(plots.free_energies(evaluation.report, evaluation.free_energy), tmp_path / "x.png").std() > 5

    def test_divergences_are_bars_in_falling_order(self) -> None:
        report = replace(evaluation_of("grey").report, kl_to_normal=[2.5, 1.25, 0.0, 0.0], active_units=2)
        axes = plots.kl_to_normal(report).axes[0]
        assert [patch.get_height() for patch in axes.patches] == [2.5, 1.25, 0, 0]  # type: ignore[attr-defined]
        assert axes.get_title() == "2 of 4 dimensions active; 3.8 nats"
