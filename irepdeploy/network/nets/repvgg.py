"""RepVGG (Ding et al., 2021) as the plain network, a sequence of 3x3 convolution, BN and ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from irepdeploy.network.nets.vgg import ConvUnit

__all__ = ["A_DEPTHS", "B_DEPTHS", "RepVGG"]

A_DEPTHS = (2, 4, 14, 1)
B_DEPTHS = (4, 6, 16, 1)


class RepVGG(nn.Module):
    """A RepVGG without its branches, which are the preset "repvgg".

    Args:
        depths: Number of units in each of the four stages; the first unit of each stage has stride 2.
        widths: Multipliers (a, b): the stages have 64a, 128a, 256a and 512b channels, and the stem min(64, 64a).
        num_classes: Number of outputs.
        in_channels: Number of input channels.
        groups: Groups of every second convolution, starting with the second one after the stem.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[float],
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: int = 1,
    ) -> None:
        super().__init__()
        a, b = widths
        channels = min(64, int(64 * a))
        self.stem = ConvUnit(in_channels, channels, stride=2)
        self.stages = nn.ModuleList()
        number = 0
        for depth, width in zip(depths, (int(64 * a), int(128 * a), int(256 * a), int(512 * b)), strict=True):
            units = []
            for position in range(depth):
                number += 1
                stride = 2 if position == 0 else 1
                units.append(ConvUnit(channels, width, stride=stride, groups=1 if number % 2 else groups))
                channels = width
            self.stages.append(nn.Sequential(*units))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, num_classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.flatten(self.pool(x)))
