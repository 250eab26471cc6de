"""Augmentation: what is done to an image, and how often."""

import itertools

import numpy as np
import torch

from model.training.augmentation import mirrored, shifted

IMAGES = torch.rand(200, 3, 9, 10, generator=torch.Generator().manual_seed(3))


def test_half_of_the_images_are_mirrored() -> None:
    result = mirrored(IMAGES, torch.Generator().manual_seed(0))
    same, turned = ((result == other).flatten(1).all(1).numpy() for other in (IMAGES, IMAGES.flip(3)))
    assert (same ^ turned).all()
    assert 60 < turned.sum() < 140


def test_images_are_moved_by_up_to_so_many_pixels_and_keep_their_edges() -> None:
    result = shifted(IMAGES, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(IMAGES, (2, 2, 2, 2), mode="replicate")
    shifts = itertools.product(range(5), range(5))
    windows = {(y, x): padded[:, :, y : y + 9, x : x + 10] for y, x in shifts}
    found = {at: (result == window).flatten(1).all(1).numpy() for at, window in windows.items()}
    assert (np.stack(list(found.values())).sum(axis=0) == 1).all()
    assert all(matches.any() for matches in found.values())
