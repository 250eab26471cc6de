"""`vae evaluate`: what scores tell apart, as tables, as JSON, as pictures and in the card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.cli import evaluate
from model import checkpoint, random
from model.checkpoint import Checkpoint
from model.datasets import open_dataset
from model.errors import DataError
from model.scoring import batches
from model.scoring.calibration import ScoringConfig
from model.training.config import Split
from tests.support.commands import SMALL, Invoke
from tests.support.data import squares
from tests.support.models import reference

GREY, TABLE = "grey-mlp-discretized", "table-mlp-gaussian"
Load = Callable[[str], Checkpoint]
QUICK = ("--samples", "2", "--detection", "40", "--refine", "2")


def report(path: str = "report.json") -> dict[str, Any]:
    """What was written, as JSON that has no numbers of its own making."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(Path(path).read_text(), parse_constant=refuse)
    return found


@pytest.fixture
def data(vae: Invoke) -> str:
    """The name of a file of 60 pictures, where we are."""
    np.save("squares.npy", squares(60))
    return "squares.npy"


def test_tables_say_how_well_each_score_tells_each_set_apart(vae: Invoke, calibrated: Load, data: str) -> None:
    said = vae("evaluate", str(calibrated(GREY).folder), data, *QUICK, "--out", "report.json")
    assert "AUROC against 40 inputs (samples=1, refine=0)" in said
    assert "AUROC against 4 inputs (samples=16, refine=2)" in said
    first, second = report()["detection"]
    assert (first["samples"], first["refine"], first["seed"], first["inliers"]) == (1, 0, 0, 40)
    assert (second["samples"], second["refine"], second["seed"], second["inliers"]) == (16, 2, 0, 4)
    sets = ["vertical flips", "horizontal flips", "digits", "noise", "constants"]
    assert list(first["auroc"]) == list(first["outliers"]) == sets
    # For one draw the model is calibrated, for sixteen it is not.
    assert {"free_energy", "rate", "typicality", "free_energy_two_sided"} <= first["auroc"]["noise"].keys()
    assert "regret" not in first["auroc"]["noise"]
    assert "regret" in second["auroc"]["noise"]
    assert "typicality" not in second["auroc"]["noise"]
    for detection in (first, second):
        for areas in detection["auroc"].values():
            for name, area in areas.items():
                assert 0 <= area <= 1
                assert name in said
                assert f"{area:.4f}" in said


def test_an_area_is_the_share_of_pairs_in_the_right_order(vae: Invoke, calibrated: Load) -> None:
    np.save("rows.npy", reference(TABLE, 50, seed=8))
    vae("evaluate", str(calibrated(TABLE).folder), "rows.npy", *QUICK, "--seed", "3", "--out", "report.json")
    (first, _) = report()["detection"]
    assert list(first["auroc"]) == ["shuffled columns", "noise"]
    rows = reference(TABLE, 50, seed=8)[:40]
    shuffled = random.generator(0, random.OUTLIERS).permuted(rows, axis=0)
    vae_, protocol = calibrated(TABLE).vae, ScoringConfig(1, 0, 3)
    inliers, outliers = (
        next(batches.score(vae_, [part], protocol)).scores.estimates.free_energy for part in (rows, shuffled)
    )
    pairs = (outliers[:, None] > inliers) + 0.5 * (outliers[:, None] == inliers)
    assert first["auroc"]["shuffled columns"]["free_energy"] == pytest.approx(pairs.mean(), abs=2 / pairs.size)


def test_more_sets_of_outliers_are_named_by_where_they_come_from(vae: Invoke, calibrated: Load) -> None:
    for name, rows in (("rows", reference(TABLE, 60, 8)), ("far", reference(TABLE, 30, 9) * 3)):
        np.save(f"{name}.npy", rows)
    shutil.copy("rows.npy", "same.npy")
    against = ("--against", "far.npy", "--against", "same.npy")
    said = vae("evaluate", str(calibrated(TABLE).folder), "rows.npy", *QUICK, *against, "--out", "report.json")
    assert "far.npy" in said and "same.npy" in said
    first, second = report()["detection"]
    assert (first["outliers"]["far.npy"], first["outliers"]["same.npy"]) == (30, 40)
    assert second["outliers"]["same.npy"] == 4
    assert first["auroc"]["far.npy"]["free_energy"] > 0.9
    assert first["auroc"]["far.npy"]["typicality"] > 0.9
    # The very same inputs cannot be told apart: every one ties with itself.
    assert set(first["auroc"]["same.npy"].values()) == {0.5}


@pytest.mark.parametrize(
    ("options", "protocols"),
    [
        (("--detection", "0"), []),
        (("--detection", "20", "--refine", "0"), [(1, 0)]),
        (("--detection", "20", "--refine", "3"), [(1, 0), (16, 3)]),
        (("--detection", "9", "--refine", "3"), [(1, 0)]),
    ],
    ids=str,
)
def test_what_is_not_asked_for_is_left_away(
    vae: Invoke, loaded: Load, data: str, options: tuple[str, ...], protocols: list[tuple[int, int]]
) -> None:
    said = vae("evaluate", str(loaded(GREY).folder), data, "--samples", "2", *options, "--out", "report.json")
    found = report()
    assert [(detection["samples"], detection["refine"]) for detection in found["detection"]] == protocols
    assert said.count("AUROC") == len(protocols)
    assert found["samples"] == 60
    assert found["draws"] == 2


def test_the_costliest_samples_are_named_with_what_they_cost(vae: Invoke, loaded: Load, data: str) -> None:
    said = vae("evaluate", str(loaded(GREY).folder), data, "--samples", "2", "--detection", "0", "--out", "report.json")
    (part,) = batches.score(loaded(GREY).vae, [squares(60)[:, None]], ScoringConfig(2, 0, 0))
    free_energy = part.scores.estimates.free_energy
    worst = report()["worst"]
    assert [int(entry["sample"]) for entry in worst] == np.argsort(-free_energy, kind="stable")[:10].tolist()
    np.testing.assert_allclose([entry["free_energy"] for entry in worst], np.sort(free_energy)[::-1][:10], rtol=1e-5)
    assert f"costliest: {worst[0]['sample']}" in said
    assert report()["free_energy"] == pytest.approx(free_energy.mean(), rel=1e-5)


def test_its_pictures_are_drawn_into_a_new_folder(vae: Invoke, loaded: Load, data: str) -> None:
    command = ("evaluate", str(loaded(GREY).folder), data, "--samples", "2", "--detection", "0")
    assert "Drew some/where" in vae(*command, "--plots", "some/where")
    drawn = sorted(path.name for path in Path("some/where").iterdir())
    assert drawn == ["free_energy.png", "rate_per_dimension.png"]
    for name in drawn:
        with Image.open(Path("some/where", name)) as picture:
            assert min(picture.size) > 100
    Path("taken").write_text("")
    with pytest.raises(DataError, match="taken: cannot be drawn into"):
        vae(*command, "--plots", "taken")


@pytest.mark.parametrize("option", ["--plots", "--report"])
def test_pictures_without_matplotlib_are_refused_before_the_work(
    vae: Invoke, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"{option} needs matplotlib: pip install 'vae-server\[train\]'"):
        vae("evaluate", "nothing", "nothing.npy", option, "plots")


def test_a_report_is_one_page_with_its_pictures_beside_it(vae: Invoke, shown: Load, data: str) -> None:
    said = vae("evaluate", str(shown(GREY).folder), data, *QUICK, "--report", "page.html", "--out", "report.json")
    assert "Wrote page.html, and its pictures into page_files" in said
    page = Path("page.html").read_text()
    assert f"{report()['free_energy']:,.2f}" in page and "Telling outliers" in page
    # The epochs are known from the gallery.
    assert "lowest after epoch 2" in page
    assert Path("page_files/learning_curves.png").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["page.html", "page_files", "report.json", data]


def test_a_report_knows_the_run_that_it_is_of(vae: Invoke, data: str) -> None:
    vae("train", data, "--out", "run", *SMALL)
    said = vae("evaluate", "run", data, "--samples", "1", "--detection", "0", "--report", "page.html")
    page = Path("page.html").read_text()
    assert "Free energy by epoch; held out, it is lowest after epoch" in page
    # So few samples that none was set aside.
    assert "squares.npy is what the model was trained on. Judged are the 6 samples of it that were held out" in said
    assert "The evaluated samples also chose the best epoch" in page
    assert "chose the epoch, and are those of this report" in page


def test_of_the_data_of_the_training_only_what_was_set_aside_is_judged(vae: Invoke, data: str) -> None:
    vae("train", data, "--out", "run", "--set-aside", "20", *SMALL)
    said = vae("evaluate", "run", data, "--samples", "2", "--detection", "0", "--out", "report.json", "--save")
    assert "Judged are the 20 samples of it that were set aside" in said
    split = Split.of(open_dataset(data), 6, 20, 0)
    run = checkpoint.load(Path("run"))
    (part,) = batches.score(run.vae, [split.set_aside], ScoringConfig(2, 0, 0))
    free_energy = part.scores.estimates.free_energy
    found = report()
    assert found["free_energy"] == pytest.approx(free_energy.mean(), rel=1e-5)
    assert (found["dataset"], found["portion"], found["samples"]) == ("squares.npy (set aside)", "set_aside", 20)
    # A sample goes by its name in the whole of the data.
    worst = open_dataset(data).load()[int(found["worst"][0]["sample"])]
    np.testing.assert_array_equal(worst, split.set_aside[free_energy.argmax()])
    assert run.card.evaluation == found
    np.save("others.npy", squares(61)[1:])
    vae("evaluate", "run", "others.npy", "--samples", "1", "--detection", "0", "--out", "report.json")
    assert (report()["samples"], report()["portion"]) == (60, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [("no/such/page.html", "there is no such folder to write to; make it first"), ("folder", "folder/report.html")],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(vae: Invoke, name: str, said: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(DataError, match=said):
        vae("evaluate", "nothing", "nothing.npy", "--report", name)


def test_a_report_that_fails_late_costs_neither_card_nor_json(vae: Invoke, loaded: Load, data: str) -> None:
    shutil.copytree(loaded(GREY).folder, "model")
    Path("page_files").write_text("in the way")
    command = ("evaluate", "model", data, "--samples", "1", "--detection", "0", "--save", "--out", "report.json")
    with pytest.raises(DataError, match="page_files: cannot be written"):
        vae(*command, "--report", "page.html")
    assert checkpoint.load(Path("model")).card.evaluation == report()
    assert not Path("page.html").exists()


def test_the_card_keeps_what_was_found_and_the_calibration_stays(vae: Invoke, calibrated: Load) -> None:
    before = calibrated(TABLE)
    shutil.copytree(before.folder, "model")
    np.save("rows.npy", reference(TABLE, 60, seed=8))
    vae("evaluate", "model", "rows.npy", *QUICK, "--save", "--out", "report.json")
    after = checkpoint.load(Path("model"))
    assert after.card.evaluation == report()
    assert after.digest == before.digest
    assert after.calibration is not None and before.calibration is not None
    assert after.calibration.references.keys() == before.calibration.references.keys()
