"""Training configurations: defaults for each kind of data, overrides, and refused overrides."""

from typing import Any

import numpy as np
import pytest

from model.config import ImageData, VectorData
from model.errors import ConfigError, DataError
from model.training.config import (
    DEFAULT_STEPS,
    TrainingConfig,
    default_batch_size,
    default_data,
    default_epochs,
    default_latent,
    default_network,
)
from model.training.splits import Split
from tests.support.checkpoints import refusal
from tests.support.data import Memory, rows, stripes


def resolve(dataset: Memory, **overrides: Any) -> tuple[TrainingConfig, Split]:
    given: dict[str, Any] = {"network": {}, "likelihood": {}, "latent": None, "settings": {}}
    return TrainingConfig.resolve(dataset, **given | overrides)


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
        config = resolve(dataset)[0].config
        assert (config.network.name, config.likelihood.name) == (network, likelihood)
        assert config.data.shape == dataset.shape

    def test_pixels_share_a_scale_and_columns_have_their_own(self) -> None:
        scales = [
            resolve(dataset)[0].config.likelihood.model_dump()["scale"] for dataset in (floats(20), Memory(rows(20)))
        ]
        assert scales == ["shared", "per_dimension"]

    @pytest.mark.parametrize("side", [16, 28, 32, 64, 128, 1024])
    def test_stages_halve_images_to_a_few_pixels(self, side: int) -> None:
        network = default_network(ImageData(height=side, width=side), 100).model_dump()
        assert len(network["channels"]) == len(network["blocks"])
        assert 4 <= side / 2 ** len(network["channels"]) <= 12

    @pytest.mark.parametrize(("samples", "expected"), [(999, [2, 2, 2, 10, 32]), (1000, [2, 2, 5, 32, 32])])
    def test_latents_are_smaller_than_the_data(self, samples: int, expected: list[int]) -> None:
        def latent(columns: int) -> int:
            return default_latent(
                VectorData(columns=("x",) * columns, mean=(0,) * columns, std=(1,) * columns), samples
            )

        assert [latent(n) for n in (1, 4, 10, 64, 1000)] == expected
        assert default_latent(ImageData(height=28, width=28), 100) == 64

    def test_few_rows_get_a_linear_model(self) -> None:
        data = default_data(Memory(rows(20)), rows(20))
        hidden = [default_network(data, count).model_dump()["hidden"] for count in (20, 999, 1000, 100_000)]
        assert hidden == [(), (), (64, 64), (64, 64)]

    @pytest.mark.parametrize("samples", [160, 700, 5000, 10_000, 30_000])
    def test_batches_and_epochs_make_about_the_same_number_of_steps(self, samples: int) -> None:
        size = default_batch_size(samples)
        steps = default_epochs(samples, size) * -(-samples // size)
        assert abs(steps - DEFAULT_STEPS) < 0.05 * DEFAULT_STEPS

    def test_batches_and_epochs_stay_within_bounds(self) -> None:
        assert (default_batch_size(10), default_epochs(10, 16)) == (16, 1000)
        assert (default_batch_size(10_000_000), default_epochs(10_000_000, 128)) == (128, 20)
        assert default_epochs(10_000, 1000) > default_epochs(10_000, 128)


class TestStandardization:
    def test_uses_the_training_samples_only(self) -> None:
        config, split = resolve(Memory(rows(60)), settings={"held_out": 20})
        data = config.config.data
        assert isinstance(data, VectorData)
        assert np.allclose(data.mean, split.train.mean(0, dtype=np.float64), rtol=1e-9)
        assert np.allclose(data.std, split.train.std(0, dtype=np.float64), rtol=1e-9)
        assert not np.allclose(
            data.mean, np.concatenate([split.train, split.validation]).mean(0, dtype=np.float64), rtol=1e-5
        )

    @pytest.mark.parametrize("value", [0.0, 1e-20, 3.3, -1e30])
    def test_a_constant_column_keeps_its_units(self, value: float) -> None:
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


class TestOverrides:
    def test_an_override_keeps_the_other_defaults(self) -> None:
        config = resolve(Memory(stripes(20)), likelihood={"components": 5}, network={"hidden": (9,)}, latent=3)[
            0
        ].config
        assert config.likelihood.model_dump() == {
            "name": "discretized",
            "components": 5,
            "min_scale": 0.1,
            "uniform": 2.0**-12,
            "autoregressive": True,
        }
        assert (config.network.model_dump()["hidden"], config.latent) == ((9,), 3)

    def test_another_name_uses_its_own_defaults(self) -> None:
        config = resolve(Memory(stripes(20)), likelihood={"name": "gaussian"}, network={"name": "conv"})[0].config
        assert (config.likelihood.name, config.network.name) == ("gaussian", "conv")

    def test_settings_include_the_size_of_the_validation_split(self) -> None:
        config, split = resolve(Memory(rows(40)), settings={"epochs": 3, "seed": 9, "learning_rate": 0.1})
        assert (config.settings.epochs, config.settings.seed, config.settings.learning_rate) == (3, 9, 0.1)
        assert config.settings.held_out == len(split.validation) == 4
        assert config.samples == 40
        assert config.dataset_sha256 == split.sha256()

    def test_a_configuration_depends_only_on_data_and_overrides(self) -> None:
        first, same, other = (resolve(Memory(rows(40, seed)))[0] for seed in (0, 0, 1))
        assert first == same != other
        assert TrainingConfig.model_validate_json(first.model_dump_json()) == first

    @pytest.mark.parametrize(
        ("overrides", "key"),
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
            ({"settings": {"flip": True}}, "flip, shift: these are for images"),
            ({"settings": {"shift": 2}}, "flip, shift: these are for images"),
            ({"settings": {"lerning_rate": 0.1}}, "lerning_rate"),
        ],
    )
    def test_an_invalid_override_is_refused_by_its_key(self, overrides: dict[str, Any], key: str) -> None:
        with pytest.raises(ConfigError) as error:
            resolve(Memory(rows(40)), **overrides)
        assert key in refusal(error)

    def test_bernoulli_columns_must_be_bits(self) -> None:
        bits = (rows(40) > 30).astype(np.float32)
        assert resolve(Memory(bits), likelihood={"name": "bernoulli"})[0].config.likelihood.name == "bernoulli"
        bits[17, 1] = 0.5
        with pytest.raises(DataError, match="0 and 1 only; use 'gaussian'"):
            resolve(Memory(bits), likelihood={"name": "bernoulli"})

    def test_images_are_rounded_to_bits(self) -> None:
        assert resolve(Memory(stripes(20)), likelihood={"name": "bernoulli"})[0].config.likelihood.name == "bernoulli"


@pytest.mark.parametrize(
    ("data", "likelihood", "expected"),
    [
        (rows(40), {}, 0),
        (stripes(20), {}, 0.3),
        (stripes(20), {"autoregressive": False}, 0),
        (stripes(20), {"name": "gaussian"}, 0),
    ],
)
def test_autoregressive_likelihoods_have_an_auxiliary_loss(
    data: Any, likelihood: dict[str, Any], expected: float
) -> None:
    assert resolve(Memory(data), likelihood=likelihood)[0].settings.auxiliary == expected


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 2000, 8)])
def test_images_of_an_unsupported_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="memory: height"):
        resolve(Memory(np.zeros((4, *shape), np.uint8)))


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(DataError, match="memory: columns"):
        resolve(Memory(np.zeros((3, 70_000), np.float32)))


def test_images_of_bytes_zero_and_one_are_refused_as_bits() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (40, 1, 8, 8), np.uint8)
    overrides: dict[str, Any] = {"network": {}, "likelihood": {"name": "bernoulli"}, "latent": 2, "settings": {}}
    with pytest.raises(DataError, match="multiply these by 255"):
        TrainingConfig.resolve(Memory(bits), **overrides)
    assert TrainingConfig.resolve(Memory(bits * 255), **overrides)[0].config.likelihood.name == "bernoulli"
