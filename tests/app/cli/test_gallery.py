"""`vae gallery`, and what `vae train` and `vae calibrate` do for the gallery."""

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
from model.gallery import PROTOCOL, Gallery
from model.scoring import batches
from model.training.config import Split
from model.training.run import read_records
from tests.support.commands import SMALL, Invoke, invoke, table
from tests.support.data import squares
from tests.support.models import reference

Load = Callable[[str], Checkpoint]
TABLE = "table-mlp-gaussian"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 squares in a folder, a third of them in a subfolder of its own."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    for index, image in enumerate(squares(300)):
        home = folder / ("dark" if index % 3 else "bright")
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(home / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[Path, str]:
    """The folder of a finished run, and what its training said."""
    folder = data.parent / "finished"
    return folder, invoke("train", str(data), "--out", str(folder), "--set-aside", "40", *SMALL)


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def gallery(run: Path | str) -> Gallery:
    """Of a model that has one."""
    found = checkpoint.load(Path(run)).gallery
    assert found is not None
    return found


def test_training_ends_with_a_gallery_of_what_was_set_aside(finished: tuple[Path, str], data: Path) -> None:
    folder, said = finished
    assert said.index("Calibrated on") < said.index("Gallery of 40 of them") < said.index("Best on held-out samples")
    found, split = gallery(folder), Split.of(open_dataset(str(data)), None, 40, 0)
    np.testing.assert_array_equal(found.inputs, split.set_aside)
    assert found.labels is not None and split.set_aside_labels is not None
    np.testing.assert_array_equal(found.labels, split.set_aside_labels)
    assert found.label_names == ("bright", "dark")
    records = table(folder / "metrics.csv")
    assert [epoch.epoch for epoch in found.learning] == [1, 2, 3]
    assert [repr(epoch.free_energy) for epoch in found.learning] == [record["free_energy"] for record in records]


def test_a_run_that_lost_it_is_given_it_again_and_one_that_is_to_have_none_loses_it(
    vae: Invoke, run: Path, data: Path
) -> None:
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
def test_private_data_and_none_set_aside_make_none(vae: Invoke, data: Path, options: tuple[str, ...]) -> None:
    assert "Gallery" not in vae("train", str(data), "--out", "run", *options, *SMALL)
    assert checkpoint.load(Path("run")).gallery is None
    assert not list(Path("run").rglob(checkpoint.GALLERY))


def test_of_the_data_of_the_training_only_what_was_set_aside_is_taken(vae: Invoke, run: Path, data: Path) -> None:
    before = (run / "checkpoint" / checkpoint.GALLERY).read_bytes()
    checkpoint.save_gallery(run, None)
    assert "40 of 40 samples" in (said := vae("gallery", str(run), str(data)))
    assert f"{data} (set aside)" in said
    assert (run / "checkpoint" / checkpoint.GALLERY).read_bytes() == before


def test_where_none_was_set_aside_the_data_of_the_training_is_refused(vae: Invoke, data: Path) -> None:
    vae("train", str(data), "--out", "run", "--set-aside", "0", *SMALL)
    with pytest.raises(DataError, match="was trained on it, and none of it was set aside"):
        vae("gallery", "run", str(data))
    assert checkpoint.load(Path("run")).gallery is None


def test_other_data_is_taken_whole_and_the_epochs_stay(vae: Invoke, run: Path) -> None:
    before = checkpoint.load(run)
    np.savez("others.npz", x=squares(50), labels=np.arange(50) % 4 - 1)
    assert "50 of 50 samples of others.npz:x" in vae("gallery", str(run), "others.npz")
    found = gallery(run)
    np.testing.assert_array_equal(found.inputs[:, 0], squares(50))
    assert found.labels is not None and found.labels.tolist() == [index % 4 - 1 for index in range(50)]
    assert found.label_names is None
    assert [epoch.epoch for epoch in found.learning] == [1, 2, 3]
    # Of a checkpoint that has left its run, only the gallery still knows them.
    shutil.move(run / "checkpoint", "alone")
    vae("gallery", "alone", "others.npz")
    assert gallery("alone").learning == found.learning
    after = checkpoint.load(Path("alone"))
    assert (after.card, after.digest) == (before.card, before.digest)


def test_a_model_without_a_training_gets_one_too_and_loses_it(vae: Invoke, loaded: Load) -> None:
    shutil.copytree(loaded(TABLE).folder, "model")
    np.save("rows.npy", reference(TABLE, 50))
    vae("gallery", "model", "rows.npy")
    found = gallery("model")
    assert (found.labels, found.learning, "typicality" in found.scores) == (None, (), False)
    assert "has no gallery" in vae("gallery", "model", "none")
    assert checkpoint.load(Path("model")).gallery is None


def test_one_that_cannot_be_read_is_replaced(vae: Invoke, shown: Load) -> None:
    shutil.copytree(shown(TABLE).folder, "model")
    files = {path.name: path.read_bytes() for path in Path("model").iterdir() if path.name != checkpoint.SUMS}
    files[checkpoint.GALLERY] = b"of another version"
    (Path("model") / checkpoint.GALLERY).write_bytes(files[checkpoint.GALLERY])
    (Path("model") / checkpoint.SUMS).write_bytes(checkpoint.checksums(files))
    np.save("rows.npy", reference(TABLE, 50))
    vae("gallery", "model", "rows.npy")
    assert (len(gallery("model")), gallery("model").learning) == (50, ())


def test_its_typicality_follows_the_calibration(vae: Invoke, shown: Load) -> None:
    shutil.copytree(shown(TABLE).folder, "model")
    np.save("rows.npy", reference(TABLE, 150, seed=3))
    before = gallery("model")
    vae("calibrate", "model", "rows.npy", "--samples", "2")
    np.testing.assert_array_equal(gallery("model").scores["typicality"], before.scores["typicality"])
    vae("calibrate", "model", "rows.npy")
    found = checkpoint.load(Path("model"))
    (part,) = batches.score(found.vae, [before.inputs], PROTOCOL, found.calibration)
    assert part.scores.calibrated.typicality is not None
    after = gallery("model").scores
    np.testing.assert_allclose(after["typicality"], part.scores.calibrated.typicality, rtol=1e-3, atol=1e-3)
    assert not np.allclose(after["typicality"], before.scores["typicality"])
    np.testing.assert_array_equal(after["free_energy"], before.scores["free_energy"])


@pytest.mark.parametrize("spoiled", ["epoch,free_energy\n1,2\n", "epoch\nx\n", "a,b\n1,2\n", "\xff"])
def test_records_that_are_none_are_refused_by_their_file(vae: Invoke, run: Path, data: Path, spoiled: str) -> None:
    (run / "metrics.csv").write_bytes(spoiled.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"metrics\.csv: cannot be read as the records of a run"):
        vae("gallery", str(run), str(data))
    (run / "metrics.csv").unlink()
    assert read_records(run / "checkpoint") == []
