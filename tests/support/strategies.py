"""Hypothesis strategies for RepBlocks and for networks of random parts around random convolutions."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, possible_branches
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.testing.strategies import MODES, geometries, randomize_block

_DTYPES = (torch.float32, torch.float64)


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
    """A convolution with two readers, one of them its batch normalization."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


@st.composite
def small_networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Draw a network of a few random parts around random convolutions, in eval mode with random values, and inputs.

    Parts are plain, residual, used twice, parallel, or fork after the convolution, with and without batch
    normalization; some convolutions have a kernel that cannot be expanded.
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
