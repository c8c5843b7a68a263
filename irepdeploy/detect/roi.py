"""RoIAlign (He et al. 2017): bilinear sampling of maps inside boxes on a grid of fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.detect.boxes import areas
from irepdeploy.detect.torchvision_operators import torchvision_operators

__all__ = ["RoIAlign"]


class RoIAlign(nn.Module):
    """A module that pools each box from the map that suits its size.

    Args:
        strides: Stride of each map in pixels of the image per cell, from fine to coarse.
        side: Number of bins in each direction.
        samples: Number of points in each direction of a bin, which are averaged. 0 for as many as the bin has cells,
            rounded up, as in MMDetection's training; this is more expensive.
        finest: Boxes below twice this side in pixels are pooled from the finest map; each doubling of the side selects
            the next coarser map.
        aligned: Assume the centres of cells at half pixels; torchvision's detectors do not.
    """

    # A single node in the graphs that show which convolutions can have branches.
    traced_whole = True

    def __init__(
        self, strides: Sequence[int], *, side: int = 7, samples: int = 2, finest: float = 56, aligned: bool = True
    ) -> None:
        super().__init__()
        self.strides, self.side, self.samples = tuple(strides), side, samples
        self.finest, self.aligned = finest, aligned

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the index (...) int64 of the map for each box (..., 4)."""
        level = torch.log2(areas(boxes).sqrt() / self.finest + 1e-6).floor()
        return level.clamp(0, len(self.strides) - 1).long()

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Pool boxes (N, R, 4) in pixels of the image from maps (N, C, h, w), and return (N, R, C, side, side)."""
        maps, level = list(maps)[: len(self.strides)], self.levels(boxes)
        operators = torchvision_operators(maps[0])
        if operators is not None:
            return self._by_torchvision(operators, maps, boxes, level)
        if self.samples and self.training:
            return self._gathered(maps, boxes, level)
        # Pool every box from every map, so that shapes do not depend on values.
        pooled = torch.zeros((), dtype=maps[0].dtype, device=maps[0].device)
        for index, each in enumerate(maps):
            here = (level == index).to(each.dtype)[..., None, None, None]
            pooled = pooled + here * self._pooled(each, boxes, self.strides[index])
        return pooled

    def _pooled(self, x: Tensor, boxes: Tensor, stride: int) -> Tensor:
        count, channels, height, width = x.shape
        start, step = self._bins(boxes / stride)
        if not self.samples:
            weights = [self._hats(start[..., axis], step[..., axis], side) for axis, side in ((1, height), (0, width))]
            return torch.einsum("nrph,nchw,nrqw->nrcpq", weights[0], x, weights[1])
        points = self._points(start, step)
        across, down = ((2 * points[..., axis] + 1) / side - 1 for axis, side in ((0, width), (1, height)))
        number = self.side * self.samples
        grid = torch.stack(
            [
                across[:, :, None, :].expand(-1, -1, number, -1),
                down[:, :, :, None].expand(-1, -1, -1, number),
            ],
            -1,
        ).reshape(count, -1, number, 2)
        found = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if not self.aligned:
            found = found * self._inside(points[..., 1], height)[:, None, :, :, None].reshape(count, 1, -1, 1)
            found = found.reshape(count, channels, -1, number, number)
            found = found * self._inside(points[..., 0], width)[:, None, :, None, :]
        found = F.avg_pool2d(found.reshape(-1, 1, number, number), self.samples)
        return found.reshape(count, channels, -1, self.side, self.side).transpose(1, 2)

    def _by_torchvision(self, operators: Any, maps: Sequence[Tensor], boxes: Tensor, level: Tensor) -> Tensor:
        """Pool each box from its map with ``torchvision.ops.roi_align``."""
        count, number = level.shape
        rows = torch.arange(count, device=boxes.device).repeat_interleave(number).to(maps[0])
        given = torch.cat([rows[:, None], boxes.reshape(-1, 4).to(maps[0])], 1)
        found = maps[0].new_zeros(count * number, maps[0].shape[1], self.side, self.side)
        for index, each in enumerate(maps):
            here = (level.flatten() == index).nonzero()[:, 0]
            pooled = operators.roi_align(
                each, given[here], self.side, 1 / self.strides[index], self.samples, self.aligned
            )
            found = found.index_copy(0, here, pooled)
        return found.reshape(count, number, *found.shape[1:])

    def _bins(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the start (..., 2) of the bins of boxes given in cells, x and y, and the sides (..., 2) of a bin."""
        start, end = boxes[..., :2], boxes[..., 2:]
        if self.aligned:
            return start - 0.5, (end - start) / self.side
        return start, (end - start).clamp(min=1) / self.side

    def _points(self, start: Tensor, step: Tensor) -> Tensor:
        """Return the sampled positions (N, R, side * samples, 2), in cells."""
        number = self.side * self.samples
        shares = (torch.arange(number, dtype=start.dtype, device=start.device) + 0.5) / self.samples
        return start[:, :, None, :] + shares[:, None] * step[:, :, None, :]

    def _inside(self, points: Tensor, size: int | Tensor) -> Tensor:
        """Return 1, or 0 for points outside the map, which occur for boxes below one cell if `aligned` is False."""
        return ((points >= -1) & (points <= size)).to(points.dtype)

    def _gathered(self, maps: Sequence[Tensor], boxes: Tensor, level: Tensor) -> Tensor:
        """Pool by one weighted sum over the cells of all maps, whose gradient is several times cheaper on a CPU."""
        count, channels = maps[0].shape[:2]
        cells = torch.cat([each.permute(0, 2, 3, 1).reshape(count, -1, channels) for each in maps], 1)
        sizes = torch.tensor([each.shape[2:] for each in maps], device=boxes.device)
        ends = sizes.prod(1).cumsum(0)
        first = (ends - sizes.prod(1))[level] + torch.arange(count, device=boxes.device)[:, None] * cells.shape[1]
        strides = torch.tensor(self.strides, dtype=boxes.dtype, device=boxes.device)[level]
        points = self._points(*self._bins(boxes / strides[..., None]))
        places, weights = [], []
        for axis in (1, 0):
            last = sizes[level, 1 - axis][..., None] - 1
            point = torch.minimum(points[..., axis].clamp(min=0), last.to(points.dtype))
            counts = 1.0 if self.aligned else self._inside(points[..., axis], last + 1)[..., None]
            low = point.floor()
            share = point - low
            both = torch.stack([low.long(), torch.minimum(low.long() + 1, last)], -1)
            shape = (count, boxes.shape[1], self.side, 2 * self.samples)
            places.append(both.reshape(shape))
            weights.append((torch.stack([1 - share, share], -1) * counts).reshape(shape))
        row, column = places[0][:, :, :, None, :, None], places[1][:, :, None, :, None, :]
        index = first[..., None, None, None, None] + row * sizes[level, 1][..., None, None, None, None] + column
        weight = weights[0][:, :, :, None, :, None] * weights[1][:, :, None, :, None, :] / self.samples**2
        taps = 4 * self.samples**2
        # Not every device supports this sum in half precision.
        table = cells.reshape(-1, channels)
        table = table.float() if table.dtype in (torch.bfloat16, torch.float16) else table
        found = F.embedding_bag(
            index.reshape(-1, taps), table, per_sample_weights=weight.reshape(-1, taps).to(table.dtype), mode="sum"
        )
        return found.reshape(count, -1, self.side, self.side, channels).permute(0, 1, 4, 2, 3)

    def _hats(self, start: Tensor, step: Tensor, size: int) -> Tensor:
        """Return the weight (N, R, side, size) of each row of a map in each bin, with one point per cell of the bin."""
        number = step.ceil()
        grid = torch.arange(size, dtype=start.dtype, device=start.device)
        bins = torch.arange(self.side, dtype=start.dtype, device=start.device)
        left = start[..., None] + bins * step[..., None]
        found = left.new_zeros(*left.shape, size)
        for index in range(int(number.max()) if number.numel() else 0):
            point = left + ((index + 0.5) / number.clamp(min=1) * step)[..., None]
            hat = (1 - (point.clamp(0, size - 1)[..., None] - grid).abs()).clamp(min=0)
            counts = (index < number)[..., None] & (point > -1) & (point < size)
            found = found + hat * counts[..., None]
        return found / number.clamp(min=1)[..., None, None]
