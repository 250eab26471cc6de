"""Random variations of training images, for which a user says that they leave an image as probable as it was."""

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch channels h w"]


def mirrored(images: Images, draws: torch.Generator) -> Images:
    """Mirror each image left to right with probability 1/2."""
    chosen = torch.rand(len(images), generator=draws, device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def shifted(images: Images, most: int, draws: torch.Generator) -> Images:
    """Move each image by up to `most` pixels across and down; pixels of its edge fill what it leaves."""
    count, _, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1), generator=draws, device=images.device)
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    picks = torch.arange(count, device=images.device)[:, None, None]
    return images[picks, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
