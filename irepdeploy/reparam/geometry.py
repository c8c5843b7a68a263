"""The geometry of a fixed 3x3 convolution, and where each tap of it looks.

Along one axis, tap r of a kernel with dilation d reads the position ``stride * i - p + r * d`` of its input. A branch
that has only some of the three taps is a smaller convolution whose first tap is tap r0 of the fixed one, so its padding
is ``p - r0 * d``: negative means that the input is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Geometry", "refusal"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Shape of a fixed 3x3 convolution; pairs are (height, width)."""

    in_channels: int
    out_channels: int
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Geometry:
        """The geometry of `conv`, which `refusal` must have let through."""
        padding = conv.padding
        assert not isinstance(padding, str)
        return cls(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.stride),
            _pair(padding),
            _pair(conv.dilation),
            conv.groups,
        )

    @property
    def keeps_shape(self) -> bool:
        """Whether an identity fits beside the convolution: C_in = C_out and stride 1."""
        return self.in_channels == self.out_channels and self.stride == (1, 1)

    def tap_padding(self, first_row: int, first_column: int) -> Pair:
        """Padding of a branch whose first tap is (first_row, first_column) of the 3x3 kernel."""
        return (
            self.padding[0] - first_row * self.dilation[0],
            self.padding[1] - first_column * self.dilation[1],
        )


def refusal(conv: nn.Module) -> str | None:
    """Why branches cannot stand beside `conv`, or None where they can."""
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__} is not a plain torch.nn.Conv2d"
    if tuple(conv.kernel_size) != (3, 3):
        return f"kernel {conv.kernel_size[0]}x{conv.kernel_size[1]} is not 3x3"
    if isinstance(conv.padding, str):
        return f"padding={conv.padding!r} is not a number"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r} is not 'zeros'"
    return None


def pad_or_crop(x: Tensor, padding: Pair) -> tuple[Tensor, Pair]:
    """Crop (N, C, H, W) where `padding` is negative, and leave positive padding to the convolution that follows."""
    height, width = padding
    if height >= 0 and width >= 0:
        return x, padding
    return F.pad(x, (width, width, height, height)), (0, 0)


def random_input(geometry: Geometry, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """A small seeded input on which the convolution has interior, border, and odd and even sides.

    Returns:
        (2, C_in, H, W) with H odd and W even, drawn in float64 and cast, so that dtypes see the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    height = 2 * geometry.dilation[0] + 5
    width = 2 * geometry.dilation[1] + 4
    x = torch.randn(2, geometry.in_channels, height, width, generator=generator, dtype=torch.float64)
    return x.to(device=device, dtype=dtype)


def _pair(value: tuple[int, ...]) -> Pair:
    return int(value[0]), int(value[1])
