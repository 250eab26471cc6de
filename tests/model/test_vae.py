"""VAE: shapes, units and precision of inputs and outputs."""

import math

import numpy as np
import pytest
import torch

from model.config import VectorData
from model.likelihoods import Gaussian
from model.scoring.batches import estimate
from model.vae import LOG_SCALE_BOUNDS, VAE, to_tensor
from tests.support.models import CONFIGS, TABLE, build

DISCRETE = {
    "grey-mlp-discretized": 256,
    "rgb-conv-discretized": 256,
    "rgb-conv-autoregressive": 256,
    "grey-mlp-bernoulli": 2,
    "grey-conv-flow": 256,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_distributions_have_the_shapes_of_latent_and_data(name: str) -> None:
    vae = build(name)
    q = vae.encode(torch.rand(3, *vae.config.data.shape))
    p = vae.decode(q.mean)
    assert q.mean.shape == q.scale.shape == (3, vae.config.latent)
    assert p.mean.shape == p.nlog_prob(p.mean).shape == (3, *vae.config.data.shape)
    assert vae.levels == DISCRETE.get(name)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_input_makes_a_variance_of_zero_or_infinity(name: str) -> None:
    vae = build(name)
    x = torch.stack([torch.full(vae.config.data.shape, value) for value in (-1e30, -1e6, 0.0, 1e6, 1e30)])
    scale = vae.encode(x).scale
    assert scale.min() >= math.exp(LOG_SCALE_BOUNDS[0]) * (1 - 1e-5)
    assert scale.max() <= math.exp(LOG_SCALE_BOUNDS[1]) * (1 + 1e-5)


@pytest.mark.parametrize("factor", [0.25, 8.0, 1024.0])
@pytest.mark.parametrize("shift", [0.0, -512.0])
def test_a_change_of_units_changes_the_density_by_the_log_of_the_scale(factor: float, shift: float) -> None:
    old = build("table-mlp-gaussian")
    data = VectorData(
        columns=TABLE.columns,
        mean=tuple(factor * m + shift for m in TABLE.mean),
        std=tuple(factor * s for s in TABLE.std),
    )
    new = VAE(old.config.model_copy(update={"data": data})).eval().requires_grad_(False)
    new.load_state_dict(old.state_dict())
    for vae in (old, new):
        vae.double()
        # Buffers came from float32: give both models the same numbers, so that only the units differ.
        for module in (vae.standardize, vae.head):
            module.shift = torch.tensor(vae.config.data.mean, dtype=torch.float64)  # type: ignore[union-attr]
            module.unit = torch.tensor(vae.config.data.std, dtype=torch.float64)  # type: ignore[union-attr]
    draw = torch.Generator().manual_seed(0)
    x = torch.tensor(TABLE.mean) + torch.tensor(TABLE.std) * torch.randn(6, 3, generator=draw, dtype=torch.float64)
    z = torch.randn(6, 2, generator=draw, dtype=torch.float64)
    moved = factor * x + shift
    assert torch.allclose(new.decode(z).mean, factor * old.decode(z).mean + shift, rtol=1e-12)
    change = new.decode(z).nlog_prob(moved) - old.decode(z).nlog_prob(x)
    assert torch.allclose(change, torch.full_like(change, math.log(factor)), rtol=0, atol=1e-9)
    assert torch.allclose(new.encode(moved).mean, old.encode(x).mean, rtol=1e-9)
    noise = torch.randn(4, 2, generator=draw, dtype=torch.float64)
    scores = [estimate(vae, rows, vae.encode(rows), noise).free_energy for vae, rows in ((new, moved), (old, x))]
    assert np.allclose(scores[0] - scores[1], 3 * math.log(factor), rtol=0, atol=1e-8)


def test_decoded_means_are_in_the_units_of_the_data() -> None:
    mean = build("table-mlp-gaussian").decode(torch.zeros(1, 2)).mean[0]
    assert ((mean - torch.tensor(TABLE.mean)).abs() < 3 * torch.tensor(TABLE.std)).all()


def test_bytes_are_scaled_to_fractions_and_floats_are_unchanged() -> None:
    assert to_tensor(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_tensor(np.array([0, 51, 255], np.float64)).tolist() == [0, 51, 255]
    assert to_tensor(np.array([1.5])).dtype == torch.float32


def test_read_only_samples_are_copied() -> None:
    samples = np.arange(4, dtype=np.float32)
    samples.flags.writeable = False
    to_tensor(samples).add_(1)
    assert samples.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", CONFIGS)
def test_distributions_are_float32_with_low_precision_networks(name: str) -> None:
    vae = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = vae.encode(torch.rand(2, *vae.config.data.shape))
        assert q.mean.dtype == torch.float32
        assert vae.decode(q.mean).mean.dtype == torch.float32


def test_a_fixed_seed_builds_the_same_model() -> None:
    name = "rgb-conv-discretized"
    first, second, other = build(name), build(name), build(name, seed=1)
    for key, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[key])
        assert not torch.equal(weight, other.state_dict()[key])
    assert isinstance(first.encode(torch.zeros(1, 3, 9, 10)), Gaussian)
