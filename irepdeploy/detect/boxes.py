"""Overlaps of boxes, and their encoding relative to anchors. Boxes (..., 4) are left, top, right, bottom in pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["areas", "clipped", "decoded", "encoded", "ious", "overlapping"]

# Limit a side to 1000 / 16 times that of its anchor, because the exponential of a large delta would overflow.
_LARGEST = math.log(1000 / 16)
_LEAST = 1e-6


def areas(boxes: Tensor) -> Tensor:
    """Return the areas (...) of boxes (..., 4); 0 if a side is negative."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def ious(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union (..., n, m) of boxes (..., n, 4) and (..., m, 4)."""
    inside, union = _parts(first, second)
    return inside / union.clamp(min=_LEAST)


def overlapping(first: Tensor, second: Tensor, threshold: float) -> Tensor:
    """Return whether the intersection over union (..., n, m) of each pair exceeds a threshold, without dividing."""
    inside, union = _parts(first, second)
    return inside > threshold * union


def encoded(anchors: Tensor, boxes: Tensor, deviations: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """Return deltas (..., 4) from anchors to boxes (Girshick et al. 2014): shifts, then logarithms of scales.

    Args:
        anchors: Anchors (..., 4).
        boxes: Boxes (..., 4).
        deviations: Divisor of each delta.
    """
    (x, y, width, height), (u, v, wide, tall) = _centred(anchors), _centred(boxes)
    width, height = width.clamp(min=_LEAST), height.clamp(min=_LEAST)
    logarithms = ((wide / width).clamp(min=_LEAST).log(), (tall / height).clamp(min=_LEAST).log())
    deltas = torch.stack([(u - x) / width, (v - y) / height, *logarithms], -1)
    return deltas / deltas.new_tensor(deviations)


def decoded(anchors: Tensor, deltas: Tensor, deviations: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """Return the boxes (..., 4) for deltas (..., 4) relative to anchors (..., 4): the inverse of `encoded`."""
    x, y, width, height = _centred(anchors)
    u, v, wide, tall = (deltas[..., index] * deviations[index] for index in range(4))
    x, y = x + u * width, y + v * height
    half_width, half_height = (
        side * grown.clamp(-_LARGEST, _LARGEST).exp() / 2 for side, grown in ((width, wide), (height, tall))
    )
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) clipped to an image of `size` (height, width)."""
    height, width = size
    across, down = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], -1)


def _parts(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersections and unions of all pairs."""
    one, other = first[..., :, None, :], second[..., None, :, :]
    corners = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    sides = (corners[1] - corners[0]).clamp(min=0)
    inside = sides[..., 0] * sides[..., 1]
    return inside, areas(one) + areas(other) - inside


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, top, right, bottom = (boxes[..., index] for index in range(4))
    width, height = right - left, bottom - top
    return left + width / 2, top + height / 2, width, height
