"""Heatmaps of object centres for training CenterNet (Zhou et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal_loss", "heatmap", "radii"]

# Minimum overlap of a shifted box with its object, which determines the radius; the value is MMDetection's.
_OVERLAP = 0.3
# Values below this, relative to the peak of 1, are set to 0.
_EPSILON = torch.finfo(torch.float32).eps


def radii(sizes: Tensor, overlap: float = _OVERLAP) -> Tensor:
    """Return the radius (n,) by which both corners of a box may move while it still overlaps the original.

    Args:
        sizes: Width and height (n, 2) of the boxes, in cells.
        overlap: Minimum intersection over union.
    """
    width, height = sizes.double().unbind(1)
    total, area = width + height, width * height
    # Three cases: one corner inside and one outside, both inside, both outside. Each uses the smaller root.
    shifted = (total - (total**2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * (1 - overlap) * area).sqrt()) / 8
    outside = (-2 * overlap * total + (4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area).sqrt()) / (
        8 * overlap
    )
    return torch.minimum(shifted, torch.minimum(inside, outside)).clamp(min=0).floor()


def heatmap(centres: Tensor, radius: Tensor, labels: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """Return a heatmap (classes, H, W) with a Gaussian of height 1 at each centre; overlaps take the maximum.

    Args:
        centres: Cells (n, 2) int64 of the centres, x and y.
        radius: Radius (n,) of the square that each Gaussian fills. Its standard deviation is (2 radius + 1) / 6.
        labels: Class indices (n,).
        classes: Number of classes.
        size: Height and width of the heatmap in cells.
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
    """Return the summed Gaussian focal loss of a heatmap, with alpha 2 and gamma 4; centres are 1 in `wanted`."""
    shares = logits.sigmoid()
    centres = wanted == 1
    # logsigmoid of the logits stays finite, unlike the logarithm of the sigmoid.
    found = -F.logsigmoid(logits) * (1 - shares) ** 2 * centres
    missed = -F.logsigmoid(-logits) * shares**2 * (1 - wanted) ** 4
    return (found + missed).sum()
