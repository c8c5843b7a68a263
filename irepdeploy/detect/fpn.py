"""Feature pyramid network (Lin et al. 2017): maps of equal width, each combined with the coarser ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FPN"]


class FPN(nn.Module):
    """Feature pyramid: 1x1 convolutions, sums from coarse to fine, 3x3 convolutions; no normalization or activation.

    Parameters have the same names as in MMDetection.

    Args:
        channels: Number of channels of each map, from fine to coarse.
        width: Number of channels of the results.
        extra: Number of coarser maps to add, each with every second cell of the previous map.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, extra: int = 1) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Plain(each, width, 1) for each in channels)
        self.fpn_convs = nn.ModuleList(_Plain(width, width, 3) for _ in channels)
        self.extra = extra

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (N, width, h, w) for each of `maps` (N, channels, h, w), followed by the extra maps."""
        sums = [lateral(each) for lateral, each in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            finer = sums[level - 1]
            sums[level - 1] = finer + F.interpolate(sums[level], size=finer.shape[2:], mode="nearest")
        found = [conv(each) for conv, each in zip(self.fpn_convs, sums, strict=True)]
        for _ in range(self.extra):
            found.append(F.max_pool2d(found[-1], 1, 2))
        return found


class _Plain(nn.Module):
    """A convolution whose parameters have the same names as in MMDetection."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
