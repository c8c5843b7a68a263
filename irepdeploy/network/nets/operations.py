"""The operations of searched cells (DARTS, Liu et al., 2019).

No convolution has a bias, and there is no normalization between a depthwise convolution and the 1x1 that follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["OPERATIONS", "OPERATION_SETS", "FactorizedReduction", "OperationSet", "operation", "pointwise"]

Builder = Callable[[int, int, bool], nn.Module]


@dataclass(frozen=True)
class OperationSet:
    """How a family of networks builds its operations.

    Attributes:
        affine: Whether the batch normalizations in cells have gamma and beta.
        skip: Whether a skip connection of stride 1 is an identity or a batch normalization.
    """

    affine: bool
    skip: Literal["identity", "normalization"]


OPERATION_SETS = {
    "darts": OperationSet(affine=True, skip="identity"),
    "goldnas": OperationSet(affine=False, skip="normalization"),
}


class FactorizedReduction(nn.Module):
    """Halve a map with two 1x1 convolutions of stride 2, the second shifted by one pixel to include odd pixels.

    Height, width and `out_channels` must be even.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"expected an even number of channels for a factorized reduction, got {out_channels}")
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/2, W/2)."""
        x = self.relu(x)
        return self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], 1))


def pointwise(in_channels: int, out_channels: int, affine: bool) -> nn.Module:
    """Build a sequence of ReLU, 1x1 convolution and batch normalization."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels, affine=affine)
    )


def operation(name: str, channels: int, stride: int, kind: OperationSet) -> nn.Module:
    """Build an operation of a cell that maps (N, channels, H, W) to (N, channels, H/stride, W/stride)."""
    if name == "skip_connect" and stride == 1:
        return nn.Identity() if kind.skip == "identity" else nn.BatchNorm2d(channels, affine=kind.affine)
    return OPERATIONS[name](channels, stride, kind.affine)


def _separable(kernel: int) -> Builder:
    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(
            *_depthwise(channels, kernel, stride, 1, affine), *_depthwise(channels, kernel, 1, 1, affine)
        )

    return build


def _dilated(kernel: int) -> Builder:
    return lambda channels, stride, affine: nn.Sequential(*_depthwise(channels, kernel, stride, 2, affine))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> tuple[nn.Module, ...]:
    padding = dilation * (kernel // 2)
    return (
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def _crossed(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


OPERATIONS: dict[str, Builder] = {
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": _crossed,
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: FactorizedReduction(channels, channels, affine),
}
