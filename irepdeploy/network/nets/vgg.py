"""VGG: stages of plain 3x3 convolutions, each followed by a 2x2 max pool or started with a stride of 2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["VGG", "VGG16_STAGES", "ConvUnit", "VGGMaps"]

VGG16_STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)


class ConvUnit(nn.Module):
    """3x3 convolution, batch normalization and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        return self.relu(self.bn(self.conv(x)))


class VGG(nn.Module):
    """A VGG with batch normalization, global average pooling and one or two linear layers.

    Args:
        stages: Output channels of the convolutions of each stage.
        num_classes: Number of outputs.
        in_channels: Number of input channels.
        bias: Whether the convolutions have a bias before their batch normalization, as in the VGG-16 of Table 2.
        hidden: Width of a linear layer and ReLU before the last linear layer, or None; ACNet's VGG-16 has 512.
        strided: Halve the map with a stride of 2 in the first convolution of each stage except the first, instead of
            pooling.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[int]],
        num_classes: int = 10,
        in_channels: int = 3,
        bias: bool = False,
        hidden: int | None = None,
        strided: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = in_channels
        for widths in stages:
            units: list[nn.Module] = []
            for width in widths:
                stride = 2 if strided and self.stages and not units else 1
                units.append(ConvUnit(channels, width, stride=stride, bias=bias))
                channels = width
            if not strided:
                units.append(nn.MaxPool2d(2))
            self.stages.append(nn.Sequential(*units))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head: nn.Module = nn.Linear(hidden or channels, num_classes)
        if hidden is not None:
            self.head = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, num_classes); with pools, H and W must be at least ``2**len(stages)``."""
        for stage in self.stages:
            x = stage(x)
        return self.head(self.flatten(self.pool(x)))


class VGGMaps(VGG):
    """The backbone of a detector: a VGG that returns the map of each stage.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map in pixels of the input.
    """

    def __init__(self, *, stages: Sequence[Sequence[int]], in_channels: int = 3) -> None:
        super().__init__(stages=stages, in_channels=in_channels, num_classes=1)
        del self.pool, self.flatten, self.head
        self.channels = tuple(widths[-1] for widths in stages)
        self.strides = tuple(2 ** (index + 1) for index in range(len(stages)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # maps in place of logits
        """Map (N, in_channels, H, W) to one map (N, channels, H/stride, W/stride) per stage."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return tuple(found)

    def first(self, stages: int) -> list[nn.Module]:
        """Return the modules of the first `stages` stages, for freezing."""
        return list(self.stages[:stages])
