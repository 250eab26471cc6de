"""Random numbers from a seed alone.

numpy's generators fill arrays in order, so a shorter draw is a prefix of a longer one; torch does not promise that. The
streams of one seed are independent of each other.
"""

import numpy as np
from numpy.typing import NDArray

LATENT = 0  # standard normal draws of z
OBSERVATION = 1  # uniform draws behind x ~ P(x|z)
SHUFFLE = 2  # order of training samples, and choice of the held-out ones
REFINE = 3  # standard normal draws of z that a refinement descends on
VALIDATE = 4  # standard normal draws of z that validate a refinement
CALIBRATE = 5  # order of the samples that calibrate scores
OUTLIERS = 6  # synthetic outliers for testing scores
COUPLINGS = 7  # halves of the dimensions in a flow
LABELS = 8  # uniform draws behind the labels of samples


def generator(*key: int) -> np.random.Generator:
    """A generator for a key such as (seed, stream) or (seed, stream, epoch). Equal keys give equal streams."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key[0], spawn_key=key[1:])))


def normal(seed: int, shape: tuple[int, ...], stream: int = LATENT) -> NDArray[np.float32]:
    """Standard normal numbers, float32.

    >>> np.array_equal(normal(0, (2, 3)), normal(0, (5, 3))[:2])
    True
    """
    return generator(seed, stream).standard_normal(shape, dtype=np.float32)


def uniform(seed: int, rows: range, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), len(rows) x shape, float32. Each row has a stream of its own."""
    draws = np.empty((len(rows), *shape), np.float32)
    for index, row in enumerate(rows):
        generator(seed, OBSERVATION, row).random(out=draws[index], dtype=np.float32)
    return draws
