"""Anchors: boxes of a few shapes around every cell of every map, from which a detector starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Anchors"]


class Anchors:
    """Anchors of maps of several strides.

    Args:
        strides: Pixels of the image that a cell of each map stands for.
        scale: Side of the square anchor, in cells.
        ratios: Height / width of each anchor of a cell; all have the area of the square.
        rounded: Round corners around the centre to whole pixels, as torchvision does and MMDetection does not.
    """

    def __init__(
        self,
        strides: Sequence[int],
        *,
        scale: float = 8,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        rounded: bool = False,
    ) -> None:
        self.strides, self.count = tuple(strides), len(ratios)
        sides = [
            [(scale * stride / math.sqrt(ratio), scale * stride * math.sqrt(ratio)) for ratio in ratios]
            for stride in strides
        ]
        halves = [[(-width / 2, -height / 2, width / 2, height / 2) for width, height in level] for level in sides]
        # Halves to even, as torch rounds.
        self._shapes = [[tuple(map(round, shape)) if rounded else shape for shape in level] for level in halves]

    def of(self, level: int, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return (height * width * count, 4): the anchors of a map of `size`, row by row, those of a cell together.

        Anchors lie around the corner of their cell, at (x * stride, y * stride).
        """
        stride = self.strides[level]
        rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) * stride for side in size)
        down, across = (each.reshape(-1) for each in torch.meshgrid(rows, columns, indexing="ij"))
        corners = torch.stack([across, down, across, down], 1)
        shapes = torch.tensor(self._shapes[level], dtype=like.dtype, device=like.device)
        return (corners[:, None] + shapes).reshape(-1, 4)
