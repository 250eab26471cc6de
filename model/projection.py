"""Maps of latents on a plane: a projection by principal components, and an embedding that keeps neighbours together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: Effective number of neighbours that the embedding keeps close (van der Maaten & Hinton 2008), where there are enough.
PERPLEXITY = 30.0
#: Fewest latents that are embedded.
MIN_EMBEDDED = 10
#: Number of nearest latents that place another one in an embedding.
NEAREST = 5
#: Distances between latents that are held in memory at a time.
MAX_DISTANCES = 1 << 22


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


def embed(latents: Array) -> Array | None:
    """Coordinates on a plane, n x 2, by t-SNE: near latents are near there, and longer distances mean nothing.

    None for fewer than `MIN_EMBEDDED` latents, or where scikit-learn is not installed.
    """
    if len(latents) < MIN_EMBEDDED:
        return None
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    perplexity = min(PERPLEXITY, (len(latents) - 1) / 3)
    plane = PCAProjection.fit(latents)(latents)
    # From small coordinates, as always, and none equal: equal ones would stay so, as would a single latent dimension.
    start = 1e-4 * plane / max(plane.std(), 1e-30) + 1e-6 * np.random.default_rng(0).normal(size=plane.shape)
    coordinates: Array = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(latents)
    return coordinates


def place(latents: Array, known: Array, coordinates: Array) -> Array:
    """Coordinates of latents in the embedding of others: the mean of those of the nearest, near ones counting more.

    Args:
        latents: n x latent.
        known: m x latent, the latents that were embedded; one of them is placed where it is.
        coordinates: m x 2, of these.

    Returns:
        n x 2.
    """
    nearest, wide = min(NEAREST, len(known)), known.astype(np.float64)
    norms, step = np.square(wide).sum(axis=1), max(1, MAX_DISTANCES // len(known))
    placed = []
    for start in range(0, len(latents), step):
        part = latents[start : start + step].astype(np.float64)
        squares = np.square(part).sum(axis=1, keepdims=True) - 2 * part @ wide.T + norms
        picks = np.argpartition(squares, nearest - 1, axis=1)[:, :nearest]
        # The square of a distance of 0 is a rounding error, of either sign.
        weights = 1 / np.maximum(np.take_along_axis(squares, picks, axis=1), 1e-9)
        placed.append((weights[:, :, None] * coordinates[picks]).sum(axis=1) / weights.sum(axis=1, keepdims=True))
    return np.concatenate(placed)
