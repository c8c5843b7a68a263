"""Modulated deformable convolution (Zhu et al. 2019, "Deformable ConvNets v2") in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeformableConv", "deformed"]


class DeformableConv(nn.Module):
    """A KxK convolution of stride 1 whose taps are shifted and weighted by another convolution of the same input.

    Offsets start at 0 and weights at 0.5, and parameters have the same names, as in MMDetection. The module `sample`
    does the arithmetic, so that an exporter can write it as one operator.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, padding: int, bias: bool = False) -> None:
        super().__init__()
        taps = kernel * kernel
        self.kernel, self.padding = kernel, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        # Two offsets and one weight per tap.
        self.conv_offset = nn.Conv2d(in_channels, 3 * taps, kernel, padding=padding)
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)
        self.sample = Deformed(padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        return self.sample(x, self.conv_offset(x), self.weight, self.bias)


class Deformed(nn.Module):
    """The deformable convolution itself, given offsets and weight logits (N, 3 K K, H', W')."""

    # A single node in the graphs that show which convolutions can have branches.
    traced_whole = True

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor, moves: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps = weight.shape[2] * weight.shape[3]
        offsets, shares = moves[:, : 2 * taps], moves[:, 2 * taps :].sigmoid()
        return deformed(x, offsets, shares, weight, bias, self.padding)


def deformed(x: Tensor, offsets: Tensor, shares: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Return a convolution of stride 1 with shifted taps, as defined by ONNX's DeformConv.

    Args:
        x: Input (N, C_in, H, W).
        offsets: Vertical and horizontal offset of each tap in pixels, (N, 2 K K, H', W').
        shares: Factor of each tap, (N, K K, H', W').
        weight: Weight (C_out, C_in, K, K).
        bias: Bias (C_out,) or None.
        padding: Zero padding on each side of the input.
    """
    count, channels, height, width = x.shape
    out_channels, _, tall, wide = weight.shape
    rows, columns = offsets.shape[2:]
    down, across = offsets.reshape(count, tall * wide, 2, rows, columns).unbind(2)
    place = [torch.arange(side, device=x.device, dtype=x.dtype) for side in (rows, columns, tall, wide)]
    tap_down, tap_across = place[2].repeat_interleave(wide), place[3].repeat(tall)
    y = down + tap_down[:, None, None] + place[0][:, None] - padding
    u = across + tap_across[:, None, None] + place[1] - padding
    # Coordinates of pixel centres for grid_sample with align_corners=False; values outside the image are zero.
    grid = torch.stack([(2 * u + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.reshape(count, tall * wide * rows, columns, 2)
    found = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    found = found.reshape(count, channels, tall * wide, rows, columns) * shares[:, None]
    result = torch.einsum("nckhw,ock->nohw", found, weight.reshape(out_channels, channels, tall * wide))
    return result if bias is None else result + bias[:, None, None]
