"""Multi-branch blocks as published by their authors, with border tricks, added zeros and aliases.

They are written from the papers and the behaviour of the published code, and contain no information on how they fuse.
Blocks with special borders are in `published_borders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Pair = int | tuple[int, int]


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: Pair,
    stride: int = 1,
    padding: Pair = 0,
    *,
    groups: int = 1,
    dilation: int = 1,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return a convolution without a bias and its batch normalization."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps))


class RepVGGBlock(nn.Module):
    """3x3, 1x1 and, if the shape is kept, batch normalization alone; otherwise a zero is added (Ding et al., 2021; the
    same in YOLOv6).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_identity = nn.BatchNorm2d(in_channels, eps) if keeps_shape else None
        self.rbr_dense: nn.Module = conv_bn(in_channels, out_channels, 3, stride, 1, groups=groups, eps=eps)
        self.rbr_1x1 = conv_bn(in_channels, out_channels, 1, stride, groups=groups, eps=eps)
        self.se = nn.Identity()
        self.nonlinearity: nn.Module = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity: Any = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.nonlinearity(self.se(self.rbr_dense(x) + self.rbr_1x1(x) + identity))


class CropLayer(nn.Module):
    """Crops this many rows and columns at both ends."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        if self.rows and self.columns:
            return x[:, :, self.rows : -self.rows, self.columns : -self.columns]
        return x[:, :, self.rows : -self.rows, :] if self.rows else x[:, :, :, self.columns : -self.columns]


class ACBlock(nn.Module):
    """KxK, Kx1 and 1xK; with less padding than K // 2 the last two read a cropped input (Ding et al., 2019)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.square = conv_bn(in_channels, out_channels, kernel, stride, padding)
        offset = padding - kernel // 2
        self.column_crop = nn.Identity() if offset >= 0 else CropLayer(0, -offset)
        self.row_crop = nn.Identity() if offset >= 0 else CropLayer(-offset, 0)
        self.column = conv_bn(in_channels, out_channels, (kernel, 1), stride, (padding, max(offset, 0)))
        self.row = conv_bn(in_channels, out_channels, (1, kernel), stride, (max(offset, 0), padding))
        self.nonlinearity = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        column, row = self.column(self.column_crop(x)), self.row(self.row_crop(x))
        return self.nonlinearity(self.square(x) + column + row)


class MobileOneBlock(nn.Module):
    """`branches` equal convolutions, a 1x1 if they are 3x3, and batch normalization alone (Vasu et al., 2023)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, branches: int = 3
    ) -> None:
        super().__init__()
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_skip = nn.BatchNorm2d(in_channels) if keeps_shape else None
        self.rbr_conv = nn.ModuleList(
            conv_bn(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups) for _ in range(branches)
        )
        self.rbr_scale = conv_bn(in_channels, out_channels, 1, stride, groups=groups) if kernel > 1 else None
        self.se, self.activation = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity: Any = 0 if self.rbr_skip is None else self.rbr_skip(x)
        scale: Any = 0 if self.rbr_scale is None else self.rbr_scale(x)
        out = scale + identity
        for branch in self.rbr_conv:
            out += branch(x)
        return self.activation(self.se(out))


class QARepVGGBlock(nn.Module):
    """3x3 with batch normalization, a bare 1x1, the input itself, an average, and a normalization after the sum
    (YOLOv6's QARepVGGBlockV2).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_dense = conv_bn(in_channels, out_channels, 3, stride, 1)
        self.rbr_1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.rbr_identity = nn.Identity() if keeps_shape else None
        self.rbr_avg = nn.AvgPool2d(3, stride, 1) if keeps_shape else None
        self.bn, self.nonlinearity = nn.BatchNorm2d(out_channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity: Any = 0 if self.rbr_identity is None else self.rbr_identity(x)
        average: Any = 0 if self.rbr_avg is None else self.rbr_avg(x)
        return self.nonlinearity(self.bn(self.rbr_dense(x) + self.rbr_1x1(x) + identity + average))


class _ScaleLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, 1, 1)


class LinearAddBlock(nn.Module):
    """Convolutions scaled per channel and added, then normalized (RepOptimizer's search, in YOLOv6)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        keeps_shape = in_channels == out_channels and stride == 1
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.scale_conv = _ScaleLayer(out_channels)
        self.conv_1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.scale_1x1 = _ScaleLayer(out_channels)
        self.scale_identity = _ScaleLayer(out_channels) if keeps_shape else None
        self.bn, self.relu = nn.BatchNorm2d(out_channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
        if self.scale_identity is not None:
            out += self.scale_identity(x)
        return self.relu(self.bn(out))


class RepConv(RepVGGBlock):
    """YOLOv7's: RepVGG's branches before SiLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride, eps=1e-3)
        self.nonlinearity = nn.SiLU()


class RepConvN(nn.Module):
    """YOLOv9's: 3x3 and 1x1, without the identity, before SiLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn(in_channels, out_channels, 3, stride, 1, eps=1e-3)
        self.conv2 = conv_bn(in_channels, out_channels, 1, stride, eps=1e-3)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1(x) + self.conv2(x))


class RepVGGDW(nn.Module):
    """Depthwise: (3x3 with batch normalization + bare 1x1 with a bias + the input), normalized (RepViT, 2024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels, 3, 1, 1, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn((self.conv(x) + self.conv1(x)) + x)


# (kernel, dilation) of the branches added to a depthwise kernel; 31 has RepLKNet's 5x5 and our choice of dilated ones.
_DILATED: dict[int, Sequence[tuple[int, int]]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    31: ((5, 1), (9, 3), (7, 5), (3, 11), (3, 15)),
}


class DilatedReparamBlock(nn.Module):
    """A large depthwise kernel and dilated smaller ones, each normalized (UniRepLKNet, Ding et al., 2024)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.lk_origin = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False)
        self.origin_bn = nn.BatchNorm2d(channels)
        self.dilated = nn.ModuleList(
            conv_bn(channels, channels, size, 1, dilation * (size - 1) // 2, groups=channels, dilation=dilation)
            for size, dilation in _DILATED[kernel]
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.origin_bn(self.lk_origin(x))
        for branch in self.dilated:
            out = out + branch(x)
        return out


class UniRepLKNetBlock(nn.Module):
    """The large kernel, batch normalization, a feed-forward of 1x1 convolutions, and the input."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dwconv, self.norm = DilatedReparamBlock(channels, kernel), nn.BatchNorm2d(channels)
        self.pwconv1, self.act = nn.Conv2d(channels, 2 * channels, 1), nn.GELU()
        self.pwconv2 = conv_bn(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x)))))
