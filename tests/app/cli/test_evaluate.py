"""`vae evaluate`: its tables, JSON, plots, page and the entry in the card."""

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
from model.training.splits import Split
from tests.support.commands import SMALL, Invoke
from tests.support.data import squares
from tests.support.models import reference

GREY, TABLE = "grey-mlp-discretized", "table-mlp-gaussian"
Load = Callable[[str], Checkpoint]
QUICK = ("--samples", "2", "--detection", "40", "--refine", "2")


def report(path: str = "report.json") -> dict[str, Any]:
    """Read the report as strict JSON, without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result: dict[str, Any] = json.loads(Path(path).read_text(), parse_constant=refuse)
    return result


@pytest.fixture
def data(vae: Invoke) -> str:
    """Name of a file of 60 images in the current folder."""
    np.save("squares.npy", squares(60))
    return "squares.npy"


def test_tables_have_the_auroc_of_each_score_and_set(vae: Invoke, calibrated: Load, data: str) -> None:
    output = vae("evaluate", str(calibrated(GREY).folder), data, *QUICK, "--out", "report.json")
    assert "AUROC against 40 inputs (samples=1, refine=0)" in output
    assert "AUROC against 4 inputs (samples=16, refine=2)" in output
    first, second = report()["detection"]
    assert (first["samples"], first["refine"], first["seed"], first["inliers"]) == (1, 0, 0, 40)
    assert (second["samples"], second["refine"], second["seed"], second["inliers"]) == (16, 2, 0, 4)
    sets = ["vertical flips", "horizontal flips", "digits", "noise", "constants"]
    assert list(first["auroc"]) == list(first["outliers"]) == sets
    # The model is calibrated for one draw, not for sixteen.
    assert {"free_energy", "rate", "typicality", "free_energy_two_sided"} <= first["auroc"]["noise"].keys()
    assert "regret" not in first["auroc"]["noise"]
    assert "regret" in second["auroc"]["noise"]
    assert "typicality" not in second["auroc"]["noise"]
    for detection in (first, second):
        for areas in detection["auroc"].values():
            for name, area in areas.items():
                assert 0 <= area <= 1
                assert name in output
                assert f"{area:.4f}" in output


def test_auroc_is_the_fraction_of_pairs_in_the_right_order(vae: Invoke, calibrated: Load) -> None:
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


def test_further_sets_of_outliers_are_named_by_their_source(vae: Invoke, calibrated: Load) -> None:
    for name, rows in (("rows", reference(TABLE, 60, 8)), ("far", reference(TABLE, 30, 9) * 3)):
        np.save(f"{name}.npy", rows)
    shutil.copy("rows.npy", "same.npy")
    against = ("--against", "far.npy", "--against", "same.npy")
    output = vae("evaluate", str(calibrated(TABLE).folder), "rows.npy", *QUICK, *against, "--out", "report.json")
    assert "far.npy" in output and "same.npy" in output
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
def test_disabled_parts_are_omitted(
    vae: Invoke, loaded: Load, data: str, options: tuple[str, ...], protocols: list[tuple[int, int]]
) -> None:
    output = vae("evaluate", str(loaded(GREY).folder), data, "--samples", "2", *options, "--out", "report.json")
    result = report()
    assert [(detection["samples"], detection["refine"]) for detection in result["detection"]] == protocols
    assert output.count("AUROC") == len(protocols)
    assert result["samples"] == 60
    assert result["draws"] == 2


def test_the_samples_with_the_highest_free_energy_are_named(vae: Invoke, loaded: Load, data: str) -> None:
    output = vae(
        "evaluate", str(loaded(GREY).folder), data, "--samples", "2", "--detection", "0", "--out", "report.json"
    )
    (part,) = batches.score(loaded(GREY).vae, [squares(60)[:, None]], ScoringConfig(2, 0, 0))
    free_energy = part.scores.estimates.free_energy
    worst = report()["worst"]
    assert [int(entry["sample"]) for entry in worst] == np.argsort(-free_energy, kind="stable")[:10].tolist()
    np.testing.assert_allclose([entry["free_energy"] for entry in worst], np.sort(free_energy)[::-1][:10], rtol=1e-5)
    assert f"costliest: {worst[0]['sample']}" in output
    assert report()["free_energy"] == pytest.approx(free_energy.mean(), rel=1e-5)


def test_plots_are_written_into_a_new_folder(vae: Invoke, loaded: Load, data: str) -> None:
    command = ("evaluate", str(loaded(GREY).folder), data, "--samples", "2", "--detection", "0")
    assert "Wrote plots into some/where" in vae(*command, "--plots", "some/where")
    drawn = sorted(path.name for path in Path("some/where").iterdir())
    assert drawn == ["free_energy.png", "kl_to_normal.png"]
    for name in drawn:
        with Image.open(Path("some/where", name)) as picture:
            assert min(picture.size) > 100
    Path("taken").write_text("")
    with pytest.raises(DataError, match="taken: cannot be written"):
        vae(*command, "--plots", "taken")


@pytest.mark.parametrize("option", ["--plots", "--report"])
def test_plots_without_matplotlib_are_refused_before_the_work(
    vae: Invoke, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"{option} needs matplotlib: pip install 'vae-server\[train\]'"):
        vae("evaluate", "nothing", "nothing.npy", option, "plots")


def test_a_report_is_one_page_with_its_images_beside_it(vae: Invoke, shown: Load, data: str) -> None:
    output = vae("evaluate", str(shown(GREY).folder), data, *QUICK, "--report", "page.html", "--out", "report.json")
    assert "Wrote page.html, and its images into page_files" in output
    page = Path("page.html").read_text()
    assert f"{report()['free_energy']:,.2f}" in page and "Outlier detection" in page
    # The records of the epochs come from the gallery.
    assert "lowest after epoch 2" in page
    assert Path("page_files/learning_curves.png").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["page.html", "page_files", "report.json", data]


def test_a_report_has_the_learning_curves_of_its_run(vae: Invoke, data: str) -> None:
    vae("train", data, "--out", "run", *SMALL)
    output = vae("evaluate", "run", data, "--samples", "1", "--detection", "0", "--report", "page.html")
    page = Path("page.html").read_text()
    assert "Free energy by epoch. On held-out samples it is lowest after epoch" in page
    # There are too few samples for a calibration split.
    assert "squares.npy is what the model was trained on. Only its 6 samples that were held out are evaluated" in output
    assert "The evaluated samples also chose the best epoch" in page
    assert "chose the epoch, and are those of this report" in page


def test_a_report_shows_samples_beside_the_nearest_training_images(vae: Invoke, data: str) -> None:
    vae("train", data, "--out", "run", *SMALL)
    np.save("others.npy", squares(61)[1:])
    quick = ("--samples", "1", "--detection", "0", "--report", "page.html")
    for arguments, shown in (((data,), True), (("others.npy",), False), (("others.npy", "--training", data), True)):
        vae("evaluate", "run", *arguments, *quick)
        assert ("stands above the training image nearest to it" in Path("page.html").read_text()) == shown
    with pytest.raises(DataError, match=r"others\.npy: is not the data that the model was trained on"):
        vae("evaluate", "run", "others.npy", "--training", "others.npy", *quick)


def test_training_data_is_reduced_to_its_calibration_split(vae: Invoke, data: str) -> None:
    vae("train", data, "--out", "run", "--set-aside", "20", *SMALL)
    output = vae("evaluate", "run", data, "--samples", "2", "--detection", "0", "--out", "report.json", "--save")
    assert "Only its 20 samples that were set aside are evaluated" in output
    split = Split.from_dataset(open_dataset(data), 6, 20, 0)
    run = checkpoint.load(Path("run"))
    (part,) = batches.score(run.vae, [split.calibration], ScoringConfig(2, 0, 0))
    free_energy = part.scores.estimates.free_energy
    result = report()
    assert result["free_energy"] == pytest.approx(free_energy.mean(), rel=1e-5)
    assert (result["dataset"], result["portion"], result["samples"]) == ("squares.npy (set aside)", "set_aside", 20)
    # Samples keep their names in the whole dataset.
    worst = open_dataset(data).load()[int(result["worst"][0]["sample"])]
    np.testing.assert_array_equal(worst, split.calibration[free_energy.argmax()])
    assert run.card.evaluation == result
    np.save("others.npy", squares(61)[1:])
    vae("evaluate", "run", "others.npy", "--samples", "1", "--detection", "0", "--out", "report.json")
    assert (report()["samples"], report()["portion"]) == (60, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/such/page.html", "there is no such folder to write to; make it first"), ("folder", "folder/report.html")],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(vae: Invoke, name: str, message: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(DataError, match=message):
        vae("evaluate", "nothing", "nothing.npy", "--report", name)


def test_a_report_that_fails_late_keeps_card_and_json(vae: Invoke, loaded: Load, data: str) -> None:
    shutil.copytree(loaded(GREY).folder, "model")
    Path("page_files").write_text("in the way")
    command = ("evaluate", "model", data, "--samples", "1", "--detection", "0", "--save", "--out", "report.json")
    with pytest.raises(DataError, match="page_files: cannot be written"):
        vae(*command, "--report", "page.html")
    assert checkpoint.load(Path("model")).card.evaluation == report()
    assert not Path("page.html").exists()


def test_the_card_stores_the_report_and_the_calibration_stays(vae: Invoke, calibrated: Load) -> None:
    before = calibrated(TABLE)
    shutil.copytree(before.folder, "model")
    np.save("rows.npy", reference(TABLE, 60, seed=8))
    vae("evaluate", "model", "rows.npy", *QUICK, "--save", "--out", "report.json")
    after = checkpoint.load(Path("model"))
    assert after.card.evaluation == report()
    assert after.digest == before.digest
    assert after.calibration is not None and before.calibration is not None
    assert after.calibration.references.keys() == before.calibration.references.keys()
