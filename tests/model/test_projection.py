"""Projection on the plane of largest variance: axes, signs and invariances."""

import numpy as np
import pytest

from model import projection
from model.projection import MIN_EMBEDDED, PCAProjection, embed, place
from tests.support.data import Array

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


def groups(count: int, seed: int = 0) -> Array:
    """Latents of three groups far apart, in turn."""
    centers = 9 * np.eye(5)[:3]
    return centers[np.arange(count) % 3] + np.random.default_rng(seed).normal(size=(count, 5))


class TestEmbedding:
    def test_keeps_groups_together(self) -> None:
        places = embed(groups(120))
        assert places is not None and places.shape == (120, 2)
        distance = np.linalg.norm(places[:, None] - places, axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (distance.argmin(axis=1) % 3 == np.arange(120) % 3).all()

    def test_is_the_same_each_time(self) -> None:
        np.testing.assert_array_equal(embed(groups(40)), embed(groups(40)))

    def test_of_too_few_is_none(self) -> None:
        assert embed(groups(MIN_EMBEDDED - 1)) is None
        few = embed(groups(MIN_EMBEDDED))
        assert few is not None and np.isfinite(few).all()

    @pytest.mark.parametrize("latents", [np.ones((20, 3)), groups(20)[:, :1], np.zeros((20, 1))])
    def test_of_equal_latents_or_of_one_dimension_is_finite(self, latents: Array) -> None:
        places = embed(latents)
        assert places is not None and places.shape == (20, 2) and np.isfinite(places).all()


class TestPlace:
    PLACES = np.random.default_rng(1).normal(size=(90, 2)) * 20

    def test_is_that_of_an_embedded_latent_itself(self) -> None:
        known = groups(90).astype(np.float32)
        np.testing.assert_allclose(place(known[:7], known, self.PLACES), self.PLACES[:7], atol=1e-3)

    def test_of_others_is_the_mean_of_the_nearest_weighted_by_inverse_squares(self) -> None:
        known, others = groups(90), groups(8, seed=1)
        for other, placed in zip(others, place(others, known, self.PLACES), strict=True):
            squares = np.square(known - other).sum(axis=1)
            nearest = np.argsort(squares)[:5]
            expected = np.average(self.PLACES[nearest], axis=0, weights=1 / squares[nearest])
            np.testing.assert_allclose(placed, expected, rtol=1e-6)

    def test_does_not_depend_on_the_number_of_latents(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known, others = groups(90), groups(20, seed=1)
        whole = place(others, known, self.PLACES)
        monkeypatch.setattr(projection, "MAX_DISTANCES", 200)
        np.testing.assert_allclose(place(others, known, self.PLACES), whole, rtol=1e-9)

    def test_among_fewer_than_are_averaged(self) -> None:
        known = groups(2)
        middle = place(known.mean(axis=0, keepdims=True), known, self.PLACES[:2])
        np.testing.assert_allclose(middle[0], self.PLACES[:2].mean(axis=0))
