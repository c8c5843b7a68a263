"""Hypothesis strategies for tests: convolution geometries, RepBlocks, networks and inputs.

Batch-normalisation statistics are always random: fresh ones would hide a wrong fuse.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, possible_branches
from irepdeploy.reparam.geometry import Geometry

__all__ = ["geometries", "randomize_block", "rep_blocks", "small_inputs", "small_networks"]

Module = TypeVar("Module", bound=nn.Module)

MODES = ("zeros", "zeros", "zeros", "reflect", "replicate", "circular")
_DTYPES = (torch.float32, torch.float64)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Draw 3x3, 5x5 and 7x7 convolutions of few channels: stride, padding and its mode, dilation, groups, depthwise."""
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
def rep_blocks(draw: st.DrawFn, geometry: Geometry | None = None) -> RepBlock:
    """Draw RepBlocks in eval mode with a random subset of the possible branches, all values random."""
    shape = draw(geometries()) if geometry is None else geometry
    possible = possible_branches(shape, tuple(BRANCHES))
    names = [name for name in possible if draw(st.booleans())]
    names += [f"{name}_2" for name in names if draw(st.integers(0, 7)) == 0]
    bn = nn.BatchNorm2d(shape.out_channels) if draw(st.booleans()) else None
    block = RepBlock(shape.conv(bias=draw(st.booleans())), bn, names, scaled=draw(st.booleans()))
    block.active = [name for name in names if draw(st.integers(0, 4)) > 0]
    return randomize_block(block, draw(st.integers(0, 2**31))).to(draw(st.sampled_from(_DTYPES))).eval()


@st.composite
def small_inputs(draw: st.DrawFn, geometry: Geometry, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw (N, C_in, H, W) with odd and even sides, large enough for the dilated kernel."""
    least = [
        # Reflected padding needs a side above its own width.
        max((geometry.kernel - 1) * dilation + 1 - 2 * padding, padding + 1, 1)
        for dilation, padding in zip(geometry.dilation, geometry.padding, strict=True)
    ]
    height, width = (extent + draw(st.integers(0, 5)) for extent in least)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(2, 3)), geometry.in_channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


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


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _Twice(nn.Module):
    """One module used twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.relu(self.inner(x)))


class _Parallel(nn.Module):
    """Two modules of a ModuleDict that read the same map; their outputs are concatenated."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"first": first, "second": second})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts.values()], 1)


class _Forked(nn.Module):
    """A convolution with two readers, one of them its batch normalisation."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


@st.composite
def small_networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Draw a network of a few random parts around random convolutions, in eval mode, all values random, and inputs.

    Parts are plain, residual, used twice, parallel, or fork behind the convolution, with and without batch
    normalisation; some convolutions have a kernel that cannot be expanded.
    """
    channels = draw(st.sampled_from((2, 3, 4, 6)))
    x_channels, parts = channels, list[nn.Module]()
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("plain", "plain", "residual", "twice", "parallel", "forked", "other")))
        if kind in ("residual", "twice"):
            unit = _unit(draw, _same(draw, channels))
            parts.append(_Residual(unit) if kind == "residual" else _Twice(unit))
        elif kind == "parallel":
            parts.append(_Parallel(_unit(draw, _same(draw, channels)), _unit(draw, _same(draw, channels))))
            channels *= 2
        elif kind == "forked":
            parts.append(_Forked(_same(draw, channels).conv(bias=False)))
        elif kind == "other":
            parts.append(nn.Conv2d(channels, channels, draw(st.sampled_from(((1, 1), (2, 2), (1, 3)))), padding=1))
        else:
            shape = _same(draw, channels)
            if draw(st.booleans()):
                shape = replace(shape, stride=(2, draw(st.integers(1, 2))), out_channels=channels * 2)
            parts.append(_unit(draw, shape))
            channels = shape.out_channels
        parts.append(draw(st.sampled_from((nn.ReLU(), nn.Identity(), nn.ReLU()))))
    network = randomize_block(nn.Sequential(*parts), draw(st.integers(0, 2**31))).double().eval()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sides = [draw(st.integers(13, 18)) for _ in range(2)]
    return network, torch.randn((2, x_channels, *sides), generator=generator, dtype=torch.float64)


def _same(draw: st.DrawFn, channels: int) -> Geometry:
    """Draw a convolution that keeps the shape of its map."""
    kernel, dilation = draw(st.sampled_from((3, 3, 5))), draw(st.sampled_from((1, 1, 2)))
    groups = draw(st.sampled_from([count for count in (1, 2, 3, channels) if channels % count == 0]))
    reach = dilation * (kernel // 2)
    mode = draw(st.sampled_from(MODES)) if reach < 4 else "zeros"
    return Geometry(channels, channels, (1, 1), (reach, reach), (dilation, dilation), groups, kernel, mode)


def _unit(draw: st.DrawFn, geometry: Geometry) -> nn.Module:
    conv = geometry.conv(bias=draw(st.booleans()))
    return nn.Sequential(conv, nn.BatchNorm2d(geometry.out_channels)) if draw(st.integers(0, 3)) else conv
