"""Paths between two latents."""

import numpy as np

from model.data import Floats

#: Angles closer than this to 0 or 180 degrees, in radians, have no direction to turn in.
MIN_ANGLE = 1e-4


def linear(start: Floats, end: Floats, steps: int) -> Floats:
    """Points on a straight line, steps x n, with both ends.

    >>> linear(np.array([0.0, 2.0]), np.array([4.0, 0.0]), 3).tolist()
    [[0.0, 2.0], [2.0, 1.0], [4.0, 0.0]]
    """
    t = np.linspace(0, 1, steps)[:, None]
    path: Floats = (1 - t) * start + t * end
    return path


def spherical(start: Floats, end: Floats, steps: int) -> Floats:
    """Points on an arc, steps x n, with both ends: angle and length change evenly.

    Draws of N(0, I) in many dimensions have nearly equal lengths, and so have the points of the arc between two of
    them; those of a straight line are too short (Shoemake 1985; White 2016, arXiv 1609.04468). The line is straight if
    the ends point in the same direction or in opposite ones.

    >>> spherical(np.array([1.0, 0.0]), np.array([0.0, 3.0]), 3).round(3).tolist()
    [[1.0, 0.0], [1.414, 1.414], [0.0, 3.0]]
    """
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    angle = np.arccos(np.clip(start @ end / max(float(lengths[0] * lengths[1]), np.finfo(float).tiny), -1, 1))
    if min(angle, np.pi - angle) < MIN_ANGLE or not all(lengths):
        return linear(start, end, steps)
    t = np.linspace(0, 1, steps)[:, None]
    length = (1 - t) * lengths[0] + t * lengths[1]
    directions = np.sin((1 - t) * angle) * start / lengths[0] + np.sin(t * angle) * end / lengths[1]
    path: Floats = length * directions / np.sin(angle)
    path[0], path[-1] = start, end
    return path
