"""The Fréchet distance, against its closed forms, and precision and recall."""

import numpy as np
import pytest

from model.scoring.quality import frechet_distance, precision_recall


def test_of_gaussians_with_known_covariances() -> None:
    """The distance of independent dimensions is the sum of (std_a - std_b)^2, whatever the rotation."""
    draw = np.random.default_rng(0)
    rotation = np.linalg.qr(draw.normal(size=(4, 4)))[0]
    scales = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 2.0, 1.5, 1.0])
    a, b = (draw.normal(size=(200_000, 4)) * scale @ rotation for scale in scales)
    assert frechet_distance(a, b) == pytest.approx(np.square(scales[0] - scales[1]).sum(), rel=0.02)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_of_features_that_lie_in_a_plane() -> None:
    draw = np.random.default_rng(0)
    flat = np.concatenate([draw.normal(size=(500, 2)), np.zeros((500, 3))], axis=1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)
    shift = np.square(flat.mean(axis=0)).sum()
    assert frechet_distance(flat, 2 * flat) == pytest.approx(shift + np.trace(np.cov(flat, rowvar=False)), rel=1e-9)


def test_precision_and_recall_of_a_part_of_the_data() -> None:
    data = np.random.default_rng(0).normal(size=(400, 2))
    part = data[data[:, 0] > 0] + 1e-3
    precision, recall = precision_recall(data, part)
    assert precision > 0.98
    assert 0.4 < recall < 0.65
    assert precision_recall(part, data) == (recall, precision)
