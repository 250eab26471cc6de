"""A mixture of Gaussians with full covariances: a density fitted to points in few hundred dimensions at most.

    nlog p(v) = -log sum_k w_k N(v; m_k, C_k)

It is fitted by expectation maximization with scikit-learn (the `train` extra) and evaluated with numpy alone.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import TrainingError

Floats = NDArray[np.float64]
#: How many points there are at least for each dimension of each component.
POINTS = 3


@dataclass(frozen=True)
class Mixture:
    """K components over D dimensions. `factors` are upper triangular: inverse of C = factor @ factor.T."""

    log_weights: Floats  # K
    means: Floats  # K x D
    factors: Floats  # K x D x D

    @classmethod
    def fit(cls, points: Floats, *, components: int, ridge: float) -> "Mixture":
        """Fit to n points.

        Args:
            points: n x D.
            components: most components; fewer where points are few.
            ridge: added to every variance, in the squared unit of the points.

        Raises:
            TrainingError: scikit-learn is not installed.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise TrainingError("typicality needs scikit-learn: pip install 'vae-server[train]'") from error
        count, dims = points.shape
        fitted = GaussianMixture(
            max(1, min(components, count // (POINTS * dims))), reg_covar=ridge, max_iter=30, tol=1e-2, random_state=0
        )
        with warnings.catch_warnings():
            # Thirty rounds are enough for a score; that more would move it a little is no news to anyone.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(points)
        return cls(np.log(fitted.weights_), fitted.means_, fitted.precisions_cholesky_)

    def nlog_density(self, points: Floats) -> Floats:
        """Minus the log of the density at each of n x D points, in nats."""
        logs = np.empty((len(self.means), len(points)))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            distance = np.square((points - mean) @ factor).sum(axis=1)
            logs[k] = self.log_weights[k] + np.log(np.diagonal(factor)).sum() - 0.5 * distance
        top = logs.max(axis=0)
        constant = 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        nlog: Floats = constant - top - np.log(np.exp(logs - top).sum(axis=0))
        return nlog
