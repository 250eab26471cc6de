"""Latents as points of a plane: principal component analysis."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class PCAProjection:
    """The plane along which some latents vary most: coordinates of z are (z - origin) @ axes.T."""

    origin: Array  # the mean of these latents
    axes: Array  # 2 x latent, orthonormal; zero where the latent has no such dimension
    explained: Array  # the share of their variance that each axis holds

    @classmethod
    def fit(cls, latents: Array) -> "PCAProjection":
        """To n x latent numbers. The largest component of each axis is positive, so that no chance decides its sign."""
        origin = latents.mean(axis=0)
        _, spread, axes = np.linalg.svd(latents - origin, full_matrices=False)
        share = np.square(spread) / max(np.square(spread).sum(), 1e-30)
        axes, share = axes[:2], share[:2]
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
        missing = 2 - len(axes)
        return cls(origin, np.pad(axes * np.sign(largest), ((0, missing), (0, 0))), np.pad(share, (0, missing)))

    def __call__(self, latents: Array) -> Array:
        """Coordinates of n latents, n x 2."""
        coordinates: Array = (latents - self.origin) @ self.axes.T
        return coordinates
