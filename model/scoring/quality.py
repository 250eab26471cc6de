"""How close samples are to data, by features of both."""

import numpy as np

from model.data import Floats

#: Number of the nearest neighbour whose distance is the radius of a point (Kynkäänniemi et al. 2019).
NEIGHBOUR = 3


def frechet_distance(a: Floats, b: Floats) -> float:
    """Fréchet distance of the Gaussians with the means and covariances of two sets of features, n x d each.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), by Dowson & Landau 1982, as Heusel et al. 2017 (arXiv 1706.08500)
    use it. In the squared unit of the features. Small sets bias it upwards: compare sets of equal size.

    >>> points = np.random.default_rng(0).normal(size=(1000, 3))
    >>> round(frechet_distance(points, points), 6), round(frechet_distance(points, points + [3, 0, 4]), 6)
    (0.0, 25.0)
    """
    shift = a.mean(axis=0) - b.mean(axis=0)
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (A B)^(1/2) is that of the symmetric (A^(1/2) B A^(1/2))^(1/2).
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    return max(0.0, float(shift @ shift + np.trace(one) + np.trace(other) - 2 * cross))


def precision_recall(data: Floats, samples: Floats) -> tuple[float, float]:
    """Share of samples that lie within the data, and share of data that lies within the samples; n x d each, n > 3.

    A point lies within a set if it is no farther from one of its points than that point's third nearest neighbour in
    the set (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    >>> line = np.arange(10.0)[:, None]
    >>> precision_recall(line, line + 0.5), precision_recall(line, line + 100)
    ((1.0, 1.0), (0.0, 0.0))
    """
    return _share_within(samples, data), _share_within(data, samples)


def _share_within(points: Floats, members: Floats) -> float:
    radius = np.sort(_squared_distances(members, members), axis=1)[:, NEIGHBOUR]
    return float((_squared_distances(points, members) <= radius).any(axis=1).mean())


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares: Floats = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return squares
