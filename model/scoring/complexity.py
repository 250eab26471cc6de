"""Complexity of an input, measured without a model, and the usual value of a score for inputs of a complexity.

Most of the free energy of an image pays for its texture (Serra et al. 2020, arXiv 1909.11480).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.data import Floats, ImageData, VectorData

#: A trend is constant beyond this distance from the mean of a measure, in standard deviations.
MAX_DEVIATION = 4.0
#: Ridge penalty of the trend, in inputs that would ask for coefficients of 0: keeps those of correlated measures small.
RIDGE = 0.1


def measures(data: ImageData | VectorData) -> int:
    """Number of columns that `complexity` returns."""
    return 6 if isinstance(data, ImageData) else 0


def complexity(x: Float[Tensor, "batch *data"], data: ImageData | VectorData) -> Float[Tensor, "batch measures"]:
    """Measures of the texture of images; vectors have none. Images are first rounded to bytes.

    The first four of six columns sum log2(1 + |difference| in bytes) over horizontal, vertical and diagonal neighbours
    and over the curvature. The others are the number of pixels unlike the next one right or below, and the sum of x.
    """
    if not isinstance(data, ImageData):
        return x.new_zeros(len(x), 0)
    v = (255 * x).round()
    across, down = v[..., :, 1:] - v[..., :, :-1], v[..., 1:, :] - v[..., :-1, :]
    falling, rising = v[..., 1:, 1:] - v[..., :-1, :-1], v[..., 1:, :-1] - v[..., :-1, 1:]
    curved = across[..., 1:-1, 1:] - across[..., 1:-1, :-1] + down[..., 1:, 1:-1] - down[..., :-1, 1:-1]
    busy = (across[..., :-1, :] != 0) | (down[..., :, :-1] != 0)
    columns = _bits(across), _bits(down), _bits(falling) + _bits(rising), _bits(curved)
    return torch.stack([*columns, busy.flatten(1).sum(1).to(x), v.flatten(1).sum(1) / 255], dim=1)


def _bits(difference: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch"]:
    bits: Tensor = torch.log2(1 + difference.abs()).flatten(1).sum(1)
    return bits


@dataclass(frozen=True)
class Trend:
    """Usual values of scores by complexity: a quadratic function; without measures, the mean of the scores."""

    shift: Floats  # of each measure
    unit: Floats  # of each measure, its standard deviation
    weights: Floats  # quadratic terms x scores

    @classmethod
    def fit(cls, complexity: Floats, scores: Floats) -> "Trend":
        """Fit by least squares to n x measures and n x scores."""
        shift, unit = complexity.mean(axis=0), np.maximum(complexity.std(axis=0), 1e-9)
        terms = _terms((complexity - shift) / unit)
        weights = np.linalg.solve(terms.T @ terms + RIDGE * np.eye(terms.shape[1]), terms.T @ scores)
        return cls(shift, unit, weights.astype(np.float64))

    def __call__(self, complexity: Floats) -> Floats:
        """Usual values of the scores, n x scores."""
        usual: Floats = _terms((complexity - self.shift) / self.unit) @ self.weights
        return usual


def quadratic_terms(count: int) -> int:
    """Number of terms of a quadratic function of `count` measures."""
    return 1 + count + count * (count + 1) // 2


def _terms(measured: Floats) -> Floats:
    """1, each measure, and each product of two measures: n x terms."""
    clipped = np.clip(measured, -MAX_DEVIATION, MAX_DEVIATION)
    i, j = np.triu_indices(clipped.shape[1])
    return np.concatenate([np.ones((len(clipped), 1)), clipped, clipped[:, i] * clipped[:, j]], axis=1)
