"""Samples of a model beside the training images nearest to them, so that copying would show."""

from dataclasses import dataclass

import numpy as np
import torch

from model.data import Array, Floats
from model.scoring.batches import in_batches
from model.vae import VAE, to_tensor

#: Number of samples, and of held-out images, whose distances are measured; of those, how many samples are shown.
COUNT, SHOWN = 256, 16
SEED = 0


@dataclass(frozen=True)
class Nearest:
    """Samples and their nearest training images. Distances are root mean squares over pixels in [0, 1].

    A decoded mean is smoother than an image and so nearer to others. So the distances of samples are to be compared
    with those of reconstructions of held-out images, which are decoded means too.
    """

    samples: Array  # n x data, decoded means
    images: Array  # n x data, the nearest training image of each
    distances: Floats  # n, of all samples that were drawn
    held_out_distances: Floats  # of reconstructions of held-out images to their nearest training images


@torch.inference_mode()
def find(vae: VAE, training: Array, held_out: Array) -> Nearest:
    """Find the training images nearest to samples of the prior, and to reconstructions of held-out images.

    Args:
        training, held_out: images as a dataset gives them.
    """
    device = str(vae.device)
    samples = vae.decode(vae.sample_prior(COUNT, SEED)).mean.cpu().numpy()
    parts = [vae.decode(vae.encode(to_tensor(batch, device)).mean).mean for batch in in_batches(held_out[:COUNT])]
    reconstructions = torch.cat(parts).cpu().numpy()
    distances, indices = _nearest(np.concatenate([samples, reconstructions]), training)
    return Nearest(
        samples=samples[:SHOWN],
        images=to_tensor(training[indices[:SHOWN]]).numpy(),
        distances=distances[:COUNT],
        held_out_distances=distances[COUNT:],
    )


def _nearest(points: Array, training: Array) -> tuple[Floats, Array]:
    """Distance to the nearest training image, and its index, for each of some images."""
    flat = torch.from_numpy(points).flatten(1)
    best, indices = torch.full((len(flat),), torch.inf), torch.zeros(len(flat), dtype=torch.int64)
    first = 0
    for batch in in_batches(training):
        distance = torch.cdist(flat, to_tensor(batch).flatten(1))
        least, index = distance.min(dim=1)
        indices = torch.where(least < best, index + first, indices)
        best = torch.minimum(least, best)
        first += len(batch)
    return best.double().numpy() / np.sqrt(flat.shape[1]), indices.numpy()
