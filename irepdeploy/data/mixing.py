"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), which mix the images and labels of a batch in pairs.

The partner of an image is the image half a batch later, in a randomly ordered batch. Thus each of R processes, which
has every R-th image of a batch, also has their partners if 2 R divides the batch size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.data.boxes import Random, inside

__all__ = ["draw_mixing", "mixed"]


def draw_mixing(
    random: Random, count: int, size: tuple[int, int], mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Draw the share that each image keeps of itself, and the boxes of CutMix.

    Args:
        random: Generator.
        count: Number of images N.
        size: Height and width of the images.
        mixup: Alpha of the beta distribution of mixup; 0 disables it.
        cutmix: Alpha of the beta distribution of CutMix; 0 disables it. If both are positive, each image is mixed in
            one of the two ways, with equal probability.

    Returns:
        Shares (N,) float32, and boxes (N, 4) filled by the partner, which are empty for mixup.
    """
    cut = random.random(count) < (1.0 if not mixup else 0.5 if cutmix else 0.0)
    shares = np.where(cut, random.beta(cutmix or 1, cutmix or 1, count), random.beta(mixup or 1, mixup or 1, count))
    edges = []
    for side in size:
        half = np.where(cut, (side * np.sqrt(1 - shares)).astype(np.int64), 0) // 2
        centre = random.integers(0, side, count)
        start, end = (centre - half).clip(0), (centre + half).clip(max=side)
        edges.append((start, end - start))
    (top, tall), (left, wide) = edges
    # The part of a box outside the image does not count.
    shares = np.where(cut, 1 - tall * wide / (size[0] * size[1]), shares)
    return torch.from_numpy(shares).float(), torch.from_numpy(np.stack([top, left, tall, wide], 1))


def mixed(images: Tensor, labels: Tensor, shares: Tensor, boxes: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix images (N, C, H, W) with those N // 2 later, and labels (N,) to class shares (N, classes)."""
    pasted = inside(boxes, (images.shape[2], images.shape[3]))
    # With CutMix, an image is unchanged outside its box.
    kept = torch.where(pasted.any(3, keepdim=True).any(2, keepdim=True), 1.0, shares.view(-1, 1, 1, 1)).to(images.dtype)
    half = len(images) // 2
    others = images.roll(-half, 0)
    found = torch.where(pasted, others, torch.lerp(others, images, kept))
    targets = F.one_hot(labels.long(), classes).float()
    return found, torch.lerp(targets.roll(-half, 0), targets, shares.view(-1, 1))
