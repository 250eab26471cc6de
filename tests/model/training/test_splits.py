"""Splits of a dataset, and the samples that may evaluate a model."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import Provenance
from model.errors import DataError
from model.training.config import TrainingConfig
from model.training.splits import Split, evaluation_subset, require_unseen
from tests.support.checkpoints import provenance
from tests.support.data import Memory, rows


class TestSplit:
    @pytest.mark.parametrize("count", [2, 7, 100, 333])
    def test_every_sample_is_in_exactly_one_part(self, count: int) -> None:
        data = Memory(np.arange(count * 3, dtype=np.float32).reshape(count, 3), labels=range(count))
        split = Split.from_dataset(data, None, None, seed=0)
        parts = np.concatenate([split.train, split.validation, split.calibration])
        assert np.array_equal(parts[np.argsort(parts[:, 0])], data.samples)
        assert len(split.validation) == max(1, count // 10)
        assert len(split.calibration) == (count // 10 if count >= 200 else 0)
        assert split.validation_labels is not None
        assert np.array_equal(split.validation_labels, split.validation[:, 0] / 3)

    def test_validation_and_calibration_get_a_tenth_each_and_at_most_5000(self) -> None:
        split = Split.from_dataset(Memory(np.zeros((60_000, 1), np.float32)), None, None, 0)
        assert (len(split.validation), len(split.calibration), len(split.train)) == (5000, 5000, 50_000)

    def test_the_seed_alone_decides(self) -> None:
        data = Memory(rows(50))
        digests = [Split.from_dataset(data, 9, 0, seed).sha256() for seed in (3, 3, 4)]
        assert digests[0] == digests[1] != digests[2]

    def test_the_digest_depends_on_values_shape_and_type(self) -> None:
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


class TestEvaluationSubset:
    """The samples that may evaluate a trained model."""

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

    def test_training_data_gives_its_calibration_split(self) -> None:
        data = Memory(rows(300), labels=range(300))
        subset, name = evaluation_subset(data, self.trained(data, seed=4))
        assert name == "set_aside"
        split = Split.from_dataset(data, None, None, 4)
        np.testing.assert_array_equal(subset.load(), split.calibration)
        labels = subset.labels()
        assert labels is not None and split.calibration_labels is not None
        np.testing.assert_array_equal(labels, split.calibration_labels)
        # Samples keep their names in the whole dataset.
        assert [subset.name_of(i) for i in range(len(subset))] == [str(label) for label in labels]
        assert [len(batch) for batch in subset.batches(20)] == [20, 10]
        assert subset.source == f"{data.source} (set aside)"
        assert require_unseen(data, self.trained(data)).shape == data.shape

    def test_training_data_without_calibration_gives_its_validation_split(self) -> None:
        data = Memory(rows(50))
        training = self.trained(data, held_out=7)
        subset, name = evaluation_subset(data, training)
        assert (len(subset), name) == (7, "held_out")
        np.testing.assert_array_equal(subset.load(), Split.from_dataset(data, 7, 0, 0).validation)
        with pytest.raises(DataError, match="none of it was set aside"):
            require_unseen(data, training)

    @pytest.mark.parametrize("change", ["a value", "a sample more", "no training"])
    def test_other_data_is_used_completely(self, change: str) -> None:
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
