"""The report agrees with what can be computed directly, and with compressing by hand."""

import gzip
import io
import json
import lzma
import math

import numpy as np
import pytest
import torch
from PIL import Image

from model import noise
from model.errors import DataError
from model.evaluation import PERCENTILES, Report, codecs, evaluate, score
from model.free_energy import FreeEnergy, estimate
from model.vae import VAE, to_tensor
from tests.conftest import CONFIGS, build
from tests.model.conftest import Array, Memory, rows, stripes

COUNT = 37


def data_of(name: str) -> Memory:
    data = CONFIGS[name].data
    return Memory(rows(COUNT) if data.kind == "vector" else stripes(COUNT, data.shape))


def directly(vae: VAE, samples: Array, draws: int, seed: int = 0) -> FreeEnergy:
    x = to_tensor(samples)
    return estimate(vae, x, vae.encode(x), torch.from_numpy(noise.normal(seed, (draws, vae.config.latent))))


@pytest.mark.parametrize("name", CONFIGS)
class TestReport:
    def test_means_are_those_of_direct_estimates(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        report, scores = evaluate(vae, data, draws=5, seed=3), directly(vae, data.samples, 5, seed=3)
        for key in ("free_energy", "distortion", "rate", "nlog_p_x"):
            assert getattr(report, key) == pytest.approx(getattr(scores, key).mean(), rel=1e-6), key
        error = scores.free_energy.std(ddof=1) / math.sqrt(COUNT)
        assert report.free_energy_standard_error == pytest.approx(error, rel=1e-4)
        assert (report.samples, report.draws, report.seed, report.dataset) == (COUNT, 5, 3, "memory")

    def test_percentiles_rise_to_the_largest(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        found = evaluate(vae, data, draws=2).free_energy_percentiles
        assert list(found) == [f"{p:g}" for p in PERCENTILES]
        assert list(found.values()) == sorted(found.values())
        assert found["100"] == pytest.approx(directly(vae, data.samples, 2).free_energy.max(), rel=1e-6)

    def test_bits_are_nats_over_dimensions_where_there_are_bits(self, name: str) -> None:
        vae = build(name)
        report = evaluate(vae, data_of(name), draws=2)
        bits = (report.bits_per_dim, report.bits_per_dim_standard_error, report.nlog_p_x_bits_per_dim)
        if vae.levels is None:
            assert bits == (None, None, None)
        else:
            nats = (report.free_energy, report.free_energy_standard_error or math.nan, report.nlog_p_x)
            assert bits == pytest.approx([value / vae.config.data.dims / math.log(2) for value in nats])

    def test_rates_of_dimensions_add_up_to_the_analytic_rate(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        rates = evaluate(vae, data, draws=1).rate_per_dimension
        assert rates == sorted(rates, reverse=True)
        assert len(rates) == vae.config.latent
        assert sum(rates) == pytest.approx(directly(vae, data.samples, 1).rate_analytic.mean(), rel=1e-5)

    def test_json_holds_a_report(self, name: str) -> None:
        report = evaluate(build(name), data_of(name), draws=1)
        assert Report(**json.loads(json.dumps(report.plain(), allow_nan=False))) == report

    def test_codecs_are_compared_only_with_code_lengths_of_bytes(self, name: str) -> None:
        vae = build(name)
        assert set(evaluate(vae, data_of(name), draws=1).codecs_bits_per_dim) == (
            {"png", "gzip", "xz"} if vae.levels == 256 else set()
        )


def test_batches_change_nothing_and_are_told() -> None:
    vae, data = build("grey-conv-gaussian"), data_of("grey-conv-gaussian")
    whole = next(iter(score(vae, data, draws=3, seed=0)))
    parts = list(score(vae, data, draws=3, seed=0, rows=10))
    assert [part.first for part in parts] == [0, 10, 20, 30]
    assert np.allclose(np.concatenate([part.scores.free_energy for part in parts]), whole.scores.free_energy, rtol=1e-5)
    assert np.allclose(np.concatenate([part.mean for part in parts]), whole.mean, atol=1e-6)
    done: list[int] = []
    evaluate(vae, Memory(stripes(300)), draws=1, on_batch=done.append)
    assert done == [256, 300]


def test_a_dimension_that_says_nothing_is_not_active() -> None:
    vae, data = build("table-mlp-gaussian"), data_of("table-mlp-gaussian")
    last = [layer for layer in vae.encoder.modules() if isinstance(layer, torch.nn.Linear)][-1]
    last.weight.mul_(10)
    assert evaluate(vae, data, draws=1).active_units == 2
    # Q of the second latent becomes the same for every input, and then the prior.
    last.weight[[1, 3]] = 0
    last.bias[1] = 0.7
    assert evaluate(vae, data, draws=1).active_units == 1
    last.bias[[1, 3]] = 0
    report = evaluate(vae, data, draws=1)
    assert report.active_units == 1
    assert report.rate_per_dimension[1] == 0


def test_one_sample_has_no_standard_error() -> None:
    report = evaluate(build("grey-mlp-discretized"), Memory(stripes(1)), draws=2)
    assert report.free_energy_standard_error is None
    assert report.bits_per_dim_standard_error is None
    json.dumps(report.plain(), allow_nan=False)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        evaluate(build("grey-mlp-discretized"), Memory(stripes(0)), draws=2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 10)])
def test_codecs_compress_as_by_hand(shape: tuple[int, ...]) -> None:
    data = Memory(stripes(300, shape))
    pngs = []
    for sample in data.samples:
        file = io.BytesIO()
        Image.fromarray(sample[0] if shape[0] == 1 else sample.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
        file.seek(0)
        # What was counted must hold the sample.
        assert np.array_equal(np.asarray(Image.open(file)).reshape(*shape[1:], shape[0]).transpose(2, 0, 1), sample)
        pngs.append(file.getbuffer().nbytes)
    stream = data.samples.tobytes()
    expected = {"png": sum(pngs), "gzip": len(gzip.compress(stream, 9)), "xz": len(lzma.compress(stream, preset=9))}
    found = codecs(data)
    assert found == pytest.approx({name: 8 * size / len(stream) for name, size in expected.items()})


def test_codecs_say_nothing_of_floats() -> None:
    assert codecs(Memory(rows(5))) == {}
    assert codecs(Memory(stripes(5).astype(np.float32) / 255)) == {}
