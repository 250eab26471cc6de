"""A mixture of Gaussians with full covariances: a density fitted to points in a few hundred dimensions at most.

    nlog p(v) = -log sum_k w_k N(v; m_k, C_k)

It is fitted by expectation maximization (Dempster et al. 1977), in float32 and from the clusters of k-means.
"""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model import random
from model.data import Floats

#: Fewest points for each dimension of each component.
MIN_POINTS_PER_DIM = 3
#: Rounds of k-means, and of expectation maximization after it.
ROUNDS = 15
#: Points that are compared with all components in one step; bounds the memory of a step.
CHUNK_POINTS = 1024


@dataclass(frozen=True)
class Mixture:
    """K components over D dimensions. `factors` are triangular: factor @ factor.T is the inverse of C."""

    log_weights: Floats  # K
    means: Floats  # K x D
    factors: Floats  # K x D x D

    @classmethod
    def fit(cls, points: Floats, *, components: int, ridge: float) -> "Mixture":
        """Fit to n x D points, by fewer components where points are few. `ridge` is added to every variance."""
        count, dims = points.shape
        center = points.mean(axis=0)
        x = torch.from_numpy(points - center).float()
        shares = _clusters(x, max(1, min(components, count // (MIN_POINTS_PER_DIM * dims))))
        for _ in range(ROUNDS):
            fitted = _maximize(x, shares, ridge)
            shares = fitted.log_joint(x).softmax(dim=1)
        return cls(fitted.log_weights, fitted.means + center, fitted.factors)

    def log_joint(self, points: Float[Tensor, "n dims"]) -> Float[Tensor, "n components"]:
        """log [w_k N(v; m_k, C_k)] for each point v and component k."""
        at_means, means, factors = (part.to(points) for part in self._tensors)
        chunks = torch.split(points, CHUNK_POINTS)
        distances = [torch.bmm(chunk - means, factors).square().sum(dim=2).T for chunk in chunks]
        return at_means - 0.5 * torch.cat(distances)

    @functools.cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """log [w_k N(m_k; m_k, C_k)], means as K x 1 x D, and factors."""
        log_weights, means, factors = map(torch.from_numpy, (self.log_weights, self.means, self.factors))
        scale = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1) - 0.5 * means.shape[1] * math.log(2 * math.pi)
        return log_weights + scale, means[:, None], factors

    def nlog_density(self, points: Floats) -> Floats:
        """Minus the log of the density at each of n x D points, nats."""
        nlog: Floats = -self.log_joint(torch.from_numpy(points).double()).logsumexp(dim=1).numpy()
        return nlog


def _clusters(x: Float[Tensor, "n dims"], count: int) -> Float[Tensor, "n components"]:
    """Assignment of points to clusters by k-means: 1 where a point belongs to a cluster, else 0."""
    order = random.generator(0, random.CALIBRATE, 2).permutation(len(x))
    centers = x[torch.from_numpy(order[:count])]
    for _ in range(ROUNDS):
        owned = F.one_hot(torch.cdist(x, centers).argmin(dim=1), count).to(x)
        sizes = owned.sum(dim=0)[:, None]
        # A cluster without points keeps its center.
        centers = torch.where(sizes > 0, owned.T @ x / sizes.clamp(min=1), centers)
    return owned


def _maximize(x: Float[Tensor, "n dims"], shares: Float[Tensor, "n components"], ridge: float) -> Mixture:
    """Maximum likelihood mixture of points, given the share of each component in each point."""
    sizes = shares.sum(dim=0).clamp(min=1e-6)
    means = shares.T @ x / sizes[:, None]
    factors = []
    for mean, share, size in zip(means, shares.T, sizes, strict=True):
        centered = x - mean
        covariance = ((centered * share[:, None]).T @ centered / size).double()
        covariance.diagonal().add_(ridge)
        factors.append(torch.linalg.cholesky(torch.linalg.inv(covariance)))
    weights = (sizes / sizes.sum()).log()
    return Mixture(weights.double().numpy(), means.double().numpy(), torch.stack(factors).numpy())
