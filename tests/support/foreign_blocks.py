"""Multi-branch blocks as other projects write them: no RepBlocks, nothing that tells how they fuse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACBlock", "DiverseBranchBlock", "MobileOneBlock", "RepVGGBlock"]


class RepVGGBlock(nn.Module):
    """3x3, 1x1 and, where the shape is kept, identity, each with its batch normalisation (Ding et al., 2021).

    Args:
        activation: what follows the sum, or None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.dense = _conv_bn(in_channels, out_channels, 3, stride, 1, groups)
        self.pointwise = _conv_bn(in_channels, out_channels, 1, stride, 0, groups)
        keeps_shape = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(in_channels) if keeps_shape else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(x) + self.pointwise(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return y if self.activation is None else self.activation(y)


class ACBlock(nn.Module):
    """3x3, 1x3 and 3x1, each with its batch normalisation (Ding et al., 2019)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.square = _conv_bn(in_channels, out_channels, 3, stride, 1)
        self.row = _conv_bn(in_channels, out_channels, (1, 3), stride, (0, 1))
        self.column = _conv_bn(in_channels, out_channels, (3, 1), stride, (1, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.row(x) + self.column(x)


class DiverseBranchBlock(nn.Module):
    """3x3, 1x1, 1x1 before 3x3 and 1x1 before an average, with batch normalisations (Ding et al., 2021).

    Args:
        exact_border: pad behind the inner batch normalisations with their image of zero, which makes the block one
            convolution; else with zeros, which does not.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, exact_border: bool = True) -> None:
        super().__init__()
        self.dense = _conv_bn(in_channels, out_channels, 3, stride, 1)
        self.pointwise = _conv_bn(in_channels, out_channels, 1, stride)
        self.squeeze = _conv_bn(in_channels, in_channels, 1)
        self.expand = _conv_bn(in_channels, out_channels, 3, stride)
        self.project = _conv_bn(in_channels, out_channels, 1)
        self.average = nn.Sequential(nn.AvgPool2d(3, stride), nn.BatchNorm2d(out_channels))
        self.exact_border = exact_border

    def forward(self, x: Tensor) -> Tensor:
        chain = self.expand(self._padded(self.squeeze, x))
        average = self.average(self._padded(self.project, x))
        return self.dense(x) + self.pointwise(x) + chain + average

    def _padded(self, conv_bn: nn.Module, x: Tensor) -> Tensor:
        y = conv_bn(x)
        if not self.exact_border:
            return F.pad(y, (1, 1, 1, 1))
        zero = conv_bn(torch.zeros_like(x[:1, :, :1, :1]))
        return F.pad(y - zero, (1, 1, 1, 1)) + zero


class MobileOneBlock(nn.Module):
    """`branches` parallel 3x3, one 1x1 and, where the stride is 1, identity, all depthwise (Vasu et al., 2023)."""

    def __init__(self, channels: int, branches: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.dense = nn.ModuleList(_conv_bn(channels, channels, 3, stride, 1, channels) for _ in range(branches))
        self.scale = _conv_bn(channels, channels, 1, stride, 0, channels)
        self.skip = nn.BatchNorm2d(channels) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([branch(x) for branch in self.dense]).sum(0) + self.scale(x)
        return y if self.skip is None else y + self.skip(x)


def _conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
