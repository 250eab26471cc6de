"""Datasets of every file format, read whole and in batches, and lookup by name."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from model import datasets
from model.config import ImageData
from model.datasets import open_dataset
from model.errors import DataError
from tests.support.checkpoints import refusal
from tests.support.datasets import CLASSES, GREY, PICTURES, TABLE, WRITERS, idx, vector


@pytest.mark.parametrize("kind", WRITERS)
class TestEveryKind:
    def test_samples_equal_the_written_ones(self, kind: str, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        expected = TABLE if kind == "csv" else PICTURES[:, None]
        samples = dataset.load()
        if kind == "folder":
            expected = expected[np.argsort(CLASSES, kind="stable")]
        assert samples.dtype == expected.dtype
        assert np.array_equal(samples, expected)
        assert (len(dataset), dataset.shape) == (11, expected.shape[1:])
        assert str(tmp_path) in dataset.describe() and "11 samples" in dataset.describe()

    @pytest.mark.parametrize("rows", [1, 4, 11, 100])
    def test_batches_of_any_size_hold_the_same_samples_in_order(self, kind: str, rows: int, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        parts = list(dataset.batches(rows))
        assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
        assert np.array_equal(np.concatenate(parts), dataset.load())

    def test_can_be_read_twice(self, kind: str, tmp_path: Path) -> None:
        dataset = open_dataset(WRITERS[kind](tmp_path))
        next(dataset.batches(2))
        assert np.array_equal(dataset.load(), dataset.load())

    def test_a_label_for_each_sample_where_there_are_labels(self, kind: str, tmp_path: Path) -> None:
        labels = open_dataset(WRITERS[kind](tmp_path)).labels()
        expected = {"npy": None, "csv": None, "folder": np.sort(CLASSES)}.get(kind, CLASSES)
        assert (labels is None) if expected is None else np.array_equal(np.asarray(labels), expected)

    def test_the_names_of_classes_are_those_of_subfolders(self, kind: str, tmp_path: Path) -> None:
        names = open_dataset(WRITERS[kind](tmp_path)).label_names()
        assert names == (("class0", "class1", "class2", "class3") if kind == "folder" else None)

    def test_a_model_of_other_data_is_refused(self, kind: str, tmp_path: Path) -> None:
        source = WRITERS[kind](tmp_path)
        like = vector("a", "b") if kind != "csv" else GREY
        if kind == "folder":
            assert open_dataset(source, ImageData(height=7, width=8, channels=3)).shape == (3, 7, 8)
        with pytest.raises(DataError) as error:
            open_dataset(source, like)
        assert source in refusal(error) and like.describe() in refusal(error)


class TestFashionMnist:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("VAE_DATA", str(tmp_path))
        monkeypatch.setattr(datasets, "FASHION_MNIST", tmp_path / "not installed")
        return tmp_path

    @pytest.mark.parametrize("below", ["", "fashion-mnist"])
    def test_is_found_by_name(self, below: str, home: Path) -> None:
        folder = home / below
        folder.mkdir(exist_ok=True)
        for stem, count in (("train", 11), ("t10k", 3)):
            (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES[:count])))
            (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES[:count].astype(np.uint8))))
        assert np.array_equal(open_dataset("fashion-mnist").load()[:, 0], PICTURES)
        assert open_dataset("fashion-mnist").label_names() == datasets.GARMENTS
        test = open_dataset("fashion-mnist:test")
        assert (len(test), test.source) == (3, "fashion-mnist:test")
        assert np.array_equal(np.asarray(test.labels()), CLASSES[:3])

    def test_a_missing_dataset_is_refused_with_the_way_to_get_it(self, home: Path) -> None:
        with pytest.raises(DataError) as error:
            open_dataset("fashion-mnist")
        assert all(word in refusal(error) for word in ("apt-get install", "VAE_DATA", str(home), "not installed"))

    def test_there_are_two_parts(self, home: Path) -> None:
        with pytest.raises(DataError, match="fashion-mnist:test"):
            open_dataset("fashion-mnist:valid")


@pytest.mark.parametrize("name", ["x.txt", "x.parquet", "x"])
def test_unsupported_formats_are_refused_with_the_supported_ones(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"use \.csv, \.npy, \.npz, idx, or a folder"):
        open_dataset(str(tmp_path / name))


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_dataset(str(tmp_path / "x.npy"))
