"""The page is whole, stands alone, shows what the report says, and nothing of the data becomes a part of its code."""

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

from model import files
from model.checkpoint import Card, Checkpoint
from model.config import VectorData
from model.datasets import Subset, open_dataset
from model.errors import DataError
from model.report import page as paper
from model.report import pictures
from model.report import samples as looks
from model.report.evaluation import evaluate
from model.report.page import FILES, Subject
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
    """Data whose samples, and the classes of which, have names."""

    names: tuple[str, ...] | None = None

    def label_names(self) -> tuple[str, ...] | None:
        return self.names

    def name_of(self, index: int) -> str:
        return f"{self.source}/{EVIL}{index}"


class Page(HTMLParser):
    """What a page is made of, and whether it is well made: what is opened is closed, and no id is there twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
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
            self.said += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def subject(found: Checkpoint, name: str, *, labels: bool = True, count: int = 40, evil: bool = False) -> Subject:
    data = CONFIGS[name].data
    samples = rows(count) if isinstance(data, VectorData) else stripes(count, data.shape)
    kind = Named if evil else Memory
    dataset = kind(samples, [index % 3 for index in range(count)] if labels else None, EVIL if evil else "some data")
    if isinstance(dataset, Named):
        dataset.names = tuple(EVIL + called for called in CLASSES)
    made = evaluate(found.vae, dataset, draws=2)
    compared = detect(found.vae, dataset, [], ScoringConfig(1, 0, 0), found.calibration, 20)
    return Subject(found, replace(made, report=replace(made.report, detection=[compared])), dataset, RECORDS)


@every
def test_a_page_stands_alone_and_is_well_made(name: str, loaded: Load) -> None:
    text = paper.html(subject(loaded(name), name))
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for tag, attributes in page.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), (tag, attribute)
            if attribute in {"src", "href"}:
                assert value is not None
                assert value.startswith("data:image/png;base64,") or value.removeprefix("#") in page.ids, (tag, value)
    assert "url(http" not in text and "@import" not in text
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")


@every
def test_whatever_is_to_be_seen_is_told_too(name: str, loaded: Load) -> None:
    page = Page(paper.html(subject(loaded(name), name)))
    assert all(image["alt"] for image in page.all("img"))
    drawn = page.all("svg")
    assert len(drawn) == (8 if name == TABLE else 7)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("html") == [{"lang": "en"}]
    assert all(cell["scope"] in {"row", "col"} for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 1
    for heading in ("Figures", "Learning curves", "Reconstructions", "Samples", "The latent", "Scores"):
        assert heading in page.said
    assert bool(page.all("img")) == (name != TABLE)
    if name == TABLE:
        assert all(column in page.said for column in ("age", "height", "weight"))


@pytest.mark.parametrize("name", [GREY, TABLE])
def test_nothing_of_the_data_becomes_code(name: str, loaded: Load) -> None:
    found = loaded(name)
    card = found.card.model_copy(update={"name": EVIL})
    text = paper.html(subject(replace(found, card=card), name, evil=True))
    page = Page(text)
    assert "<script" not in text and not page.all("script")
    assert f"{EVIL}: report on held-out data" in page.said
    # Names are shown as they are, on the map too, where a dollar could begin a formula.
    assert EVIL + CLASSES[2] in page.said
    for image in page.all("img"):
        assert image.keys() == {"src", "width", "height", "alt"}


def test_columns_of_any_name_are_shown_as_they_are(tmp_path: Path) -> None:
    columns = (EVIL + "a", "$x^", "")
    config = CONFIGS[TABLE].model_copy(update={"data": CONFIGS[TABLE].data.model_copy(update={"columns": columns})})
    vae = build(TABLE)
    vae.config = config
    made = subject(Checkpoint(vae, Card(name="x", created="2024-01-01"), "0" * 64, tmp_path), TABLE)
    page = Page(paper.html(made))
    assert EVIL + "a" in page.said and "$x^" in page.said and not page.all("script")
    assert paper.files(made)


def test_the_figures_are_those_of_the_report(loaded: Load) -> None:
    made = subject(loaded(GREY), GREY)
    page, report = Page(paper.html(made)), made.report
    for value in (report.free_energy, report.distortion, report.rate, report.nlog_p_x):
        assert f"{value:,.2f}" in page.said
    for percentile, value in report.free_energy_percentiles.items():
        assert f"{percentile} %" in page.said and f"{value:,.2f}" in page.said
    for areas in report.detection[0].auroc.values():
        assert f"{areas['free_energy']:.3f}" in page.said
    assert loaded(GREY).digest[:16] in page.said


def test_warnings_stand_at_the_top(loaded: Load) -> None:
    made = subject(loaded(GREY), GREY)
    collapsed = replace(made.evaluation, report=replace(made.report, active_units=0))
    page = Page(paper.html(replace(made, evaluation=collapsed)))
    assert page.said.index("The latent has collapsed") < page.said.index("Learning curves")
    assert "role" in str(page.all("div"))


def test_without_records_or_labels_or_detection_it_says_less(loaded: Load) -> None:
    made = subject(loaded(GREY), GREY, labels=False)
    bare = replace(made.evaluation, report=replace(made.report, detection=[]))
    bare_page = Page(paper.html(replace(made, records=[], evaluation=bare)))
    assert "records of the training are not with this model" in bare_page.said
    assert "Telling outliers" not in bare_page.said
    assert len(bare_page.all("svg")) == 4
    assert paper.files(replace(made, records=[])).keys() == set(FILES) - {
        "learning_curves.png",
        "latents_free_energy.png",
    }


@pytest.mark.parametrize("name", [GREY, TABLE])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_samples_are_enough(name: str, count: int, loaded: Load) -> None:
    found = loaded(name)
    data = CONFIGS[name].data
    dataset = Memory(rows(count) if isinstance(data, VectorData) else stripes(count, data.shape))
    made = Subject(found, evaluate(found.vae, dataset, draws=1), dataset, [])
    assert Page(paper.html(made)).all("svg")
    assert paper.files(made)


def test_active_dimensions_are_told_by_their_own_variance(loaded: Load) -> None:
    made = subject(loaded(GREY), GREY)
    variances = np.array([1.0, 0.0, 2.0, 0.0])
    means = np.random.default_rng(0).normal(size=(40, 4)) * np.sqrt(variances)
    changed = replace(made.evaluation, means=means, rates=np.array([0.1, 3.0, 2.0, 0.0]))
    # By falling rate: the second, the third, the first, the fourth.
    assert (variances > MIN_ACTIVE_VARIANCE)[[1, 2, 0, 3]].tolist() == [False, True, True, False]
    assert replace(made, evaluation=changed).active.tolist() == [False, True, True, False]


class TestLooks:
    def test_samples_are_picked_in_the_order_asked_for(self) -> None:
        samples = stripes(700)
        picked = looks.pick(Memory(samples), [699, 0, 256, 255, 0])
        np.testing.assert_array_equal(picked, samples[[699, 0, 256, 255, 0]])

    def test_the_extremes_are_the_costliest_and_the_cheapest(self, loaded: Load) -> None:
        made = subject(loaded(GREY), GREY)
        most, least = made.extremes()
        cost = made.evaluation.free_energy
        assert cost[most].tolist() == sorted(cost, reverse=True)[:8]
        assert cost[least].tolist() == sorted(cost)[:8]
        page = Page(looks.surprises(looks.look(loaded(GREY).vae, made.dataset, most, cost), CONFIGS[GREY].data))
        for index in most:
            assert f"{index} ({index % 3}): {cost[index]:,.2f} nats" in page.said

    def test_an_image_is_shown_as_it_is(self, loaded: Load) -> None:
        made = subject(loaded(GREY), GREY)
        seen = looks.look(loaded(GREY).vae, made.dataset, [7], made.evaluation.free_energy)
        first = Page(looks.rebuilt(seen, CONFIGS[GREY].data)).all("img")[0]["src"]
        assert first is not None
        shown = Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(shown), stripes(40)[7, 0])

    def test_a_large_image_is_made_small(self) -> None:
        found = Page(pictures.image(np.zeros((3, 1000, 500), np.uint8), "x")).all("img")[0]
        assert (found["width"], found["height"]) == ("128", "256")

    def test_a_row_is_told_by_its_costliest_columns(self, loaded: Load) -> None:
        vae, data = loaded(TABLE).vae, CONFIGS[TABLE].data
        assert isinstance(data, VectorData)
        samples = rows(30)
        samples[4, 1] = 9.0  # metres tall
        dataset = Memory(samples)
        found = evaluate(vae, dataset, draws=1).free_energy
        seen = looks.look(vae, dataset, [int(np.argmax(found))], found)
        page = Page(looks.surprises(seen, data))
        assert page.said.startswith("Sample 4: ")
        assert re.search(r"nats.*?height9", page.said)
        assert page.said.index("height") < page.said.index("age")

    def test_the_unit_of_a_column_does_not_decide_what_it_costs(self) -> None:
        """The same rows in metres and in millimetres, and a model of each."""
        factor, samples = np.array([1, 1000, 1], np.float32), rows(30)
        plain = VectorData(columns=("a", "b", "c"), mean=(41.0, 1.7, 70.0), std=(12.0, 0.1, 9.0))
        small = plain.model_copy(update={"mean": (41.0, 1700.0, 70.0), "std": (12.0, 100.0, 9.0)})
        looked = []
        for data, given in ((plain, samples), (small, samples * factor)):
            torch.manual_seed(0)
            vae = VAE(CONFIGS[TABLE].model_copy(update={"data": data})).eval()
            looked.append(looks.look(vae, Memory(given), [0, 1, 2], np.zeros(30)))
        np.testing.assert_allclose(looked[1].x, looked[0].x * factor, rtol=1e-5)
        np.testing.assert_allclose(looked[1].nlog, looked[0].nlog, rtol=1e-4, atol=1e-4)

    def test_a_column_is_blind_where_its_own_mean_would_do_as_well(self) -> None:
        """Over these very samples: data that lies elsewhere is not data of which nothing was learned."""
        x = np.random.default_rng(0).normal(50, 3, (200, 60))
        rebuilt = x + np.random.default_rng(1).normal(0, 0.5, x.shape)
        rebuilt[:, [0, 55]] = x[:, [0, 55]].mean(axis=0)
        x[:, 7], rebuilt[:, 7] = 4, 4  # never varies
        seen = looks.Look([""] * 200, np.zeros(200), x, rebuilt, x)
        data = VectorData(columns=tuple(f"c{i}" for i in range(60)), mean=(0.0,) * 60, std=(1.0,) * 60)
        assert looks.blind(seen, data) == ["c0", "c55"]

    def test_nothing_is_said_of_columns_by_few_rows(self, loaded: Load) -> None:
        assert subject(loaded(TABLE), TABLE).blind == []

    def test_a_sample_of_a_part_of_a_folder_goes_by_its_name_in_it(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
        whole = open_dataset(str(tmp_path))
        part = Subset(whole, np.array([0, 2]), whole.load()[[0, 2]], "set aside")
        assert looks._names(part, [1, 0]) == looks._names(whole, [2, 0]) == ["c.png", "a.png"]

    def test_many_columns_are_left_out_and_that_is_said(self) -> None:
        assert looks._left_out(VectorData(columns=tuple(map(str, range(45))), mean=(0,) * 45, std=(1,) * 45)) == (
            " (the first 40 columns; 5 more are left out)"
        )


class TestWriting:
    def test_leaves_a_page_and_its_pictures_and_nothing_else(self, loaded: Load, tmp_path: Path) -> None:
        made = subject(loaded(GREY), GREY)
        folder = paper.write(tmp_path / "out.html", made)
        assert folder == tmp_path / "out_files"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out_files"]
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert (tmp_path / "out.html").read_text() == paper.html(made)
        for path in folder.iterdir():
            with Image.open(path) as picture:
                assert np.asarray(picture.convert("L")).std() > 5
        # Another one takes its place, and what is not of it any more goes; what is not ours stays.
        (folder / "mine.txt").write_text("mine")
        paper.write(tmp_path / "out.html", replace(made, records=[]))
        assert sorted(path.name for path in folder.iterdir()) == sorted({*FILES, "mine.txt"} - {"learning_curves.png"})

    @pytest.mark.parametrize("full", ["out.html", "samples.png"])
    def test_on_a_full_disk_leaves_what_was_there(
        self, full: str, loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, path = subject(loaded(GREY), GREY), tmp_path / "out.html"
        paper.write(path, made)
        before = {place: place.read_bytes() for place in tmp_path.rglob("*") if place.is_file()}
        write = files.write_synced

        def fill(place: Path, data: bytes) -> None:
            if full in place.name:
                raise OSError(28, "No space left on device", str(place))
            write(place, data)

        monkeypatch.setattr(paper, "write_synced", fill)
        with pytest.raises(DataError) as error:
            paper.write(path, replace(made, records=[]))
        assert full in refusal(error) and "No space left on device); make room" in refusal(error)
        assert {place: place.read_bytes() for place in tmp_path.rglob("*") if place.is_file()} == before

    def test_where_it_cannot_be_is_refused_by_its_name(self, loaded: Load, tmp_path: Path) -> None:
        made = subject(loaded(GREY), GREY)
        (tmp_path / "out_files").write_text("in the way")
        with pytest.raises(DataError, match=r"out_files: cannot be written"):
            paper.write(tmp_path / "out.html", made)
        assert os.listdir(tmp_path) == ["out_files"]
