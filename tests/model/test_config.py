"""Model configurations: JSON, validation and error messages."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from model.config import ConvNetwork, ImageData, ModelConfig, VectorData
from model.errors import ConfigError
from tests.support.models import CONFIGS

IMAGE: dict[str, Any] = {"kind": "image", "height": 8, "width": 8}
VECTOR: dict[str, Any] = {"kind": "vector", "columns": ["a", "b"], "mean": [0, 1], "std": [1, 2]}
PLAIN: dict[str, Any] = {"data": IMAGE, "network": {"name": "mlp"}, "latent": 4, "likelihood": {"name": "gaussian"}}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_holds_all_of_a_config(name: str) -> None:
    config = CONFIGS[name]
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    assert ModelConfig.build(**config.model_dump()) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(ModelConfig.build(**PLAIN), "latent", 5)  # noqa: B010 - mypy knows that it is read-only


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latnet": 4}, ["latnet", "4"]),
        ({"latent": 0}, ["latent", "0"]),
        ({"format": 3}, ["format", "3"]),
        ({"data": IMAGE | {"height": 2}}, ["height", "2"]),
        ({"data": IMAGE | {"width": 4096}}, ["width", "4096"]),
        ({"data": IMAGE | {"channels": 2}}, ["channels", "2"]),
        ({"data": IMAGE | {"kind": "sound"}}, ["data", "sound"]),
        ({"data": VECTOR | {"std": [1, 0]}}, ["std.1", "0"]),
        ({"data": VECTOR | {"mean": [0, float("nan")]}}, ["mean.1", "nan"]),
        ({"data": VECTOR | {"mean": [0]}}, ["columns, mean and std"]),
        ({"data": VECTOR | {"columns": [], "mean": [], "std": []}}, ["columns"]),
        ({"network": {"name": "mlp", "hidden": [8, 0]}}, ["hidden.1", "0"]),
        ({"network": {"name": "mlp", "widths": [8]}}, ["widths"]),
        ({"network": {"name": "conv", "channels": [4, 8], "blocks": [1]}}, ["channels and blocks"]),
        ({"network": {"name": "conv"}, "data": VECTOR}, ["conv", "use 'mlp'"]),
        ({"likelihood": {"name": "discretized"}, "data": VECTOR}, ["discretized", "use 'gaussian'"]),
        ({"likelihood": {"name": "discretized", "uniform": 0}}, ["uniform", "0"]),
        ({"likelihood": {"name": "gaussian", "min_scale": -1}}, ["min_scale", "-1"]),
        ({"likelihood": {}}, ["likelihood"]),
    ],
)
def test_a_refusal_names_the_key_and_the_value(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.build(**PLAIN | change)
    assert all(word in str(error.value) for word in words)


def test_a_refusal_names_every_key_at_fault_and_stays_short() -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.build(**PLAIN | {"latent": -1, "likelihood": {"name": "gaussian", "scale": "x" * 10_000}})
    assert "latent" in str(error.value) and "scale" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("data", "inside", "outside", "words"),
    [
        (ImageData(height=5, width=6), (1, 5, 6), (5, 6), "5x6 grey images"),
        (ImageData(height=5, width=6, channels=3), (3, 5, 6), (5, 6, 3), "5x6 RGB images"),
        (VectorData(columns=("a", "b"), mean=(0, 0), std=(1, 1)), (2,), (2,), "vectors of 2 columns"),
    ],
)
def test_shapes_inside_and_outside_hold_the_same_numbers(
    data: ImageData | VectorData, inside: tuple[int, ...], outside: tuple[int, ...], words: str
) -> None:
    assert (data.shape, data.public_shape, data.describe()) == (inside, outside, words)
    assert data.dims == VectorData(columns=("x",) * data.dims, mean=(0,) * data.dims, std=(1,) * data.dims).dims


def test_stages_and_blocks_go_in_pairs() -> None:
    assert ConvNetwork(channels=(4, 8, 16), blocks=(0, 1, 2)).blocks == (0, 1, 2)


@pytest.mark.parametrize("name", ["grey-mlp-discretized", "rgb-conv-discretized", "table-mlp-gaussian"])
def test_clients_order_axes_with_channels_last(name: str) -> None:
    data = CONFIGS[name].data
    x = np.arange(2 * data.dims, dtype=np.float32).reshape(2, *data.shape)
    public = data.to_public(x)
    assert public.shape == (2, *data.public_shape)
    np.testing.assert_array_equal(data.to_model(public), x)
    if name.startswith("rgb"):
        np.testing.assert_array_equal(public[0, 4, 5], x[0, :, 4, 5])
