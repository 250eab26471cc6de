"""Projection of latents onto a plane by principal component analysis."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class PCAProjection:
    """The plane along which latents vary most. Coordinates of z are (z - origin) @ axes.T."""

    origin: Array  # mean of the latents
    axes: Array  # 2 x latent, orthonormal; a zero row if the latent has only one dimension
    explained: Array  # fraction of the variance along each axis

    @classmethod
    def fit(cls, latents: Array) -> "PCAProjection":
        """Fit to latents, n x latent. The largest component of each axis is positive, so that signs are fixed."""
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
