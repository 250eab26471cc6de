"""Paths between latents."""

from collections.abc import Callable

import numpy as np
import pytest

from model.data import Floats
from model.interpolation import linear, spherical


@pytest.mark.parametrize("path", [linear, spherical])
def test_a_path_has_both_ends(path: Callable[[Floats, Floats, int], Floats]) -> None:
    draw = np.random.default_rng(0)
    start, end = draw.normal(size=(2, 5))
    points = path(start, end, 7)
    assert points.shape == (7, 5)
    np.testing.assert_array_equal(points[[0, -1]], [start, end])
    np.testing.assert_allclose(path(end, start, 7), points[::-1])


def test_an_arc_keeps_the_length_of_draws() -> None:
    start, end = np.random.default_rng(0).normal(size=(2, 128))
    arc, line = (np.linalg.norm(path(start, end, 9), axis=1) for path in (spherical, linear))
    np.testing.assert_allclose(arc, np.linspace(arc[0], arc[-1], 9))
    assert line[4] < 0.8 * arc[4]
    points = spherical(start, end, 9)
    angles = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(points[1:], points[:-1], strict=True)]
    np.testing.assert_allclose(angles, angles[0])


@pytest.mark.parametrize(("start", "end"), [([1, 1], [2, 2]), ([1, 0], [-3, 0]), ([0, 0], [1, 2]), ([0, 0], [0, 0])])
def test_without_a_direction_to_turn_in_the_path_is_straight(start: list[float], end: list[float]) -> None:
    ends = np.array([start, end], float)
    np.testing.assert_array_equal(spherical(ends[0], ends[1], 5), linear(ends[0], ends[1], 5))
