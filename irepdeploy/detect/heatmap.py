"""Heatmaps of object centres, as CenterNet is trained on them (Zhou et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal_loss", "heatmap", "radii"]

# How far a box may be off and still overlap its object by this much: MMDetection's.
_OVERLAP = 0.3
# Of float32, relative to the peak of 1.
_EPSILON = torch.finfo(torch.float32).eps


def radii(sizes: Tensor, overlap: float = _OVERLAP) -> Tensor:
    """Return the radius (n,) by which both corners of a box may move while the boxes overlap by `overlap`.

    Args:
        sizes: (n, 2) width and height, in cells.
        overlap: Least intersection over union.
    """
    width, height = sizes.double().unbind(1)
    total, area = width + height, width * height
    # One corner inside and one outside, both inside, both outside; of each quadratic equation the smaller root.
    shifted = (total - (total**2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * (1 - overlap) * area).sqrt()) / 8
    outside = (-2 * overlap * total + (4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area).sqrt()) / (
        8 * overlap
    )
    return torch.minimum(shifted, torch.minimum(inside, outside)).clamp(min=0).floor()


def heatmap(centres: Tensor, radius: Tensor, labels: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """Return (classes, H, W): a Gaussian at each centre, 1 at its peak, the maximum where several meet.

    Args:
        centres: (n, 2) int64 x and y of cells.
        radius: (n,) of the square that a Gaussian fills; its deviation is (2 radius + 1) / 6.
        labels: (n,) classes.
        classes: Number of classes.
        size: (height, width) in cells.
    """
    height, width = size
    rows, columns = (torch.arange(side, device=centres.device) for side in (height, width))
    across = (columns - centres[:, :1])[:, None, :]
    down = (rows - centres[:, 1:])[:, :, None]
    reach = radius[:, None, None]
    deviation = (2 * reach + 1) / 6
    drops = torch.exp(-(across**2 + down**2) / (2 * deviation**2)).float()
    inside = (across.abs() <= reach) & (down.abs() <= reach) & (drops >= _EPSILON)
    found = drops.new_zeros(classes, height, width)
    index = labels[:, None, None].expand(-1, height, width)
    return found.scatter_reduce_(0, index, drops * inside, "amax")


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the sum of the focal loss with alpha 2 and gamma 4 of a heatmap; 1 in `wanted` are the centres."""
    shares = logits.sigmoid()
    centres = wanted == 1
    # Logarithms of sigmoids of logits, which stay finite.
    found = -F.logsigmoid(logits) * (1 - shares) ** 2 * centres
    missed = -F.logsigmoid(-logits) * shares**2 * (1 - wanted) ** 4
    return (found + missed).sum()
