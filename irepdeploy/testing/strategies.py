"""Hypothesis strategies for our tests and for users': convolution geometries, RepBlocks, inputs.

Batch-normalisation statistics are always random: fresh ones would hide a wrong fuse.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, possible_branches
from irepdeploy.reparam.geometry import Geometry

__all__ = ["conv_of", "geometries", "randomize_block", "rep_blocks", "small_inputs"]

Module = TypeVar("Module", bound=nn.Module)

_DTYPES = (torch.float32, torch.float64)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """3x3 convolutions with few channels: any stride, padding and dilation up to 2, groups, depthwise."""
    groups = draw(st.sampled_from((1, 1, 2, 3, 4)))
    in_channels = groups * draw(st.integers(1, 3))
    same = draw(st.booleans())
    out_channels = in_channels if same else groups * draw(st.integers(1, 3))
    pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))
    return Geometry(
        in_channels,
        out_channels,
        stride=draw(pairs),
        padding=draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(0, 2), st.integers(0, 2)))),
        dilation=draw(st.one_of(st.just((1, 1)), pairs)),
        groups=groups,
    )


@st.composite
def rep_blocks(draw: st.DrawFn, geometry: Geometry | None = None) -> RepBlock:
    """RepBlocks in eval mode with a random subset of the possible branches, all values random."""
    shape = draw(geometries()) if geometry is None else geometry
    possible = possible_branches(shape, tuple(BRANCHES))
    names = [name for name in possible if draw(st.booleans())]
    bn = nn.BatchNorm2d(shape.out_channels) if draw(st.booleans()) else None
    block = RepBlock(conv_of(shape, bias=draw(st.booleans())), bn, names, scaled=draw(st.booleans()))
    block.active = [name for name in names if draw(st.integers(0, 4)) > 0]
    return randomize_block(block, draw(st.integers(0, 2**31))).to(draw(st.sampled_from(_DTYPES))).eval()


@st.composite
def small_inputs(draw: st.DrawFn, geometry: Geometry, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, C_in, H, W) with odd and even sides, large enough for the dilated kernel."""
    reach = [
        2 * dilation + 1 - 2 * padding for dilation, padding in zip(geometry.dilation, geometry.padding, strict=True)
    ]
    height, width = (max(extent, 1) + draw(st.integers(0, 5)) for extent in reach)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(2, 3)), geometry.in_channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def conv_of(geometry: Geometry, *, bias: bool = False) -> nn.Conv2d:
    """A fixed convolution of this geometry."""
    return nn.Conv2d(
        geometry.in_channels,
        geometry.out_channels,
        3,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
        bias,
    )


@torch.no_grad()
def randomize_block(block: Module, seed: int) -> Module:
    """Give every parameter and running statistic of `block` seeded random values in place, variances in (0.2, 3)."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        value = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            value = 0.2 + 2.8 * torch.rand(tensor.shape, generator=generator)
        tensor.copy_(value)
    return block
