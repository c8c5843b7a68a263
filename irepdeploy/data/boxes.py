"""Random rectangles in images, and their masks. A box is (top, left, height, width) in pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cropped", "inside", "random_boxes"]

_TRIES = 10

Random = np.random.Generator


def random_boxes(
    random: Random, count: int, size: tuple[int, int], areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Draw boxes that cover a random share of an image with a random aspect ratio (Szegedy et al. 2015).

    Each box is the first of ten tries that fits.

    Args:
        random: Generator.
        count: Number of boxes N.
        size: Height and width of the image.
        areas: Range of the covered share, drawn uniformly.
        aspects: Range of the aspect ratio (width / height), drawn log-uniformly.

    Returns:
        Boxes (N, 4) int64, and whether a box was found (N,).
    """
    height, width = size
    pixels = random.uniform(*areas, (count, _TRIES)) * height * width
    ratios = np.exp(random.uniform(math.log(aspects[0]), math.log(aspects[1]), (count, _TRIES)))
    tall, wide = np.rint(np.sqrt(pixels / ratios)), np.rint(np.sqrt(pixels * ratios))
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = np.arange(count), fits.argmax(1)
    found = np.asarray(fits.any(1))
    sides = [np.where(found, each[first], 0).astype(np.int64) for each in (tall, wide)]
    corners = [
        (random.random(count) * (whole - side + 1)).astype(np.int64) for whole, side in zip(size, sides, strict=True)
    ]
    return np.stack([*corners, *sides], 1), found


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels lie in the boxes (N, 4), as a bool mask (N, 1, H, W)."""
    masks = []
    for axis, side in enumerate(size):
        offset = torch.arange(side, device=boxes.device) - boxes[:, axis : axis + 1]
        masks.append((offset >= 0) & (offset < boxes[:, axis + 2 : axis + 3]))
    return (masks[0][:, :, None] & masks[1][:, None, :])[:, None]


def cropped(images: Tensor, boxes: Tensor) -> Tensor:
    """Crop images (N, C, H, W) to boxes (N, 4) and resize them bilinearly to the original size, keeping the dtype."""
    sides = torch.tensor(images.shape[2:], device=boxes.device)
    share = boxes[:, 2:] / sides
    centre = (2 * boxes[:, :2] + boxes[:, 2:]) / sides - 1
    zero = torch.zeros_like(share[:, 0])
    rows = torch.stack([share[:, 1], zero, centre[:, 1], zero, share[:, 0], centre[:, 0]], 1).view(-1, 2, 3)
    values = images.float() if images.dtype == torch.uint8 else images
    grid = F.affine_grid(rows.to(values.dtype), list(images.shape), align_corners=False)
    found = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else found
