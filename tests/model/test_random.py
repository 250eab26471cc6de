"""Random streams: reproducibility, prefixes and independence."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from model import random


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 16, 100])
@pytest.mark.parametrize("width", [1, 3, 64])
def test_a_shorter_draw_is_a_prefix_of_a_longer_one(rows: int, width: int) -> None:
    assert np.array_equal(random.normal(5, (rows, width)), random.normal(5, (133, width))[:rows])
    assert np.array_equal(random.uniform(5, range(rows), (width, 2)), random.uniform(5, range(133), (width, 2))[:rows])


def test_rows_of_observations_can_be_drawn_in_any_slices() -> None:
    whole = random.uniform(1, range(20), (3, 4))
    assert np.array_equal(np.concatenate([random.uniform(1, part, (3, 4)) for part in (range(7), range(7, 20))]), whole)


def test_equal_keys_give_equal_streams() -> None:
    assert np.array_equal(random.generator(1, 2, 3).random(9), random.generator(1, 2, 3).random(9))
    assert np.array_equal(random.normal(8, (4, 4)), random.normal(8, (4, 4)))


def _distinct(keys: Sequence[tuple[int, ...]]) -> int:
    return len({tuple(random.generator(*key).random(4).tolist()) for key in keys})


def test_streams_and_seeds_and_epochs_differ() -> None:
    keys = [(seed, stream, epoch) for seed in (0, 1, 2, 1 << 62) for stream in range(5) for epoch in range(1, 5)]
    assert _distinct(keys) == len(keys)


def test_keys_that_differ_in_trailing_zeros_have_different_streams() -> None:
    words = (0, 1, 7)
    keys = [key for length in (1, 2, 3, 4) for key in itertools.product(words, repeat=length)]
    assert _distinct(keys) == len(keys)


def test_rows_of_observations_differ() -> None:
    assert len(np.unique(random.uniform(0, range(50), (2,)), axis=0)) == 50


def test_latents_are_standard_normal() -> None:
    drawn = random.normal(3, (40_000,))
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 4 / 200
    assert abs(drawn.var() - 1) < 4 * np.sqrt(2) / 200


def test_observations_are_uniform_on_the_half_open_unit_interval() -> None:
    drawn = random.uniform(3, range(40), (1000,))
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, bins=10, range=(0, 1))[0]
    # Chi-squared of 9 degrees of freedom: beyond 30 once in 2,000 seeds.
    assert np.square(counts - 4000).sum() / 4000 < 30
