"""ResNet-18, 34 and 50 for ImageNet, and ResNet-18 for 32x32 images (3x3 stem, no max pool)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

__all__ = ["ResNet", "ResNetMaps"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, of which the 3x3 has the stride, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network (He et al., 2016).

    Args:
        block: "basic" or "bottleneck".
        depths: Number of blocks in each stage; each stage has twice the channels of the one before.
        num_classes: Number of outputs.
        in_channels: Number of input channels.
        stem: "imagenet" is a 7x7 convolution of stride 2 and a max pool; "cifar" is a 3x3 convolution of stride 1.
        width: Channels of the stem and of the first stage.
    """

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"],
        depths: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        width: int = 64,
    ) -> None:
        super().__init__()
        small = stem == "cifar"
        self.conv1 = nn.Conv2d(in_channels, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        kind = _BLOCKS[block]
        channels = width
        for index, depth in enumerate(depths):
            inner, stage = width * 2**index, []
            for position in range(depth):
                stage.append(kind(channels, inner, 2 if index > 0 and position == 0 else 1))
                channels = inner * kind.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each stage for images (N, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
            found.append(x)
        return tuple(found)

    def forward(self, x: Tensor) -> Any:
        """Map (N, in_channels, H, W) to (N, num_classes)."""
        return self.fc(self.flatten(self.avgpool(self.maps(x)[-1])))


class ResNetMaps(ResNet):
    """The backbone of a detector: a residual network that returns the map of each stage.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map in pixels of the input.
    """

    def __init__(
        self, *, width: int = 64, depths: Sequence[int], block: Literal["basic", "bottleneck"], **args: Any
    ) -> None:
        super().__init__(width=width, depths=depths, block=block, num_classes=1, **args)
        del self.avgpool, self.flatten, self.fc
        self.channels = tuple(width * 2**index * _BLOCKS[block].expansion for index in range(len(depths)))
        first = 1 if args.get("stem") == "cifar" else 4
        self.strides = tuple(first * 2**index for index in range(len(depths)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (N, in_channels, H, W) to one map (N, channels, H/stride, W/stride) per stage."""
        return self.maps(x)

    def first(self, stages: int) -> list[nn.Module]:
        """Return the modules of the stem and of the first `stages` stages, for freezing."""
        names = ("conv1", "bn1", *(f"layer{index + 1}" for index in range(stages)))
        return [self.get_submodule(name) for name in names] if stages else []


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
