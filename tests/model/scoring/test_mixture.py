"""Gaussian mixtures: normalization, fit and invariances."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal  # type: ignore[import-untyped]
from sklearn.mixture import GaussianMixture

from model.scoring.mixture import MIN_POINTS_PER_DIM, Mixture
from tests.support.data import Floats


def clusters(count: int, dims: int, seed: int = 0) -> Floats:
    """Points around three places, spread differently in each direction."""
    draw, shape = np.random.default_rng(seed), np.random.default_rng(99)
    places, spreads = shape.normal(size=(3, dims)) * 3, shape.normal(size=(3, dims, dims))
    which = draw.integers(0, 3, count)
    points: Floats = places[which] + np.einsum("nij,nj->ni", spreads[which], draw.normal(size=(count, dims)))
    return points


@pytest.mark.parametrize("components", [1, 3, 8])
@pytest.mark.parametrize("dims", [1, 2])
def test_it_integrates_to_one(dims: int, components: int) -> None:
    points = clusters(300, dims)
    mixture = Mixture.fit(points, components=components, ridge=0.05)
    assert len(mixture.means) == components
    axes = [np.linspace(low - 12, high + 12, 600) for low, high in zip(points.min(0), points.max(0), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dims)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(-mixture.nlog_density(grid)).sum() * cell == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dims", [1, 2, 5, 20])
def test_one_component_is_the_normal_density_of_the_points(dims: int) -> None:
    points, others = clusters(200, dims), clusters(50, dims, seed=1)
    mixture = Mixture.fit(points, components=1, ridge=0.3)
    covariance = np.cov(points.T, bias=True) + 0.3 * np.eye(dims)
    expected = -multivariate_normal(points.mean(axis=0), covariance).logpdf(others)
    np.testing.assert_allclose(mixture.nlog_density(others), expected, rtol=1e-6)


def test_many_components_are_the_sum_of_their_normal_densities() -> None:
    points = clusters(500, 4)
    mixture = Mixture.fit(points, components=5, ridge=0.1)
    densities = [
        np.exp(log_weight) * multivariate_normal(mean, np.linalg.inv(factor @ factor.T)).pdf(points)
        for log_weight, mean, factor in zip(mixture.log_weights, mixture.means, mixture.factors, strict=True)
    ]
    np.testing.assert_allclose(mixture.nlog_density(points), -np.log(np.sum(densities, axis=0)), rtol=1e-6)
    assert np.exp(mixture.log_weights).sum() == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dims", [2, 5, 20])
def test_it_fits_other_points_as_well_as_that_of_scikit_learn(dims: int) -> None:
    points, others = clusters(900, dims), clusters(900, dims, seed=1)
    theirs = GaussianMixture(4, reg_covar=0.05, random_state=0).fit(points)
    one, ours = (Mixture.fit(points, components=k, ridge=0.05).nlog_density(others).mean() for k in (1, 4))
    assert ours < -theirs.score_samples(others).mean() + 0.02 * dims
    assert ours < one - 0.5


@pytest.mark.parametrize("scale", [1e2, 1e5, 1e8])
@pytest.mark.parametrize("dims", [2, 32])
def test_one_point_far_out_does_not_spoil_it(dims: int, scale: float) -> None:
    points = clusters(600, dims)
    sound = Mixture.fit(points, components=8, ridge=0.05).nlog_density(points[1:]).mean()
    points[0] *= scale
    result = Mixture.fit(points, components=8, ridge=0.05).nlog_density(points)
    assert np.isfinite(result).all()
    assert result[1:].mean() < sound + dims


def test_the_mixture_is_equivariant_to_translation() -> None:
    points, others = clusters(300, 3), clusters(50, 3, seed=1)
    here = Mixture.fit(points, components=3, ridge=0.05).nlog_density(others)
    there = Mixture.fit(points + 1e5, components=3, ridge=0.05).nlog_density(others + 1e5)
    np.testing.assert_allclose(there, here, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "expected"), [(2, 1), (11, 1), (12, 1), (23, 1), (24, 2), (59, 4), (60, 5), (900, 5)]
)
def test_fewer_points_have_fewer_components(count: int, expected: int) -> None:
    assert MIN_POINTS_PER_DIM == 3
    assert len(Mixture.fit(clusters(count, 4), components=5, ridge=0.1).means) == expected


def test_no_component_is_narrower_than_the_ridge() -> None:
    same = np.zeros((90, 3))
    mixture = Mixture.fit(same, components=4, ridge=0.25)
    expected = -multivariate_normal(np.zeros(3), 0.25 * np.eye(3)).logpdf(np.ones(3))
    assert mixture.nlog_density(np.ones((1, 3)))[0] == pytest.approx(expected)


def test_the_density_is_finite_and_falls_with_distance() -> None:
    mixture = Mixture.fit(clusters(300, 3), components=3, ridge=0.05)
    far = mixture.nlog_density(np.outer([1e1, 1e2, 1e4, 1e8, 1e100], np.ones(3)))
    assert np.isfinite(far).all()
    assert (np.diff(far) > 0).all()


def test_the_density_of_a_point_does_not_depend_on_others() -> None:
    mixture, points = Mixture.fit(clusters(300, 3), components=3, ridge=0.05), clusters(20, 3, seed=2)
    alone = [mixture.nlog_density(points[i : i + 1])[0] for i in range(20)]
    np.testing.assert_allclose(mixture.nlog_density(points), alone, rtol=1e-12)
    assert mixture.nlog_density(points[:0]).shape == (0,)


def test_the_same_points_give_the_same_mixture() -> None:
    first, same = (Mixture.fit(clusters(200, 3), components=4, ridge=0.05) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(same).values(), strict=True))
