"""`vae gallery`, and the galleries of `vae train` and `vae calibrate`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import checkpoint
from model.checkpoint import Checkpoint
from model.datasets import open_dataset
from model.errors import DataError, TrainingError
from model.gallery import GALLERY_SCORING, Gallery
from model.scoring import batches
from model.training.run import read_records
from model.training.splits import Split
from tests.support.commands import SMALL, Invoke, invoke, table
from tests.support.data import squares
from tests.support.models import reference

Load = Callable[[str], Checkpoint]
TABLE = "table-mlp-gaussian"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 squares in two subfolders, which are their labels."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    for index, image in enumerate(squares(300)):
        home = folder / ("dark" if index % 3 else "bright")
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(home / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """Folder of a finished run and output of its training."""
    folder = data.parent / "finished"
    return folder, invoke("train", str(data), "--out", str(folder), "--set-aside", "40", *SMALL)


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def gallery_of(run: Path | str) -> Gallery:
    """Gallery of a model."""
    gallery = checkpoint.load(Path(run)).gallery
    assert gallery is not None
    return gallery


def test_training_makes_a_gallery_of_the_calibration_split(finished: tuple[Path, str], data: Path) -> None:
    folder, output = finished
    assert (
        output.index("Calibrated on") < output.index("Gallery of 40 of them") < output.index("Best on held-out samples")
    )
    gallery, split = gallery_of(folder), Split.from_dataset(open_dataset(str(data)), None, 40, 0)
    np.testing.assert_array_equal(gallery.inputs, split.calibration)
    assert gallery.labels is not None and split.calibration_labels is not None
    np.testing.assert_array_equal(gallery.labels, split.calibration_labels)
    assert gallery.label_names == ("bright", "dark")
    records = table(folder / "metrics.csv")
    assert [epoch.epoch for epoch in gallery.learning] == [1, 2, 3]
    assert [repr(epoch.free_energy) for epoch in gallery.learning] == [record["free_energy"] for record in records]


def test_a_repeated_command_restores_or_removes_the_gallery(vae: Invoke, run: Path, data: Path) -> None:
    command = ("train", str(data), "--out", str(run), "--set-aside", "40", *SMALL)
    before, digest = (run / "checkpoint" / checkpoint.GALLERY).read_bytes(), checkpoint.load(run).digest
    assert "Gallery" not in vae(*command)
    checkpoint.save_gallery(run, None)
    assert "Gallery of 40 of them" in vae(*command)
    assert (run / "checkpoint" / checkpoint.GALLERY).read_bytes() == before
    for _ in range(2):
        assert "Gallery" not in vae(*command, "--gallery", "none")
        assert checkpoint.load(run).gallery is None
    assert checkpoint.load(run).digest == digest
    assert checkpoint.load(run).calibration is not None


@pytest.mark.parametrize("options", [("--gallery", "none", "--set-aside", "30"), ("--set-aside", "0")], ids=str)
def test_no_gallery_is_made_without_consent_or_calibration_samples(
    vae: Invoke, data: Path, options: tuple[str, ...]
) -> None:
    assert "Gallery" not in vae("train", str(data), "--out", "run", *options, *SMALL)
    assert checkpoint.load(Path("run")).gallery is None
    assert not list(Path("run").rglob(checkpoint.GALLERY))


def test_training_data_is_reduced_to_its_calibration_split(vae: Invoke, run: Path, data: Path) -> None:
    before = (run / "checkpoint" / checkpoint.GALLERY).read_bytes()
    checkpoint.save_gallery(run, None)
    assert "40 of 40 samples" in (output := vae("gallery", str(run), str(data)))
    assert f"{data} (set aside)" in output
    assert (run / "checkpoint" / checkpoint.GALLERY).read_bytes() == before


def test_training_data_without_a_calibration_split_is_refused(vae: Invoke, data: Path) -> None:
    vae("train", str(data), "--out", "run", "--set-aside", "0", *SMALL)
    with pytest.raises(DataError, match="was trained on it, and none of it was set aside"):
        vae("gallery", "run", str(data))
    assert checkpoint.load(Path("run")).gallery is None


def test_other_data_is_used_completely_and_the_records_stay(vae: Invoke, run: Path) -> None:
    before = checkpoint.load(run)
    np.savez("others.npz", x=squares(50), labels=np.arange(50) % 4 - 1)
    assert "50 of 50 samples of others.npz:x" in vae("gallery", str(run), "others.npz")
    gallery = gallery_of(run)
    np.testing.assert_array_equal(gallery.inputs[:, 0], squares(50))
    assert gallery.labels is not None and gallery.labels.tolist() == [index % 4 - 1 for index in range(50)]
    assert gallery.label_names is None
    assert [epoch.epoch for epoch in gallery.learning] == [1, 2, 3]
    # A checkpoint outside of its run has the records in its gallery only.
    shutil.move(run / "checkpoint", "alone")
    vae("gallery", "alone", "others.npz")
    assert gallery_of("alone").learning == gallery.learning
    after = checkpoint.load(Path("alone"))
    assert (after.card, after.digest) == (before.card, before.digest)


def test_a_model_without_a_training_gets_a_gallery_and_loses_it(vae: Invoke, loaded: Load) -> None:
    shutil.copytree(loaded(TABLE).folder, "model")
    np.save("rows.npy", reference(TABLE, 50))
    vae("gallery", "model", "rows.npy")
    gallery = gallery_of("model")
    assert (gallery.labels, gallery.learning, "typicality" in gallery.scores) == (None, (), False)
    assert "has no gallery" in vae("gallery", "model", "none")
    assert checkpoint.load(Path("model")).gallery is None


def test_an_unreadable_gallery_is_replaced(vae: Invoke, shown: Load) -> None:
    shutil.copytree(shown(TABLE).folder, "model")
    files = {path.name: path.read_bytes() for path in Path("model").iterdir() if path.name != checkpoint.SUMS}
    files[checkpoint.GALLERY] = b"of another version"
    (Path("model") / checkpoint.GALLERY).write_bytes(files[checkpoint.GALLERY])
    (Path("model") / checkpoint.SUMS).write_bytes(checkpoint.checksums(files))
    np.save("rows.npy", reference(TABLE, 50))
    vae("gallery", "model", "rows.npy")
    assert (len(gallery_of("model")), gallery_of("model").learning) == (50, ())


def test_typicality_in_the_gallery_follows_the_calibration(vae: Invoke, shown: Load) -> None:
    shutil.copytree(shown(TABLE).folder, "model")
    np.save("rows.npy", reference(TABLE, 150, seed=3))
    before = gallery_of("model")
    vae("calibrate", "model", "rows.npy", "--samples", "2")
    np.testing.assert_array_equal(gallery_of("model").scores["typicality"], before.scores["typicality"])
    vae("calibrate", "model", "rows.npy")
    model = checkpoint.load(Path("model"))
    (part,) = batches.score(model.vae, [before.inputs], GALLERY_SCORING, model.calibration)
    assert part.scores.calibrated.typicality is not None
    after = gallery_of("model").scores
    np.testing.assert_allclose(after["typicality"], part.scores.calibrated.typicality, rtol=1e-3, atol=1e-3)
    assert not np.allclose(after["typicality"], before.scores["typicality"])
    np.testing.assert_array_equal(after["free_energy"], before.scores["free_energy"])


@pytest.mark.parametrize("spoiled", ["epoch,free_energy\n1,2\n", "epoch\nx\n", "a,b\n1,2\n", "\xff"])
def test_invalid_records_are_refused_by_file_name(vae: Invoke, run: Path, data: Path, spoiled: str) -> None:
    (run / "metrics.csv").write_bytes(spoiled.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"metrics\.csv: cannot be read as the records of a run"):
        vae("gallery", str(run), str(data))
    (run / "metrics.csv").unlink()
    assert read_records(run / "checkpoint") == []
