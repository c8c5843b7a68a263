"""The geometry of a fixed KxK convolution, and the input position that each of its taps reads.

Along one axis, for output i, tap r of a kernel with padding p and dilation d reads the position
``stride * i - p + r * d`` of its input. A branch that has only some of the K taps is a smaller convolution whose first
tap is tap r0 of the fixed one, so its padding is ``p - r0 * d``; if that is negative, the input is cropped. Reflected,
replicated and circular padding is applied once to the input of a block, whose operations then have padding 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["KERNELS", "Geometry", "refusal"]

Pair = tuple[int, int]

KERNELS = (3, 5, 7)


@dataclass(frozen=True)
class Geometry:
    """Shape of a fixed convolution with a square kernel; pairs are (height, width)."""

    in_channels: int
    out_channels: int
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    kernel: int = 3
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Geometry:
        """Read the geometry of `conv`, which `refusal` must accept; 'same' and 'valid' padding become numbers."""
        dilation, kernel = _pair(conv.dilation), int(conv.kernel_size[0])
        if conv.padding == "valid":
            padding = (0, 0)
        elif conv.padding == "same":
            padding = (dilation[0] * (kernel // 2), dilation[1] * (kernel // 2))
        else:
            assert not isinstance(conv.padding, str)
            padding = _pair(conv.padding)
        # Without padding all modes are equivalent, and zeros are the fastest.
        mode = conv.padding_mode if padding != (0, 0) else "zeros"
        return cls(
            conv.in_channels, conv.out_channels, _pair(conv.stride), padding, dilation, conv.groups, kernel, mode
        )

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape that an identity needs: C_in = C_out and stride 1."""
        return self.in_channels == self.out_channels and self.stride == (1, 1)

    @property
    def depthwise(self) -> bool:
        """Whether every output channel has its own group."""
        return self.groups == self.out_channels > 1

    @property
    def behind_padding(self) -> Geometry:
        """Geometry of an operation that reads the output of `pad`."""
        return self if self.padding_mode == "zeros" else replace(self, padding=(0, 0), padding_mode="zeros")

    def conv(self, *, bias: bool, kind: type[nn.Conv2d] = nn.Conv2d, **factory: Any) -> nn.Conv2d:
        """Create a convolution of this geometry; `factory` accepts ``device`` and ``dtype``."""
        return kind(
            self.in_channels,
            self.out_channels,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias,
            self.padding_mode,  # type: ignore[arg-type]  # a literal to torch
            **factory,
        )

    def pad(self, x: Tensor) -> Tensor:
        """Pad (N, C_in, H, W), unless the padding mode is zeros, which convolutions apply themselves."""
        if self.padding_mode == "zeros":
            return x
        height, width = self.padding
        return F.pad(x, (width, width, height, height), mode=self.padding_mode)

    def output_size(self, size: Pair) -> Pair:
        """Return the (height, width) of the output for an input of this (height, width)."""
        height, width = (
            (side + 2 * padding - (self.kernel - 1) * dilation - 1) // stride + 1
            for side, padding, dilation, stride in zip(size, self.padding, self.dilation, self.stride, strict=True)
        )
        return height, width

    def tap_padding(self, first_row: int, first_column: int) -> Pair:
        """Return the padding of a branch whose first tap is at (first_row, first_column) of the kernel."""
        return (self.padding[0] - first_row * self.dilation[0], self.padding[1] - first_column * self.dilation[1])


def refusal(conv: nn.Module) -> str | None:
    """Return why branches cannot be inserted beside `conv`, or None if they can."""
    if torch.nn.utils.parametrize.is_parametrized(conv):
        return "its weight is parametrized: remove the parametrization first"
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__} is not a plain torch.nn.Conv2d"
    height, width = conv.kernel_size
    if height != width:
        return f"kernel {height}x{width} is not square"
    if height not in KERNELS:
        return f"kernel {height}x{width} is not one of {', '.join(f'{size}x{size}' for size in KERNELS)}"
    extra = sorted(set(dict(conv.named_parameters())) - {"weight", "bias"})
    if extra:
        return f"has parameters of its own ({', '.join(extra)}): remove its weight_norm or pruning first"
    if "forward" in vars(conv):
        return "its forward was replaced on the instance"
    if any(True for _ in conv.children()):
        return "has submodules, as a convolution prepared for quantization does"
    if not conv.weight.is_floating_point():
        return f"weights of type {str(conv.weight.dtype).removeprefix('torch.')}"
    return None


def pad_or_crop(x: Tensor, padding: Pair) -> tuple[Tensor, Pair]:
    """Crop (N, C, H, W) if the padding is negative, and return the padding left for the convolution to apply."""
    height, width = padding
    if height >= 0 and width >= 0:
        return x, padding
    return F.pad(x, (width, width, height, height)), (0, 0)


def random_input(geometry: Geometry, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw a small seeded input (2, C_in, H, W) with an interior and a border.

    The values are drawn in float64 and cast, so that all dtypes get the same values.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = (
        max((geometry.kernel - 1) * dilation, padding) + extra
        for dilation, padding, extra in zip(geometry.dilation, geometry.padding, (5, 4), strict=True)
    )
    x = torch.randn(2, geometry.in_channels, height, width, generator=generator, dtype=torch.float64)
    return x.to(device=device, dtype=dtype)


def _pair(value: tuple[int, ...]) -> Pair:
    return int(value[0]), int(value[1])
