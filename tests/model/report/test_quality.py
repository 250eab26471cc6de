"""Quality of reconstructions and samples, on models and data whose quality is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.likelihoods.gaussian import LOG_2PI
from model.report import quality
from model.report.quality import MIN_MSE, Quality, measure
from model.report.text import quality_rows
from model.warnings import model_warnings
from tests.support.models import CONFIGS, build, reference

IN_USE = np.ones(4)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_model_has_a_quality(name: str) -> None:
    vae = build(name)
    result = measure(vae, reference(name, 60), np.ones(vae.config.latent))
    image = vae.config.data.kind == "image"
    assert (result.psnr is not None) == (result.ssim is not None) == (result.pca_psnr is not None) == image
    assert result.explained < 1
    assert (result.samples, result.components) == (60, vae.config.latent)
    assert result.frechet is not None and result.frechet >= 0
    assert result.precision is not None and 0 <= result.precision <= 1
    assert result.gaussian_gain is not None
    assert [row.value for row in quality_rows(result)]


def test_psnr_and_explained_variance_of_known_errors() -> None:
    truth = np.random.default_rng(0).random((50, 8))
    assert quality.psnr(truth, truth + 0.1) == pytest.approx(20)
    assert quality.psnr(truth, truth) == pytest.approx(-10 * np.log10(MIN_MSE))
    mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert quality.explained_variance(truth, truth) == 1
    assert quality.explained_variance(truth, mean) == pytest.approx(0)
    assert quality.explained_variance(truth, (truth + mean) / 2) == pytest.approx(0.75)


def test_ssim_is_one_for_the_same_and_falls_with_noise_and_blur() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 16, 16, generator=draw)
    assert quality.ssim(images, images) == pytest.approx(1)
    noisy = [quality.ssim(images, images + s * torch.randn(images.shape, generator=draw)) for s in (0.05, 0.2, 1.0)]
    assert 1 > noisy[0] > noisy[1] > noisy[2] > -1
    flat = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    assert quality.ssim(images, flat) < 0.1
    # Of constant images only the luminance differs.
    a, b = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.6)
    assert quality.ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-6)


def test_pca_is_judged_on_rows_that_did_not_fit_it() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(400, 3)) @ draw.normal(size=(3, 20)) + 5
    exact = quality.pca_reconstructions(rows, 3)
    assert exact is not None
    np.testing.assert_allclose(exact, rows, atol=1e-9)
    noise = draw.normal(size=(60, 50))
    fitted = quality.pca_reconstructions(noise, 25)
    assert fitted is not None
    # Within its own half PCA would explain most of the noise; on the other half it explains its share of dimensions.
    assert quality.explained_variance(noise, fitted) == pytest.approx(0.5, abs=0.12)
    assert quality.pca_reconstructions(noise, 30) is None
    assert quality.pca_reconstructions(noise, 0) is None


def test_what_a_gaussian_would_gain() -> None:
    vae = build("grey-mlp-discretized")
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 4, generator=draw)
    gain = quality.gaussian_gain(vae, z)
    assert gain == pytest.approx(0, abs=0.02)
    mixed = z @ torch.tensor([[2.0, 1.0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1.0]]) + 1
    nats = float((0.5 * mixed.double().square() + 0.5 * LOG_2PI).sum(1).mean())
    covariance = np.cov(mixed.double().numpy(), rowvar=False)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert quality.gaussian_gain(vae, mixed) == pytest.approx(nats - entropy, abs=0.02)
    assert quality.gaussian_gain(vae, z[:10]) is None


def test_few_samples_leave_figures_out() -> None:
    result = measure(build("grey-mlp-discretized"), reference("grey-mlp-discretized", 3), IN_USE)
    assert result.psnr is not None
    assert (result.pca_psnr, result.frechet, result.precision, result.gaussian_gain) == (None, None, None, None)


GOOD = Quality(100, 25.0, 0.9, 0.9, 8, 20.0, 0.8, 1.0, 0.9, 0.8, 0.1)


def test_reconstructions_below_pca_are_warned_of() -> None:
    def codes(result: Quality) -> list[str]:
        evaluation: dict[str, Any] = {"quality": vars(result)}
        return [warning.code for warning in model_warnings(evaluation, (), latent=8)]

    assert codes(GOOD) == []
    assert codes(replace(GOOD, explained=0.75)) == ["worse_than_pca"]
    assert codes(replace(GOOD, explained=0.75, pca_explained=None)) == []
