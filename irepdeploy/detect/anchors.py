"""Anchors: reference boxes of a few shapes at every cell of every map, relative to which a detector predicts boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Anchors"]


class Anchors:
    """The anchors of maps with several strides.

    Args:
        strides: Stride of each map in pixels of the image per cell.
        scale: Side of the square anchor, in cells.
        ratios: Height / width of each anchor of a cell. All anchors have the area of the square.
        rounded: Round the corners, relative to the centre, to whole pixels, as in torchvision but not in MMDetection.
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
        # Python rounds halves to even, as torch does.
        self._shapes = [[tuple(map(round, shape)) if rounded else shape for shape in level] for level in halves]

    def of(self, level: int, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return the anchors (height * width * count, 4) of a map, in row-major order, with a cell's anchors together.

        Anchors are centred on the corner of their cell, at (x * stride, y * stride).

        Args:
            level: Index of the map.
            size: Height and width of the map.
            like: Tensor whose dtype and device the result gets.
        """
        stride = self.strides[level]
        rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) * stride for side in size)
        down, across = (each.reshape(-1) for each in torch.meshgrid(rows, columns, indexing="ij"))
        corners = torch.stack([across, down, across, down], 1)
        shapes = torch.tensor(self._shapes[level], dtype=like.dtype, device=like.device)
        return (corners[:, None] + shapes).reshape(-1, 4)
