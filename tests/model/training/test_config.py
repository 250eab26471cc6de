"""What is chosen when nothing is wished for, what a wish changes, and which wishes are refused."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import Provenance
from model.config import ImageData, VectorData
from model.errors import ConfigError, DataError
from model.training.config import (
    STEPS,
    Recipe,
    Split,
    default_batch_size,
    default_data,
    default_epochs,
    default_latent,
    default_network,
    judges,
    unseen,
)
from tests.support.checkpoints import provenance, refusal
from tests.support.data import Memory, rows, stripes


def plan(dataset: Memory, **wishes: Any) -> tuple[Recipe, Split]:
    given: dict[str, Any] = {"network": {}, "likelihood": {}, "latent": None, "settings": {}}
    return Recipe.plan(dataset, **given | wishes)


def floats(count: int) -> Memory:
    return Memory(stripes(count).astype(np.float32) / 255)


class TestDefaults:
    @pytest.mark.parametrize(
        ("dataset", "network", "likelihood"),
        [
            (Memory(stripes(20)), "mlp", "discretized"),
            (Memory(stripes(20, (1, 16, 17))), "conv", "discretized"),
            (Memory(stripes(20, (3, 28, 28))), "conv", "discretized"),
            (Memory(stripes(20, (1, 15, 28))), "mlp", "discretized"),
            (floats(20), "mlp", "gaussian"),
            (Memory(rows(20)), "mlp", "gaussian"),
        ],
    )
    def test_follow_the_data(self, dataset: Memory, network: str, likelihood: str) -> None:
        config = plan(dataset)[0].config
        assert (config.network.name, config.likelihood.name) == (network, likelihood)
        assert config.data.shape == dataset.shape

    def test_pixels_share_a_scale_and_columns_have_their_own(self) -> None:
        scales = [
            plan(dataset)[0].config.likelihood.model_dump()["scale"] for dataset in (floats(20), Memory(rows(20)))
        ]
        assert scales == ["shared", "per_dimension"]

    @pytest.mark.parametrize("side", [16, 28, 32, 64, 128, 1024])
    def test_stages_halve_pictures_to_a_few_pixels(self, side: int) -> None:
        network = default_network(ImageData(height=side, width=side), 100).model_dump()
        assert len(network["channels"]) == len(network["blocks"])
        assert 4 <= side / 2 ** len(network["channels"]) <= 12

    @pytest.mark.parametrize(("samples", "expected"), [(999, [2, 2, 2, 10, 32]), (1000, [2, 2, 5, 32, 32])])
    def test_latents_are_smaller_than_the_data(self, samples: int, expected: list[int]) -> None:
        def of(columns: int) -> int:
            return default_latent(
                VectorData(columns=("x",) * columns, mean=(0,) * columns, std=(1,) * columns), samples
            )

        assert [of(n) for n in (1, 4, 10, 64, 1000)] == expected
        assert default_latent(ImageData(height=28, width=28), 100) == 64

    def test_few_rows_get_a_linear_model(self) -> None:
        data = default_data(Memory(rows(20)), rows(20))
        hidden = [default_network(data, count).model_dump()["hidden"] for count in (20, 999, 1000, 100_000)]
        assert hidden == [(), (), (64, 64), (64, 64)]

    @pytest.mark.parametrize("samples", [160, 700, 5000, 10_000, 30_000])
    def test_batches_and_epochs_make_about_the_same_number_of_steps(self, samples: int) -> None:
        size = default_batch_size(samples)
        steps = default_epochs(samples, size) * -(-samples // size)
        assert abs(steps - STEPS) < 0.05 * STEPS

    def test_batches_and_epochs_stay_within_bounds(self) -> None:
        assert (default_batch_size(10), default_epochs(10, 16)) == (16, 1000)
        assert (default_batch_size(10_000_000), default_epochs(10_000_000, 128)) == (128, 20)
        assert default_epochs(10_000, 1000) > default_epochs(10_000, 128)


class TestSplit:
    @pytest.mark.parametrize("count", [2, 7, 100, 333])
    def test_every_sample_is_on_one_side(self, count: int) -> None:
        data = Memory(np.arange(count * 3, dtype=np.float32).reshape(count, 3), labels=range(count))
        split = Split.of(data, None, None, seed=0)
        parts = np.concatenate([split.fit, split.held_out, split.set_aside])
        assert np.array_equal(parts[np.argsort(parts[:, 0])], data.samples)
        assert len(split.held_out) == max(1, count // 10)
        assert len(split.set_aside) == (count // 10 if count >= 200 else 0)
        assert split.held_out_labels is not None
        assert np.array_equal(split.held_out_labels, split.held_out[:, 0] / 3)

    def test_a_tenth_is_held_out_and_as_many_set_aside_but_no_more_than_5000(self) -> None:
        split = Split.of(Memory(np.zeros((60_000, 1), np.float32)), None, None, 0)
        assert (len(split.held_out), len(split.set_aside), len(split.fit)) == (5000, 5000, 50_000)

    def test_the_seed_alone_decides(self) -> None:
        data = Memory(rows(50))
        digests = [Split.of(data, 9, 0, seed).sha256() for seed in (3, 3, 4)]
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
            Split.of(Memory(rows(count)), held_out, aside, 0)


class TestJudges:
    """Which samples may judge a model that was trained on some."""

    def trained(self, data: Memory, **settings: Any) -> Provenance:
        recipe, _ = plan(data, settings={"epochs": 1, **settings})
        return provenance(
            dataset_sha256=recipe.dataset_sha256,
            samples=recipe.samples,
            held_out=recipe.settings.held_out,
            settings=recipe.settings.model_dump(),
        )

    def test_of_the_data_of_the_training_what_was_set_aside(self) -> None:
        data = Memory(rows(300), labels=range(300))
        found, portion = judges(data, self.trained(data, seed=4))
        assert portion == "set_aside"
        split = Split.of(data, None, None, 4)
        np.testing.assert_array_equal(found.load(), split.set_aside)
        labels = found.labels()
        assert labels is not None and split.set_aside_labels is not None
        np.testing.assert_array_equal(labels, split.set_aside_labels)
        # They go by the names that they have in the whole.
        assert [found.name_of(i) for i in range(len(found))] == [str(label) for label in labels]
        assert [len(batch) for batch in found.batches(20)] == [20, 10]
        assert found.source == f"{data.source} (set aside)"
        assert unseen(data, self.trained(data)).shape == data.shape

    def test_what_was_held_out_where_nothing_was_set_aside(self) -> None:
        data = Memory(rows(50))
        training = self.trained(data, held_out=7)
        found, portion = judges(data, training)
        assert (len(found), portion) == (7, "held_out")
        np.testing.assert_array_equal(found.load(), Split.of(data, 7, 0, 0).held_out)
        with pytest.raises(DataError, match="none of it was set aside"):
            unseen(data, training)

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
        assert judges(given, training) == (given, None)
        assert unseen(given, training) is given


class TestStandardization:
    def test_is_measured_on_the_fit_part_alone(self) -> None:
        recipe, split = plan(Memory(rows(60)), settings={"held_out": 20})
        data = recipe.config.data
        assert isinstance(data, VectorData)
        assert np.allclose(data.mean, split.fit.mean(0, dtype=np.float64), rtol=1e-9)
        assert np.allclose(data.std, split.fit.std(0, dtype=np.float64), rtol=1e-9)
        assert not np.allclose(
            data.mean, np.concatenate([split.fit, split.held_out]).mean(0, dtype=np.float64), rtol=1e-5
        )

    @pytest.mark.parametrize("value", [0.0, 1e-20, 3.3, -1e30])
    def test_a_constant_column_is_left_in_its_units(self, value: float) -> None:
        samples = np.hstack([rows(200), np.full((200, 1), value, np.float32)])
        data = default_data(Memory(samples), samples)
        assert isinstance(data, VectorData)
        assert data.std[3] == 1
        assert data.mean[3] == pytest.approx(value)

    @pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e12])
    def test_the_unit_of_a_column_does_not_decide_whether_it_varies(self, unit: float) -> None:
        samples = rows(200) * np.float32(unit)
        data = default_data(Memory(samples), samples)
        assert isinstance(data, VectorData)
        assert np.allclose(data.std, samples.std(0, dtype=np.float64), rtol=1e-6)


class TestWishes:
    def test_complete_the_default_of_their_kind(self) -> None:
        config = plan(Memory(stripes(20)), likelihood={"components": 5}, network={"hidden": (9,)}, latent=3)[0].config
        assert config.likelihood.model_dump() == {
            "name": "discretized",
            "components": 5,
            "min_scale": 0.1,
            "uniform": 2.0**-12,
            "autoregressive": True,
        }
        assert (config.network.model_dump()["hidden"], config.latent) == ((9,), 3)

    def test_another_kind_starts_from_its_own_defaults(self) -> None:
        config = plan(Memory(stripes(20)), likelihood={"name": "gaussian"}, network={"name": "conv"})[0].config
        assert (config.likelihood.name, config.network.name) == ("gaussian", "conv")

    def test_settings_are_kept_and_the_number_held_out_is_written_down(self) -> None:
        recipe, split = plan(Memory(rows(40)), settings={"epochs": 3, "seed": 9, "learning_rate": 0.1})
        assert (recipe.settings.epochs, recipe.settings.seed, recipe.settings.learning_rate) == (3, 9, 0.1)
        assert recipe.settings.held_out == len(split.held_out) == 4
        assert recipe.samples == 40
        assert recipe.dataset_sha256 == split.sha256()

    def test_a_recipe_is_a_function_of_data_and_wishes(self) -> None:
        first, same, other = (plan(Memory(rows(40, seed)))[0] for seed in (0, 0, 1))
        assert first == same != other
        assert Recipe.model_validate_json(first.model_dump_json()) == first

    @pytest.mark.parametrize(
        ("wishes", "key"),
        [
            ({"network": {"name": "conv"}}, "conv"),
            ({"network": {"channels": (8, 8)}}, "channels"),
            ({"network": {"hidden": (0,)}}, "hidden"),
            ({"likelihood": {"name": "discretized"}}, "discretized"),
            ({"likelihood": {"components": 2}}, "components"),
            ({"likelihood": {"min_scale": -1.0}}, "min_scale"),
            ({"likelihood": {"name": "poisson"}}, "poisson"),
            ({"latent": -2}, "latent"),
            ({"latent": 0}, "latent"),
            ({"settings": {"epochs": 0}}, "epochs"),
            ({"settings": {"learning_rate": 2.0}}, "learning_rate"),
            ({"settings": {"batch_size": 0}}, "batch_size"),
            ({"settings": {"batch_size": -1}}, "batch_size"),
            ({"settings": {"held_out": 0}}, "held_out"),
            ({"settings": {"held_out": -3}}, "held_out"),
            ({"settings": {"seed": -1}}, "seed"),
            ({"settings": {"auxiliary": 0.5}}, "auxiliary"),
            ({"settings": {"lerning_rate": 0.1}}, "lerning_rate"),
        ],
    )
    def test_one_that_does_not_fit_is_refused_by_its_key(self, wishes: dict[str, Any], key: str) -> None:
        with pytest.raises(ConfigError) as error:
            plan(Memory(rows(40)), **wishes)
        assert key in refusal(error)

    def test_bits_are_required_of_columns(self) -> None:
        bits = (rows(40) > 30).astype(np.float32)
        assert plan(Memory(bits), likelihood={"name": "bernoulli"})[0].config.likelihood.name == "bernoulli"
        bits[17, 1] = 0.5
        with pytest.raises(DataError, match="0 and 1 only; use 'gaussian'"):
            plan(Memory(bits), likelihood={"name": "bernoulli"})

    def test_pictures_are_rounded_to_bits(self) -> None:
        assert plan(Memory(stripes(20)), likelihood={"name": "bernoulli"})[0].config.likelihood.name == "bernoulli"


@pytest.mark.parametrize(
    ("data", "likelihood", "expected"),
    [
        (rows(40), {}, 0),
        (stripes(20), {}, 0.3),
        (stripes(20), {"autoregressive": False}, 0),
        (stripes(20), {"name": "gaussian"}, 0),
    ],
)
def test_the_auxiliary_loss_is_there_where_bytes_lean_on_their_neighbours(
    data: Any, likelihood: dict[str, Any], expected: float
) -> None:
    assert plan(Memory(data), likelihood=likelihood)[0].settings.auxiliary == expected


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 2000, 8)])
def test_pictures_of_a_size_that_no_model_takes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="memory: height"):
        plan(Memory(np.zeros((4, *shape), np.uint8)))


def test_more_columns_than_a_model_takes_are_refused() -> None:
    with pytest.raises(DataError, match="memory: columns"):
        plan(Memory(np.zeros((3, 70_000), np.float32)))


def test_bytes_of_zero_and_one_are_not_taken_for_black() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (40, 1, 8, 8), np.uint8)
    wishes: dict[str, Any] = {"network": {}, "likelihood": {"name": "bernoulli"}, "latent": 2, "settings": {}}
    with pytest.raises(DataError, match="multiply these by 255"):
        Recipe.plan(Memory(bits), **wishes)
    assert Recipe.plan(Memory(bits * 255), **wishes)[0].config.likelihood.name == "bernoulli"
