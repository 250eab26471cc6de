"""The report page: well-formed, self-contained, complete and safe from markup in the data; writing it to disk."""

import base64
import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import files, random
from model.checkpoint import Card, Checkpoint
from model.config import VectorData
from model.datasets import Subset, open_dataset
from model.errors import DataError
from model.report import page, pictures
from model.report.evaluation import evaluate
from model.report.page import OPTIONAL_PICTURES, ReportInput
from model.report.samples import (
    Reconstructions,
    pairs,
    prior_samples,
    read_samples,
    reconstruct,
    sample_names,
    surprises,
    unlearned,
)
from model.scoring.batches import MIN_ACTIVE_VARIANCE
from model.scoring.calibration import ScoringConfig
from model.scoring.detection import detect
from model.vae import VAE
from tests.support.checkpoints import refusal
from tests.support.data import Memory, rows, stripes
from tests.support.models import CLASSES, CONFIGS, build, epoch_record

Load = Callable[[str], Checkpoint]
GREY, TABLE = "grey-mlp-discretized", "table-mlp-gaussian"
RECORDS = [
    epoch_record(epoch, 10.0 / epoch, 8.0 / epoch, 2.0, None, 11.0 / epoch, 1e-3, 1.0, 100.0) for epoch in (1, 2, 3)
]
EVIL = "<script>alert('x')</script>\"&'$^_$ "
VOID = {"meta", "img", "br", "hr", "link", "input"}
every = pytest.mark.parametrize("name", CONFIGS)


class Named(Memory):
    """Data whose samples and labels have names."""

    names: tuple[str, ...] | None = None

    def label_names(self) -> tuple[str, ...] | None:
        return self.names

    def name_of(self, index: int) -> str:
        return f"{self.source}/{EVIL}{index}"


class ParsedPage(HTMLParser):
    """The tags, ids and text of a page. Asserts that every element is closed and every id unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        self.ids = set(ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report_input(
    checkpoint: Checkpoint, name: str, *, labels: bool = True, count: int = 40, evil: bool = False
) -> ReportInput:
    data = CONFIGS[name].data
    samples = rows(count) if isinstance(data, VectorData) else stripes(count, data.shape)
    kind = Named if evil else Memory
    dataset = kind(samples, [index % 3 for index in range(count)] if labels else None, EVIL if evil else "some data")
    if isinstance(dataset, Named):
        dataset.names = tuple(EVIL + label for label in CLASSES)
    evaluation = evaluate(checkpoint.vae, dataset, draws=2)
    detection = detect(checkpoint.vae, dataset, [], ScoringConfig(1, 0, 0), checkpoint.calibration, 20)
    report = replace(evaluation.report, detection=[detection])
    return ReportInput(checkpoint, replace(evaluation, report=report), dataset, RECORDS)


@every
def test_page_is_self_contained_and_well_formed(name: str, loaded: Load) -> None:
    text = page.html(report_input(loaded(name), name))
    parsed = ParsedPage(text)
    assert text.startswith("<!doctype html>")
    assert not parsed.all("script") and not parsed.all("link") and not parsed.all("iframe")
    for tag, attributes in parsed.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), (tag, attribute)
            if attribute in {"src", "href"}:
                assert value is not None
                assert value.startswith("data:image/png;base64,") or value.removeprefix("#") in parsed.ids, (tag, value)
    assert "url(http" not in text and "@import" not in text
    (policy,) = [meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")


@every
def test_page_is_accessible(name: str, loaded: Load) -> None:
    parsed = ParsedPage(page.html(report_input(loaded(name), name)))
    assert all(image["alt"] for image in parsed.all("img"))
    plots = parsed.all("svg")
    table = CONFIGS[name].data.kind == "vector"
    assert len(plots) == (8 if table else 7)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in plots)
    assert len(parsed.all("h1")) == len(parsed.all("main")) == 1
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(cell["scope"] in {"row", "col"} for cell in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) > 1
    for heading in ("Figures", "Learning curves", "Reconstructions", "Samples", "Latent", "Scores"):
        assert heading in parsed.text
    assert bool(parsed.all("img")) != table
    if table:
        assert all(column in parsed.text for column in ("age", "height", "weight"))


@pytest.mark.parametrize("name", [GREY, TABLE])
def test_markup_in_the_data_is_escaped(name: str, loaded: Load) -> None:
    card = loaded(name).card.model_copy(update={"name": EVIL})
    text = page.html(report_input(replace(loaded(name), card=card), name, evil=True))
    parsed = ParsedPage(text)
    assert "<script" not in text and not parsed.all("script")
    assert f"{EVIL}: report on held-out data" in parsed.text
    # The map shows names unchanged too, although a dollar sign could start a formula.
    assert EVIL + CLASSES[2] in parsed.text
    for image in parsed.all("img"):
        assert image.keys() == {"src", "width", "height", "alt"}


def test_column_names_with_markup_are_shown_unchanged(tmp_path: Path) -> None:
    columns = (EVIL + "a", "$x^", "")
    config = CONFIGS[TABLE].model_copy(update={"data": CONFIGS[TABLE].data.model_copy(update={"columns": columns})})
    vae = build(TABLE)
    vae.config = config
    source = report_input(Checkpoint(vae, Card(name="x", created="2024-01-01"), "0" * 64, tmp_path), TABLE)
    parsed = ParsedPage(page.html(source))
    assert EVIL + "a" in parsed.text and "$x^" in parsed.text and not parsed.all("script")
    assert page.files(source)


def test_page_shows_the_figures_of_the_report(loaded: Load) -> None:
    source = report_input(loaded(GREY), GREY)
    parsed, report = ParsedPage(page.html(source)), source.report
    for value in (report.free_energy, report.distortion, report.rate, report.nlog_p_x):
        assert f"{value:,.2f}" in parsed.text
    for percentile, value in report.free_energy_percentiles.items():
        assert f"{percentile} %" in parsed.text and f"{value:,.2f}" in parsed.text
    for areas in report.detection[0].auroc.values():
        assert f"{areas['free_energy']:.3f}" in parsed.text
    assert loaded(GREY).digest[:16] in parsed.text


def test_warnings_are_at_the_top(loaded: Load) -> None:
    source = report_input(loaded(GREY), GREY)
    collapsed = replace(source.evaluation, report=replace(source.report, active_units=0))
    parsed = ParsedPage(page.html(replace(source, evaluation=collapsed)))
    assert parsed.text.index("The latent has collapsed") < parsed.text.index("Learning curves")
    assert "role" in str(parsed.all("div"))


def test_page_without_records_labels_or_detection(loaded: Load) -> None:
    source = report_input(loaded(GREY), GREY, labels=False)
    bare = replace(source.evaluation, report=replace(source.report, detection=[]))
    bare_page = ParsedPage(page.html(replace(source, records=[], evaluation=bare)))
    assert "comes without its training history" in bare_page.text
    assert "Outlier detection" not in bare_page.text
    assert len(bare_page.all("svg")) == 4
    assert not set(OPTIONAL_PICTURES) & page.files(replace(source, records=[])).keys()


@pytest.mark.parametrize("name", [GREY, TABLE])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_page_of_few_samples(name: str, count: int, loaded: Load) -> None:
    checkpoint, data = loaded(name), CONFIGS[name].data
    dataset = Memory(rows(count) if isinstance(data, VectorData) else stripes(count, data.shape))
    source = ReportInput(checkpoint, evaluate(checkpoint.vae, dataset, draws=1), dataset, [])
    assert ParsedPage(page.html(source)).all("svg")
    assert page.files(source)


def test_active_dimensions_by_falling_divergence(loaded: Load) -> None:
    source = report_input(loaded(GREY), GREY)
    variances = np.array([1.0, 0.0, 2.0, 0.0])
    means = np.random.default_rng(0).normal(size=(40, 4)) * np.sqrt(variances)
    changed = replace(source.evaluation, means=means, kl_to_normal=np.array([0.1, 3.0, 2.0, 0.0]))
    # Order by falling divergence: the second dimension, the third, the first, the fourth.
    assert (variances > MIN_ACTIVE_VARIANCE)[[1, 2, 0, 3]].tolist() == [False, True, True, False]
    assert replace(source, evaluation=changed).active.tolist() == [False, True, True, False]


class TestSamples:
    def test_read_samples_keeps_the_order_of_the_indices(self) -> None:
        samples = stripes(700)
        indices = [699, 0, 256, 255, 0]
        np.testing.assert_array_equal(read_samples(Memory(samples), indices), samples[indices])

    def test_extremes_have_the_highest_and_lowest_free_energy(self, loaded: Load) -> None:
        source = report_input(loaded(GREY), GREY)
        most, least = source.extremes()
        cost = source.evaluation.free_energy
        assert cost[most].tolist() == sorted(cost, reverse=True)[:8]
        assert cost[least].tolist() == sorted(cost)[:8]
        parsed = ParsedPage(surprises(source.reconstruct(most), CONFIGS[GREY].data))
        for index in most:
            assert f"{index} ({index % 3}): {cost[index]:,.2f} nats" in parsed.text

    def test_an_image_is_shown_unchanged(self, loaded: Load) -> None:
        source = report_input(loaded(GREY), GREY)
        first = ParsedPage(pairs(source.reconstruct([7]), CONFIGS[GREY].data)).all("img")[0]["src"]
        assert first is not None
        shown = Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(shown), stripes(40)[7, 0])

    def test_samples_are_drawn_through_the_prior(self) -> None:
        vae = build("grey-conv-flow")
        first = ParsedPage(prior_samples(vae)).all("img")[0]["src"]
        assert first is not None
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2])))) / 255
        np.testing.assert_allclose(shown, vae.decode(vae.sample_prior(1)).mean[0, 0].numpy(), atol=0.51 / 255)
        plain = torch.from_numpy(random.normal(0, (1, vae.config.latent)))
        assert not np.allclose(shown, vae.decode(plain).mean[0, 0].numpy(), atol=2 / 255)

    def test_a_large_image_is_scaled_down(self) -> None:
        image = ParsedPage(pictures.image(np.zeros((3, 1000, 500), np.uint8), "x")).all("img")[0]
        assert (image["width"], image["height"]) == ("128", "256")

    def test_a_row_lists_its_most_surprising_columns(self, loaded: Load) -> None:
        vae, data = loaded(TABLE).vae, CONFIGS[TABLE].data
        assert isinstance(data, VectorData)
        samples = rows(30)
        samples[4, 1] = 9.0  # metres
        dataset = Memory(samples)
        free_energy = evaluate(vae, dataset, draws=1).free_energy
        parsed = ParsedPage(surprises(reconstruct(vae, dataset, [int(np.argmax(free_energy))], free_energy), data))
        assert parsed.text.startswith("Sample 4: ")
        assert re.search(r"nats.*?height9", parsed.text)
        assert parsed.text.index("height") < parsed.text.index("age")

    def test_surprise_of_a_column_is_independent_of_its_unit(self) -> None:
        """Compare rows in metres with the rows in millimetres, each with a model in that unit."""
        factor, samples = np.array([1, 1000, 1], np.float32), rows(30)
        plain = VectorData(columns=("a", "b", "c"), mean=(41.0, 1.7, 70.0), std=(12.0, 0.1, 9.0))
        small = plain.model_copy(update={"mean": (41.0, 1700.0, 70.0), "std": (12.0, 100.0, 9.0)})
        results = []
        for data, inputs in ((plain, samples), (small, samples * factor)):
            torch.manual_seed(0)
            vae = VAE(CONFIGS[TABLE].model_copy(update={"data": data})).eval()
            results.append(reconstruct(vae, Memory(inputs), [0, 1, 2], np.zeros(30)))
        np.testing.assert_allclose(results[1].x, results[0].x * factor, rtol=1e-5)
        np.testing.assert_allclose(results[1].nlog, results[0].nlog, rtol=1e-4, atol=1e-4)

    def test_unlearned_columns_are_predicted_by_their_mean_over_the_samples(self) -> None:
        x = np.random.default_rng(0).normal(50, 3, (200, 60))
        mean = x + np.random.default_rng(1).normal(0, 0.5, x.shape)
        mean[:, [0, 55]] = x[:, [0, 55]].mean(axis=0)
        x[:, 7], mean[:, 7] = 4, 4  # never varies
        samples = Reconstructions([""] * 200, np.zeros(200), x, mean, x)
        data = VectorData(columns=tuple(f"c{i}" for i in range(60)), mean=(0.0,) * 60, std=(1.0,) * 60)
        assert unlearned(samples, data) == ["c0", "c55"]

    def test_few_rows_show_no_unlearned_columns(self, loaded: Load) -> None:
        assert report_input(loaded(TABLE), TABLE).unlearned == []

    def test_samples_of_a_subset_keep_their_names(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
        whole = open_dataset(str(tmp_path))
        part = Subset(whole, np.array([0, 2]), whole.load()[[0, 2]], "set aside")
        assert sample_names(part, [1, 0]) == sample_names(whole, [2, 0]) == ["c.png", "a.png"]

    def test_a_table_of_many_columns_counts_those_left_out(self) -> None:
        data = VectorData(columns=tuple(map(str, range(45))), mean=(0,) * 45, std=(1,) * 45)
        table = pairs(Reconstructions(["a"], np.zeros(1), *[np.zeros((1, 45))] * 3), data)
        assert "(the first 40 columns; 5 more are left out)" in table


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the pictures of a page, which take seconds to draw."""
    monkeypatch.setattr(page, "files", lambda source: {"samples.png": b"%d" % len(source.records), "map.png": b"1"})


class TestWriting:
    def test_writes_a_page_and_its_pictures_only(self, loaded: Load, tmp_path: Path) -> None:
        source = report_input(loaded(GREY), GREY)
        folder = page.write(tmp_path / "out.html", source)
        assert folder == tmp_path / "out_files"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out_files"]
        names = {path.name for path in folder.iterdir()}
        assert names > {"samples.png", *OPTIONAL_PICTURES}
        assert (tmp_path / "out.html").read_text() == page.html(source)
        for path in folder.iterdir():
            with Image.open(path) as picture:
                assert np.asarray(picture.convert("L")).std() > 5
        # A second page replaces the first and removes its leftover pictures, but not other files.
        (folder / "mine.txt").write_text("mine")
        page.write(tmp_path / "out.html", replace(source, records=[]))
        assert {path.name for path in folder.iterdir()} == (names | {"mine.txt"}) - {"learning_curves.png"}

    @pytest.mark.usefixtures("small_pictures")
    @pytest.mark.parametrize("full", ["out.html", "samples.png"])
    def test_a_full_disk_leaves_the_older_version(
        self, full: str, loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, path = report_input(loaded(GREY), GREY), tmp_path / "out.html"
        page.write(path, source)
        before = {place: place.read_bytes() for place in tmp_path.rglob("*") if place.is_file()}
        write = files.write_synced

        def fill(place: Path, data: bytes) -> None:
            if full in place.name:
                raise OSError(28, "No space left on device", str(place))
            write(place, data)

        monkeypatch.setattr(page, "write_synced", fill)
        with pytest.raises(DataError) as error:
            page.write(path, replace(source, records=[]))
        assert full in refusal(error) and "No space left on device); make room" in refusal(error)
        assert {place: place.read_bytes() for place in tmp_path.rglob("*") if place.is_file()} == before

    @pytest.mark.usefixtures("small_pictures")
    def test_an_error_names_the_file(self, loaded: Load, tmp_path: Path) -> None:
        source = report_input(loaded(GREY), GREY)
        (tmp_path / "out_files").write_text("in the way")
        with pytest.raises(DataError, match=r"out_files: cannot be written"):
            page.write(tmp_path / "out.html", source)
        assert os.listdir(tmp_path) == ["out_files"]
