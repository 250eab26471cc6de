"""Projection on the plane of largest variance: axes, signs and invariances."""

import numpy as np
import pytest

from model.projection import PCAProjection

LATENTS = np.random.default_rng(0).normal(size=(200, 5)) * [0.1, 3, 0.2, 1, 0.1] + 7


def test_its_axes_are_of_length_one_and_at_right_angles() -> None:
    plane = PCAProjection.fit(LATENTS)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)
    assert np.abs(plane.axes).argmax(axis=1).tolist() == [1, 3]


def test_the_axes_are_those_of_largest_variance() -> None:
    plane = PCAProjection.fit(LATENTS)
    shares = plane(LATENTS).var(axis=0) / LATENTS.var(axis=0).sum()
    np.testing.assert_allclose(plane.explained, shares)
    assert plane.explained[0] > plane.explained[1]
    for seed in range(20):
        other = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 2)))[0]
        assert (LATENTS @ other).var(axis=0).sum() <= plane(LATENTS).var(axis=0).sum()


def test_the_mean_is_projected_to_zero() -> None:
    plane = PCAProjection.fit(LATENTS)
    np.testing.assert_allclose(plane(LATENTS).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(plane(LATENTS.mean(axis=0)[None]), 0, atol=1e-12)


def test_the_projection_does_not_depend_on_order_or_sign_of_latents() -> None:
    plane = PCAProjection.fit(LATENTS)
    for same in (LATENTS[::-1], 2 * LATENTS.mean(axis=0) - LATENTS):
        np.testing.assert_allclose(PCAProjection.fit(same).axes, plane.axes, atol=1e-9)
    assert (plane.axes[[0, 1], [1, 3]] > 0).all()


@pytest.mark.parametrize("shape", [(9, 1), (1, 4), (1, 1), (2, 5)])
def test_few_latents_and_a_single_dimension_leave_axes_empty(shape: tuple[int, int]) -> None:
    latents = np.random.default_rng(0).normal(size=shape)
    plane = PCAProjection.fit(latents)
    assert (plane.axes.shape, plane.explained.shape, plane(latents).shape) == ((2, shape[1]), (2,), (shape[0], 2))
    assert np.isfinite(plane.axes).all() and plane.explained.sum() <= 1 + 1e-12
    if min(shape) == 1:
        assert (plane.axes[1] == 0).all() and plane.explained[1] == 0
