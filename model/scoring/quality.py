"""How close samples are to data: the Fréchet distance of features."""

import numpy as np

from model.data import Floats


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
