"""Folders of images."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.datasets import open_dataset
from model.datasets.folders import ImageFolder
from model.errors import DataError
from tests.support.checkpoints import flipped, refusal
from tests.support.datasets import GREY, PICTURES, RNG, attempt, write_folder


class TestFolder:
    def test_images_are_converted_to_size_and_mode_of_the_first(self, tmp_path: Path) -> None:
        Image.fromarray(PICTURES[0]).save(tmp_path / "0.png")
        Image.new("RGB", (50, 40), "#ffffff").save(tmp_path / "1.JPG")
        Image.new("RGBA", (5, 5), (255, 255, 255, 0)).save(tmp_path / "2.webp", lossless=True)
        Image.new("P", (6, 5)).save(tmp_path / "3.gif")
        (tmp_path / "notes.txt").write_text("no picture")
        dataset = open_dataset(str(tmp_path))
        samples = dataset.load()
        assert samples.shape == (4, 1, 5, 6)
        assert np.array_equal(samples[0, 0], PICTURES[0])
        assert (samples[1] > 250).all() and (samples[2] == 0).all()
        assert dataset.name_of(1) == str(tmp_path / "1.JPG")
        assert dataset.labels() is None

    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("P", 3)])
    def test_the_mode_of_the_first_image_selects_grey_or_rgb(self, mode: str, channels: int, tmp_path: Path) -> None:
        Image.new(mode, (6, 5)).save(tmp_path / "x.png")
        assert ImageFolder(tmp_path).shape == (channels, 5, 6)

    def test_the_size_is_that_of_the_first_image_after_exif_orientation(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(PICTURES[0]).save(tmp_path / "lying.png", exif=exif)
        assert ImageFolder(tmp_path).shape == (1, 6, 5)

    @pytest.mark.parametrize("size", [(2000, 8), (8, 2000), (3, 3)])
    def test_an_unsupported_image_size_is_refused_with_the_file(self, size: tuple[int, int], tmp_path: Path) -> None:
        Image.new("L", size).save(tmp_path / "x.png")
        with pytest.raises(DataError, match=r"x\.png"):
            open_dataset(str(tmp_path))

    def test_an_image_of_too_many_pixels_is_refused_with_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Image.new("L", (100, 100)).save(tmp_path / "x.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(DataError, match=r"x\.png"):
            open_dataset(str(tmp_path), GREY).load()

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no images"):
            open_dataset(str(tmp_path))

    @pytest.mark.parametrize("keep", [0, 10, 500])
    def test_a_damaged_image_is_refused_with_its_path(self, keep: int, tmp_path: Path) -> None:
        write_folder(tmp_path)
        damaged = tmp_path / "class2" / "02.png"
        noise = Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8))
        noise.save(damaged)
        damaged.write_bytes(damaged.read_bytes()[:keep])
        with pytest.raises(DataError) as error:
            open_dataset(str(tmp_path)).load()
        assert str(damaged) in refusal(error)

    @pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif"])
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_altered_bytes_raise_only_data_errors(self, kind: str, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        path = tmp_path / f"x.{kind}"
        options: dict[str, Any] = {"exif": exif} if kind in {"png", "jpg", "tif"} else {}
        Image.fromarray(RNG.integers(0, 256, (9, 8), dtype=np.uint8)).save(path, **options)
        whole = path.read_bytes()
        for place in range(0, min(len(whole), 400), 2):
            for changed in (flipped(whole, place), whole[:place]):
                path.write_bytes(changed)
                assert attempt(tmp_path, path) in {None, str(path)}


def test_undecodable_bytes_of_a_class_name_are_replaced(tmp_path: Path) -> None:
    for name in (b"shoes", b"f\xfcr"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        Image.new("L", (8, 8)).save(folder / "a.png")
    names = open_dataset(str(tmp_path)).label_names()
    assert names == ("f\ufffdr", "shoes")
    assert json.dumps(names).encode()
