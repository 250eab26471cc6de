"""Evaluation: scores against direct estimates, code lengths against compressors."""

import bz2
import gzip
import io
import json
import lzma
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model import random
from model.checkpoint import Checkpoint
from model.errors import DataError
from model.report.evaluation import (
    MAX_WORST,
    PERCENTILES,
    Report,
    codecs,
    evaluate,
    evenly_spaced,
    scales_at_floor,
    worst_samples,
)
from model.scoring.batches import estimate
from model.scoring.calibration import ScoringConfig
from model.scoring.detection import detect
from model.scoring.free_energy import FreeEnergy
from model.vae import VAE, to_tensor
from tests.support.data import Array, Memory, rows, stripes
from tests.support.models import CONFIGS, build

COUNT = 37


def data_of(name: str) -> Memory:
    data = CONFIGS[name].data
    return Memory(rows(COUNT) if data.kind == "vector" else stripes(COUNT, data.shape))


def directly(vae: VAE, samples: Array, draws: int, seed: int = 0) -> FreeEnergy:
    x = to_tensor(samples)
    return estimate(vae, x, vae.encode(x), torch.from_numpy(random.normal(seed, (draws, vae.config.latent))))


@pytest.mark.parametrize("name", CONFIGS)
class TestReport:
    def test_means_are_those_of_direct_estimates(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        evaluation, scores = evaluate(vae, data, draws=5, seed=3), directly(vae, data.samples, 5, seed=3)
        report = evaluation.report
        np.testing.assert_allclose(evaluation.free_energy, scores.free_energy, rtol=1e-6)
        for key in ("free_energy", "nlog_p_x"):
            assert getattr(report, key) == pytest.approx(getattr(scores, key).mean(), rel=1e-6), key
        # A standard prior's rate is the analytic KL(Q, N(0, I)), independent of the draws.
        with torch.inference_mode():
            q = vae.encode(to_tensor(data.samples))
            exact = 0.5 * (q.mean.square() + q.scale.square() - 1 - 2 * q.scale.log()).sum(dim=1).mean()
        assert evaluation.kl_to_normal.sum() == pytest.approx(float(exact), rel=1e-5)
        if vae.prior.analytic_rate:
            assert report.rate == pytest.approx(float(exact), rel=1e-5)
            assert report.rate == evaluate(vae, data, draws=1, seed=8).report.rate
        else:
            assert report.rate == pytest.approx(scores.rate.mean(), rel=1e-6)
        assert report.distortion + report.rate == pytest.approx(report.free_energy, rel=1e-9)
        error = scores.free_energy.std(ddof=1) / math.sqrt(COUNT)
        assert report.free_energy_standard_error == pytest.approx(error, rel=1e-4)
        assert (report.samples, report.draws, report.seed, report.dataset) == (COUNT, 5, 3, "memory")

    def test_percentiles_rise_to_the_largest(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        percentiles = evaluate(vae, data, draws=2).report.free_energy_percentiles
        free_energy = directly(vae, data.samples, 2).free_energy
        assert list(percentiles) == [f"{p:g}" for p in PERCENTILES]
        assert list(percentiles.values()) == sorted(percentiles.values())
        ends = [percentiles["0"], percentiles["50"], percentiles["100"]]
        assert ends == pytest.approx([free_energy.min(), np.median(free_energy), free_energy.max()], rel=1e-6)

    def test_worst_samples_have_the_highest_free_energy(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        free_energy = directly(vae, data.samples, 3).free_energy
        worst = evaluate(vae, data, draws=3).report.worst
        order = np.argsort(-free_energy)[:MAX_WORST]
        assert [sample["sample"] for sample in worst] == [str(i) for i in order]
        assert [sample["free_energy"] for sample in worst] == pytest.approx(free_energy[order].tolist(), rel=1e-6)
        unit = vae.config.data.dims * math.log(2)
        for sample in worst:
            bits = None if vae.levels is None else pytest.approx(sample["free_energy"] / unit)
            assert sample["bits_per_dim"] == bits

    def test_share_of_scales_at_floor_is_one_if_all_are(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        share = evaluate(vae, data, draws=1).report.scales_at_floor
        if vae.levels == 2:
            assert share is None
            return
        assert share == 0
        if vae.levels is None:
            for weight in vae.head.parameters():
                weight.fill_(-20)
        else:
            last = [layer for layer in vae.decoder.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
            assert last.bias is not None
            last.bias.sub_(10)
        assert evaluate(vae, data, draws=1).report.scales_at_floor == 1

    def test_bits_per_dimension_of_discrete_likelihoods(self, name: str) -> None:
        vae = build(name)
        report = evaluate(vae, data_of(name), draws=2).report
        bits = (report.bits_per_dim, report.bits_per_dim_standard_error, report.nlog_p_x_bits_per_dim)
        if vae.levels is None:
            assert bits == (None, None, None)
        else:
            nats = (report.free_energy, report.free_energy_standard_error or math.nan, report.nlog_p_x)
            assert bits == pytest.approx([value / vae.config.data.dims / math.log(2) for value in nats])

    def test_dimensions_are_ordered_by_their_divergence_which_adds_up_to_that_of_q(self, name: str) -> None:
        vae, data = build(name), data_of(name)
        report, standard = evaluate(vae, data, draws=1).report, directly(vae, data.samples, 1).rate_analytic
        assert report.kl_to_normal == sorted(report.kl_to_normal, reverse=True)
        assert len(report.kl_to_normal) == vae.config.latent
        with torch.inference_mode():
            expected = vae.encode(to_tensor(data.samples)).kl_to_normal().sum(1).mean()
        assert sum(report.kl_to_normal) == pytest.approx(float(expected), rel=1e-5)
        assert standard is None or sum(report.kl_to_normal) == pytest.approx(standard.mean(), rel=1e-5)

    def test_a_report_survives_json(self, name: str) -> None:
        report = evaluate(build(name), data_of(name), draws=1).report
        plain = json.loads(json.dumps(report.plain(), allow_nan=False))
        assert report.quality is not None and plain.pop("quality") == vars(report.quality)
        assert Report(**plain, quality=report.quality) == report

    def test_codecs_are_compared_only_with_code_lengths_of_bytes(self, name: str) -> None:
        vae = build(name)
        assert set(evaluate(vae, data_of(name), draws=1).report.codecs_bits_per_dim) == (
            {"png", "webp", "gzip", "bz2", "xz"} if vae.levels == 256 else set()
        )


def test_quality_is_measured_on_samples_from_the_whole_of_a_sorted_dataset() -> None:
    picked = evenly_spaced(Memory(np.arange(5000, dtype=np.float32)[:, None]), 5000)
    assert picked[:, 0].tolist() == (np.arange(2000) * 5 // 2).tolist()
    assert len(evenly_spaced(Memory(np.zeros((7, 3), np.float32)), 7)) == 7


def test_reports_progress() -> None:
    done: list[int] = []
    evaluation = evaluate(build("grey-conv-gaussian"), Memory(stripes(300)), draws=1, on_batch=done.append)
    assert done == [256, 300]
    assert evaluation.free_energy.shape == (300,)


def test_worst_samples_have_the_names_of_the_dataset() -> None:
    class Named(Memory):
        def name_of(self, index: int) -> str:
            return f"image-{index}.png"

    data = Named(stripes(5))
    data.samples[3] = np.random.default_rng(0).integers(0, 256, (1, 8, 8))
    worst = evaluate(build("grey-mlp-discretized"), data, draws=1).report.worst
    assert len(worst) == 5
    assert {sample["sample"] for sample in worst} == {f"image-{i}.png" for i in range(5)}


def test_worst_samples_of_equal_free_energy_keep_their_order() -> None:
    worst = worst_samples(np.append(np.ones(30), 2.0), None, Memory(stripes(31)))
    assert [sample["sample"] for sample in worst] == ["30", *(str(i) for i in range(MAX_WORST - 1))]


def test_json_contains_the_detection(calibrated: Callable[[str], Checkpoint]) -> None:
    model, data = calibrated("table-mlp-gaussian"), data_of("table-mlp-gaussian")
    detection = detect(model.vae, data, [], ScoringConfig(4, 5, 0), model.calibration, 20)
    plain = replace(evaluate(model.vae, data, draws=1).report, detection=[detection]).plain()
    config = {"samples": 4, "refine": 5, "seed": 0, "inliers": 20}
    assert json.loads(json.dumps(plain, allow_nan=False))["detection"] == [
        config | {"outliers": detection.outliers, "auroc": detection.auroc}
    ]


def test_scales_at_their_floor_are_counted_by_column() -> None:
    vae, data = build("table-mlp-gaussian"), data_of("table-mlp-gaussian")
    (scales,) = vae.head.parameters()
    # The units of the columns differ by a factor of a hundred; the floor is in standard deviations.
    for index in range(3):
        scales[index] = -20
        assert scales_at_floor(vae, data) == pytest.approx((index + 1) / 3)


def test_a_constant_dimension_is_inactive() -> None:
    vae, data = build("table-mlp-gaussian"), data_of("table-mlp-gaussian")
    last = [layer for layer in vae.encoder.modules() if isinstance(layer, torch.nn.Linear)][-1]
    last.weight.mul_(10)
    assert evaluate(vae, data, draws=1).report.active_units == 2
    # Make Q of the second latent dimension independent of the input, then equal to the prior.
    last.weight[[1, 3]] = 0
    last.bias[1] = 0.7
    assert evaluate(vae, data, draws=1).report.active_units == 1
    last.bias[[1, 3]] = 0
    report = evaluate(vae, data, draws=1).report
    assert report.active_units == 1
    assert report.kl_to_normal[1] == 0


def test_one_sample_has_no_standard_error() -> None:
    report = evaluate(build("grey-mlp-discretized"), Memory(stripes(1)), draws=2).report
    assert report.free_energy_standard_error is None
    assert report.bits_per_dim_standard_error is None
    json.dumps(report.plain(), allow_nan=False)


def test_rejects_an_empty_dataset() -> None:
    with pytest.raises(DataError, match="the dataset is empty"):
        evaluate(build("grey-mlp-discretized"), Memory(stripes(0)), draws=2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 10)])
def test_codecs_agree_with_the_compressors(shape: tuple[int, ...]) -> None:
    data = Memory(stripes(300, shape))
    sizes = {"png": 0, "webp": 0}
    for sample in data.samples:
        picture = Image.fromarray(sample[0] if shape[0] == 1 else np.ascontiguousarray(sample.transpose(1, 2, 0)))
        for kind, options in (
            ("png", {"optimize": True}),
            ("webp", {"lossless": True, "quality": 100, "method": 6}),
        ):
            file = io.BytesIO()
            picture.save(file, kind, **options)
            sizes[kind] += file.getbuffer().nbytes
            file.seek(0)
            # The counted file must contain the whole sample.
            back = np.asarray(Image.open(file).convert(picture.mode)).reshape(*shape[1:], shape[0])
            assert np.array_equal(back.transpose(2, 0, 1), sample)
    stream = data.samples.tobytes()
    compressors = {
        "gzip": gzip.compress(stream, 9),
        "bz2": bz2.compress(stream, 9),
        "xz": lzma.compress(stream, preset=9),
    }
    expected = sizes | {name: len(packed) for name, packed in compressors.items()}
    assert codecs(data) == pytest.approx({name: 8 * size / len(stream) for name, size in expected.items()})


def test_codecs_of_floats_are_empty() -> None:
    assert codecs(Memory(rows(5))) == {}
    assert codecs(Memory(stripes(5).astype(np.float32) / 255)) == {}
