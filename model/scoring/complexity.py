"""How complex an input is, whatever a model makes of it, and what a score usually is for inputs that are so.

Most of the free energy of a picture is the price of its texture: a plain shoe upside down costs less than a checked
shirt. Held against others of the same complexity, it stands out (Serra et al. 2020, arXiv 1909.11480).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from model.config import ImageData, VectorData

Floats = NDArray[np.float64]
#: Further from the mean of a measure than this, in standard deviations, a trend goes on as it is there.
REACH = 4.0
#: Keeps the coefficients of measures that always go together small; as if so many inputs had said that they are 0.
RIDGE = 0.1


def measures(data: ImageData | VectorData) -> int:
    """How many numbers `complexity` gives."""
    return 6 if isinstance(data, ImageData) else 0


def complexity(x: Float[Tensor, "batch *data"], data: ImageData | VectorData) -> Float[Tensor, "batch measures"]:
    """What a simple look at a picture tells of its texture; nothing of a vector.

    Args:
        x: as the model takes it; pictures are rounded to bytes first, so that noise which no byte feels counts for
            nothing.

    Returns: per picture, the bits (log2(1 + |difference| in bytes), summed) of the differences between pixels beside,
    below, and diagonal to each other and of the curvature; how many pixels differ from the next one to the right or
    below; the sum of x.
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
    """What scores usually are for inputs of a complexity: a quadratic function, fitted by least squares.

    Without measures of complexity it is the mean.
    """

    shift: Floats  # of each measure
    unit: Floats
    weights: Floats  # terms x scores

    @classmethod
    def fit(cls, complexity: Floats, scores: Floats) -> "Trend":
        """Fit to n inputs.

        Args:
            complexity: n x measures.
            scores: n x scores, of any units.
        """
        shift, unit = complexity.mean(axis=0), np.maximum(complexity.std(axis=0), 1e-9)
        terms = _terms((complexity - shift) / unit)
        weights = np.linalg.solve(terms.T @ terms + RIDGE * np.eye(terms.shape[1]), terms.T @ scores)
        return cls(shift, unit, weights.astype(np.float64))

    def __call__(self, complexity: Floats) -> Floats:
        """What the scores usually are, n x scores."""
        usual: Floats = _terms((complexity - self.shift) / self.unit) @ self.weights
        return usual


def quadratic_terms(count: int) -> int:
    """How many terms a quadratic function of so many measures has."""
    return 1 + count + count * (count + 1) // 2


def _terms(measured: Floats) -> Floats:
    """1, each measure, and each product of two: n x terms."""
    near = np.clip(measured, -REACH, REACH)
    i, j = np.triu_indices(near.shape[1])
    return np.concatenate([np.ones((len(near), 1)), near, near[:, i] * near[:, j]], axis=1)
