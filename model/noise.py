"""Noise from a seed alone: row i is the i-th draw of the seed's stream, however many rows are drawn.

numpy's generators fill arrays one number after the other, so a shorter draw is a prefix of a longer one; torch's do
not promise that (its normal draws change with the length). Streams of one seed are independent of each other.
"""

import numpy as np
from numpy.typing import NDArray

LATENT = 0  # standard normal draws of z
OBSERVATION = 1  # uniform draws behind x ~ P(x|z)
SHUFFLE = 2  # the order of training samples, and the choice of those held out
REFINE = 3  # standard normal draws of z that a refinement descends on
JUDGE = 4  # those that judge what it found
CALIBRATE = 5  # the order of samples that calibrate scores
OUTLIERS = 6  # inputs that no data holds, against which scores are tried


def generator(*key: int) -> np.random.Generator:
    """A generator for a key such as (seed, stream) or (seed, stream, epoch); equal keys give equal streams."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key[0], spawn_key=key[1:])))


def normal(seed: int, shape: tuple[int, ...], stream: int = LATENT) -> NDArray[np.float32]:
    """Standard normal numbers, float32, for latents."""
    return generator(seed, stream).standard_normal(shape, dtype=np.float32)


def uniform(seed: int, rows: range, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), float32, for the observations of these rows: each row has a stream of its own."""
    drawn = np.empty((len(rows), *shape), np.float32)
    for index, row in enumerate(rows):
        generator(seed, OBSERVATION, row).random(out=drawn[index], dtype=np.float32)
    return drawn
