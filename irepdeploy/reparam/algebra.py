"""Pure functions on kernels, used to merge several branches into one convolution.

Shapes: kernel (C_out, C_in/groups, kh, kw), bias (C_out,), per-channel vectors (C,). Every function computes in the
dtype of its arguments; the proofs pass float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_taps", "bn_scale_shift", "chain_1x1", "fold_scale_shift", "identity", "scale_inputs"]


def bn_scale_shift(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Express batch normalization as ``y = scale * x + shift``.

    ``scale = gamma / sqrt(var + eps)`` and ``shift = beta - mean * scale``, which is also the output for a zero input.
    """
    scale = torch.rsqrt(var + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = -mean * scale
    if beta is not None:
        shift = shift + beta
    return scale, shift


def fold_scale_shift(kernel: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Fold a per-channel ``scale * y + shift`` that follows a convolution into its kernel and bias."""
    folded = shift if bias is None else bias * scale + shift
    return kernel * scale.reshape(-1, 1, 1, 1), folded


def add_taps(full: Tensor, kernel: Tensor, rows: slice, columns: slice, factor: Tensor | None = None) -> None:
    """Add ``factor * kernel`` in place to the given rows and columns of the KxK kernel `full` (Section 3.1).

    Along each side, `kernel` has either as many taps as the slice selects, or a single tap that is broadcast.
    """
    taps = full[:, :, rows, columns]
    if factor is None:
        taps += kernel
    else:
        taps.addcmul_(kernel, factor)


def identity(channels: int, groups: int, like: Tensor) -> Tensor:
    """Return the 1x1 kernel of the identity: channel i reads channel i (``i mod C/groups`` in its group)."""
    kernel = like.new_zeros((channels, channels // groups, 1, 1))
    index = torch.arange(channels, device=like.device)
    kernel[index, index % (channels // groups)] = 1
    return kernel


def scale_inputs(kernel: Tensor, scale: Tensor, groups: int) -> Tensor:
    """Multiply a kernel by one factor per *input* channel; `scale` is (C_in,)."""
    out_channels, per_group = kernel.shape[:2]
    per_row = scale.reshape(groups, 1, per_group).expand(groups, out_channels // groups, per_group)
    return kernel * per_row.reshape(out_channels, per_group, 1, 1)


def chain_1x1(first: Tensor, first_bias: Tensor, second: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Merge a 1x1 convolution (M, C_in/groups, 1, 1) and the KxK one that follows it (C_out, M/groups, K, K).

    ``W[o, i] = sum over m of W2[o, m] W1[m, i]`` and ``b[o] = sum over m and taps of W2[o, m] b1[m]``. The result is
    exact at the border only if the map between the two is padded with `first_bias` instead of zero.
    """
    out_channels, inner, height, width = second.shape
    per_group = first.reshape(groups, inner, -1)
    rows = second.permute(0, 2, 3, 1).reshape(groups, -1, inner)
    kernel = torch.bmm(rows, per_group)
    kernel = kernel.reshape(out_channels, height * width, -1).transpose(1, 2)
    bias = (second.sum((2, 3)).reshape(groups, -1, inner) @ first_bias.reshape(groups, inner, 1)).reshape(-1)
    return kernel.reshape(out_channels, -1, height, width), bias
