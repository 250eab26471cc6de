"""Complexity: invariance to flips, and the fit of a trend."""

import numpy as np
import pytest
import torch

from model.config import ImageData
from model.scoring.complexity import MAX_DEVIATION, Trend, complexity, measures, quadratic_terms
from tests.support.data import Array, rows, stripes
from tests.support.models import CONFIGS, GREY, RGB, TABLE


def pictures(data: ImageData, count: int = 20) -> Array:
    return np.random.default_rng(0).integers(0, 256, (count, *data.shape), np.uint8)


def measured(samples: Array, data: ImageData) -> Array:
    return complexity(torch.from_numpy(samples).float() / 255, data).numpy()


@pytest.mark.parametrize("data", [GREY, RGB])
class TestComplexity:
    def test_equals_the_definition(self, data: ImageData) -> None:
        v = pictures(data).astype(float)
        across, down = np.diff(v, axis=3), np.diff(v, axis=2)
        diagonal = v[:, :, 1:, 1:] - v[:, :, :-1, :-1], v[:, :, 1:, :-1] - v[:, :, :-1, 1:]
        around = v[:, :, :-2, 1:-1] + v[:, :, 2:, 1:-1] + v[:, :, 1:-1, :-2] + v[:, :, 1:-1, 2:]
        bits = [np.log2(1 + np.abs(d)).sum(axis=(1, 2, 3)) for d in (across, down, *diagonal)]
        bits[2:] = [bits[2] + bits[3], np.log2(1 + np.abs(around - 4 * v[:, :, 1:-1, 1:-1])).sum(axis=(1, 2, 3))]
        busy = ((across[:, :, :-1] != 0) | (down[:, :, :, :-1] != 0)).sum(axis=(1, 2, 3))
        expected = np.stack([*bits, busy, v.sum(axis=(1, 2, 3)) / 255], axis=1)
        assert np.allclose(measured(pictures(data), data), expected, rtol=1e-4)

    def test_is_invariant_to_flips(self, data: ImageData) -> None:
        samples = stripes(20, data.shape)
        before = measured(samples, data)
        # What is busy is told from the pixel after it, so that a flip may move it by a pixel of each edge.
        edges = np.array([0, 0, 0, 0, data.height + data.width, 0])
        for axis in (2, 3):
            flipped = measured(np.flip(samples, axis).copy(), data)
            assert (np.abs(flipped - before) <= edges * data.channels + 1e-4 * np.abs(before)).all()

    def test_of_a_constant_image_is_its_brightness_alone(self, data: ImageData) -> None:
        measures = measured(np.full((1, *data.shape), 51, np.uint8), data)
        assert np.allclose(measures, [[0, 0, 0, 0, 0, data.dims / 5]])

    def test_noise_below_one_level_has_no_effect(self, data: ImageData) -> None:
        x = torch.from_numpy(pictures(data)).float() / 255
        noise = 1e-3 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1)
        assert torch.equal(complexity(x + noise, data), complexity(x, data))

    def test_does_not_depend_on_the_other_images(self, data: ImageData) -> None:
        samples = pictures(data)
        whole = measured(samples, data)
        assert np.allclose([measured(samples[i : i + 1], data)[0] for i in range(len(samples))], whole, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_number_of_measures_is_as_declared(name: str) -> None:
    data = CONFIGS[name].data
    assert complexity(torch.zeros(2, *data.shape), data).shape == (2, measures(data))


def test_vectors_have_no_measures() -> None:
    assert complexity(torch.from_numpy(rows(5)), TABLE).shape == (5, 0)


class TestTrend:
    measured = np.random.default_rng(0).normal([5.0, -200.0], [1.0, 30.0], (400, 2))

    def test_finds_a_quadratic_function(self) -> None:
        a, b = (self.measured - [5, -200]).T / [[1.0], [30.0]]
        scores = np.stack([3 + a - 2 * b + a * b, 100 * b * b], axis=1)
        trend = Trend.fit(self.measured, scores)
        assert trend.weights.shape == (quadratic_terms(2), 2)
        near = (np.abs(np.stack([a, b])) < MAX_DEVIATION).all(axis=0)
        assert np.allclose(trend(self.measured)[near], scores[near], rtol=0.01, atol=0.5)

    def test_is_the_mean_without_measures(self) -> None:
        scores = np.random.default_rng(1).normal(7, 1, (400, 2))
        usual = Trend.fit(self.measured[:, :0], scores)(self.measured[:3, :0])
        assert np.allclose(usual, scores.mean(axis=0), rtol=1e-3)

    def test_is_bounded_far_from_the_data(self) -> None:
        trend = Trend.fit(self.measured, np.square(self.measured[:, :1] - 5))
        far = trend(np.array([[5.0 + MAX_DEVIATION + 0.5, -200.0], [1e6, -200.0]]))
        assert far[0] == pytest.approx(far[1])

    def test_accepts_constant_measures(self) -> None:
        trend = Trend.fit(np.zeros((50, 2)), np.ones((50, 1)))
        assert np.isfinite(trend(np.array([[0.0, 0.0], [1.0, -1.0]]))).all()
