"""Hypothesis strategies for tests of a branch: convolution geometries and inputs.

Batch-normalization statistics are always random, because freshly initialized ones would hide a wrong fuse.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.reparam.geometry import Geometry

__all__ = ["MODES", "geometries", "randomize_block", "small_inputs"]

Module = TypeVar("Module", bound=nn.Module)

MODES = ("zeros", "zeros", "zeros", "reflect", "replicate", "circular")


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Draw 3x3, 5x5 or 7x7 convolutions with few channels and any stride, padding (mode), dilation and groups."""
    groups = draw(st.sampled_from((1, 1, 2, 3, 4)))
    in_channels = groups * draw(st.integers(1, 3))
    same = draw(st.booleans())
    out_channels = in_channels if same else groups * draw(st.integers(1, 3))
    pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))
    kernel = draw(st.sampled_from((3, 3, 3, 5, 7)))
    half = kernel // 2
    padding = draw(st.one_of(st.just((half, half)), st.tuples(st.integers(0, half + 1), st.integers(0, half + 1))))
    return Geometry(
        in_channels,
        out_channels,
        stride=draw(pairs),
        padding=padding,
        dilation=draw(st.one_of(st.just((1, 1)), pairs)),
        groups=groups,
        kernel=kernel,
        padding_mode=draw(st.sampled_from(MODES)) if padding != (0, 0) else "zeros",
    )


@st.composite
def small_inputs(draw: st.DrawFn, geometry: Geometry, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw inputs (N, C_in, H, W) with odd and even sides, large enough for the dilated kernel."""
    least = [
        # Reflection padding requires a side larger than the padding.
        max((geometry.kernel - 1) * dilation + 1 - 2 * padding, padding + 1, 1)
        for dilation, padding in zip(geometry.dilation, geometry.padding, strict=True)
    ]
    height, width = (extent + draw(st.integers(0, 5)) for extent in least)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(2, 3)), geometry.in_channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@torch.no_grad()
def randomize_block(block: Module, seed: int) -> Module:
    """Set all parameters and running statistics of `block` in place to seeded random values; variances in (0.2, 3)."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        value = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            value = 0.2 + 2.8 * torch.rand(tensor.shape, generator=generator)
        tensor.copy_(value)
    return block
