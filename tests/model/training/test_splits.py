"""Splits of a dataset, and the samples that may evaluate a model."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import Provenance
from model.errors import DataError
from model.training.config import TrainingConfig
from model.training.splits import Split, evaluation_subset, require_unseen
from tests.model.conftest import Memory, provenance, rows


class TestSplit:
    @pytest.mark.parametrize("count", [2, 7, 100, 333])
    def test_every_sample_is_on_one_side(self, count: int) -> None:
        data = Memory(np.arange(count * 3, dtype=np.float32).reshape(count, 3), labels=range(count))
        split = Split.from_dataset(data, None, None, seed=0)
        parts = np.concatenate([split.train, split.validation, split.calibration])
        assert np.array_equal(parts[np.argsort(parts[:, 0])], data.samples)
        assert len(split.validation) == max(1, count // 10)
        assert len(split.calibration) == (count // 10 if count >= 200 else 0)
        assert split.validation_labels is not None
        assert np.array_equal(split.validation_labels, split.validation[:, 0] / 3)

    def test_a_tenth_is_held_out_and_as_many_set_aside_but_no_more_than_5000(self) -> None:
        split = Split.from_dataset(Memory(np.zeros((60_000, 1), np.float32)), None, None, 0)
        assert (len(split.validation), len(split.calibration), len(split.train)) == (5000, 5000, 50_000)

    def test_the_seed_alone_decides(self) -> None:
        data = Memory(rows(50))
        digests = [Split.from_dataset(data, 9, 0, seed).sha256() for seed in (3, 3, 4)]
        assert digests[0] == digests[1] != digests[2]

    def test_the_digest_is_that_of_values_shape_and_type(self) -> None:
        values = np.arange(24, dtype=np.float32)
        parts = [
            values.reshape(8, 3),
            values.reshape(4, 6),
            values.reshape(8, 3).view(np.int32),
            np.where(values == 5, 0, values).reshape(8, 3),
        ]
        assert len({Split(part[:-1], part[-1:], None, part[:0]).sha256() for part in parts}) == 4

    @pytest.mark.parametrize(
        ("count", "held_out", "aside"), [(1, None, None), (10, 10, 0), (10, 11, 0), (10, 4, 6), (10, None, 9)]
    )
    def test_too_few_samples_are_refused(self, count: int, held_out: int | None, aside: int | None) -> None:
        with pytest.raises(DataError, match="--held-out or --set-aside"):
            Split.from_dataset(Memory(rows(count)), held_out, aside, 0)


class TestJudges:
    """Which samples may judge a model that was trained on some."""

    def trained(self, data: Memory, **settings: Any) -> Provenance:
        config, _ = TrainingConfig.resolve(
            data, network={}, likelihood={}, latent=None, settings={"epochs": 1, **settings}
        )
        return provenance(
            dataset_sha256=config.dataset_sha256,
            samples=config.samples,
            held_out=config.settings.held_out,
            settings=config.settings.model_dump(),
        )

    def test_of_the_data_of_the_training_what_was_set_aside(self) -> None:
        data = Memory(rows(300), labels=range(300))
        found, portion = evaluation_subset(data, self.trained(data, seed=4))
        assert portion == "set_aside"
        split = Split.from_dataset(data, None, None, 4)
        np.testing.assert_array_equal(found.load(), split.calibration)
        labels = found.labels()
        assert labels is not None and split.calibration_labels is not None
        np.testing.assert_array_equal(labels, split.calibration_labels)
        # They go by the names that they have in the whole.
        assert [found.name_of(i) for i in range(len(found))] == [str(label) for label in labels]
        assert [len(batch) for batch in found.batches(20)] == [20, 10]
        assert found.source == f"{data.source} (set aside)"
        assert require_unseen(data, self.trained(data)).shape == data.shape

    def test_what_was_held_out_where_nothing_was_set_aside(self) -> None:
        data = Memory(rows(50))
        training = self.trained(data, held_out=7)
        found, portion = evaluation_subset(data, training)
        assert (len(found), portion) == (7, "held_out")
        np.testing.assert_array_equal(found.load(), Split.from_dataset(data, 7, 0, 0).validation)
        with pytest.raises(DataError, match="none of it was set aside"):
            require_unseen(data, training)

    @pytest.mark.parametrize("change", ["a value", "a sample more", "no training"])
    def test_all_of_other_data(self, change: str) -> None:
        data = Memory(rows(300))
        training = None if change == "no training" else self.trained(data)
        other = data.samples.copy()
        if change == "a value":
            other[17, 0] += 1
        elif change == "a sample more":
            other = np.concatenate([other, other[:1]])
        given = Memory(other)
        assert evaluation_subset(given, training) == (given, None)
        assert require_unseen(given, training) is given
