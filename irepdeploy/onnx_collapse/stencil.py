"""Stencils: zero-padded convolutions as the offsets and weights of their taps.

Output (i, j) of channel o is the sum, over the channels c of its group and the taps (a, b), of
``kernel[o, c, a, b] * x[c, stride_h * i + rows[a], stride_w * j + columns[b]]``, where x is zero outside its map.
Dilation, padding and cropping are all expressed as offsets, so that two stencils can be added and chained without
aligning them first. Kernels are float64 torch tensors; a stencil without a kernel has only a structure, from which
costs are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.onnx_collapse.refusal import Refusal

__all__ = ["Axis", "Stencil", "add", "chain", "identity", "moved", "select", "stack", "support_of", "trim"]

Array = np.ndarray[Any, Any]

# The most taps along an axis, and the most numbers in a kernel that becomes dense because groups do not match.
_WIDEST = 255
_LARGEST_KERNEL = 1 << 24


@dataclass(frozen=True)
class Axis:
    """Height or width of a stencil.

    Attributes:
        offsets: Offsets of the taps in ascending order.
        stride: Stride.
        excess: Number that determines the number of outputs, ``(size + excess) // stride + 1``.
    """

    offsets: tuple[int, ...]
    stride: int = 1
    excess: int = -1

    def outputs(self, size: int) -> int:
        """Return the number of outputs for a map of `size` pixels."""
        return (size + self.excess) // self.stride + 1

    def behind(self, first: Axis) -> tuple[int, int]:
        """Return stride and excess of this axis applied after `first`.

        Nested floors satisfy ``(a // s + m) // t = (a + m * s) // (s * t)``.
        """
        return first.stride * self.stride, first.excess + first.stride * (1 + self.excess)

    def reads(self, size: int) -> Array:
        """Return the positions that are read outside a map of `size` pixels, sorted."""
        places = np.arange(self.outputs(size))[:, None] * self.stride + np.asarray(self.offsets)
        return np.unique(places[(places < 0) | (places >= size)])

    def may_read_outside(self) -> bool:
        """Return whether a window crosses the border for at least one size of the map."""
        return self.offsets[0] < 0 or self.excess + self.offsets[-1] >= 0


@dataclass(frozen=True, eq=False)
class Stencil:
    """A zero-padded convolution; see the module.

    Attributes:
        channels_in: Number of input channels.
        channels_out: Number of output channels.
        groups: Number of groups.
        rows: Height.
        columns: Width.
        support: Bool array (rows, columns) that is True for taps with a nonzero value for any pair of channels.
        kernel: Float64 tensor (channels_out, channels_in / groups, rows, columns), or None for only a structure.
        unit: Whether the stencil is exactly the identity.
    """

    channels_in: int
    channels_out: int
    groups: int
    rows: Axis
    columns: Axis
    support: Array
    kernel: Tensor | None = None
    unit: bool = False

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The axes of rows and of columns."""
        return self.rows, self.columns

    @property
    def per_channel(self) -> bool:
        """Whether output channel i reads only input channel i."""
        return self.groups == self.channels_in == self.channels_out

    @property
    def per_element(self) -> bool:
        """Whether every output element is a multiple of the input element at the same position."""
        return self.per_channel and self.rows == self.columns == Axis((0,))

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (H', W') of the output for an input of (H, W)."""
        return self.rows.outputs(size[0]), self.columns.outputs(size[1])

    @cached_property
    def taps(self) -> tuple[Axis, Axis]:
        """The axes with only the offsets of nonzero taps."""
        rows = tuple(np.asarray(self.rows.offsets)[self.support.any(1)].tolist())
        columns = tuple(np.asarray(self.columns.offsets)[self.support.any(0)].tolist())
        return replace(self.rows, offsets=rows or (0,)), replace(self.columns, offsets=columns or (0,))

    def regroup(self, groups: int) -> Stencil:
        """Return the same stencil with fewer groups, a divisor of the present number.

        Raises:
            Refusal: The kernel would be too large.
        """
        if groups == self.groups:
            return self
        merged, own = self.groups // groups, self.channels_in // self.groups
        size = self.channels_out * own * merged * self.support.size
        if size > _LARGEST_KERNEL:
            raise Refusal(f"channels that are read group by group would become a dense kernel of {size:,} numbers")
        kernel = None
        if self.kernel is not None:
            # Shape (groups, merged, outputs of one, merged, inputs of one, taps); only the diagonal is nonzero.
            shape = (groups, merged, self.channels_out // self.groups, merged, own, *self.support.shape)
            kernel = self.kernel.new_zeros(shape)
            parts = self.kernel.reshape(groups, merged, shape[2], own, *self.support.shape)
            for part in range(merged):
                kernel[:, part, :, part] = parts[:, part]
            kernel = kernel.reshape(self.channels_out, merged * own, *self.support.shape)
        return replace(self, groups=groups, kernel=kernel, unit=False)

    def placed(self, rows: tuple[int, ...], columns: tuple[int, ...]) -> Stencil:
        """Return the same stencil with taps at more offsets; new taps are zero."""
        if (rows, columns) == (self.rows.offsets, self.columns.offsets):
            return self
        place = np.ix_(np.searchsorted(rows, self.rows.offsets), np.searchsorted(columns, self.columns.offsets))
        support = np.zeros((len(rows), len(columns)), bool)
        support[place] = self.support
        kernel = None
        if self.kernel is not None:
            kernel = self.kernel.new_zeros(*self.kernel.shape[:2], *support.shape)
            kernel[:, :, torch.from_numpy(place[0]), torch.from_numpy(place[1])] = self.kernel
        axes = replace(self.rows, offsets=rows), replace(self.columns, offsets=columns)
        return replace(self, rows=axes[0], columns=axes[1], support=support, kernel=kernel)


def identity(channels: int, *, numeric: bool) -> Stencil:
    """Return the stencil of the identity."""
    kernel = torch.ones(channels, 1, 1, 1, dtype=torch.float64) if numeric else None
    return Stencil(channels, channels, channels, Axis((0,)), Axis((0,)), np.ones((1, 1), bool), kernel, unit=True)


def moved(channels: int, rows: Axis, columns: Axis) -> Stencil:
    """Return the stencil that shifts, crops or pads a map; each axis has one tap."""
    kernel = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
    unit = rows == columns == Axis((0,))
    return Stencil(channels, channels, channels, rows, columns, np.ones((1, 1), bool), kernel, unit)


def chain(first: Stencil, second: Stencil) -> Stencil:
    """Return `second` applied after `first`, as if `first` also computed the positions outside its map.

    Raises:
        Refusal: The kernel would be too wide or too large.
    """
    if first.unit:
        return second
    if second.unit:
        return first
    axes = []
    for one, two in zip(first.axes, second.axes, strict=True):
        offsets = sorted({one.stride * b + a for a in one.offsets for b in two.offsets})
        if len(offsets) > _WIDEST:
            raise Refusal(f"the kernel would be {len(offsets)} taps wide")
        axes.append(Axis(tuple(offsets), *two.behind(one)))
    places = [
        [np.searchsorted(axis.offsets, [one.stride * b + a for a in one.offsets]) for b in two.offsets]
        for axis, one, two in zip(axes, first.axes, second.axes, strict=True)
    ]
    support = np.zeros(tuple(len(axis.offsets) for axis in axes), bool)
    taps = [(int(a), int(b)) for a, b in np.argwhere(second.support)]
    for a, b in taps:
        support[np.ix_(places[0][a], places[1][b])] |= first.support
    if second.per_channel:
        groups = first.groups
    elif first.per_channel:
        groups = second.groups
    else:
        groups = math.gcd(first.groups, second.groups)
        first, second = first.regroup(groups), second.regroup(groups)
    kernel = None
    if first.kernel is not None and second.kernel is not None:
        kernel = _chain_kernels(first, second, groups, taps, places, support.shape)
    return Stencil(first.channels_in, second.channels_out, groups, axes[0], axes[1], support, kernel)


def _chain_kernels(
    first: Stencil,
    second: Stencil,
    groups: int,
    taps: Sequence[tuple[int, int]],
    places: Sequence[Sequence[Array]],
    shape: tuple[int, ...],
) -> Tensor:
    assert first.kernel is not None and second.kernel is not None
    per_group = first.channels_in // groups
    # Taps come first in memory, so that sums over taps run over whole matrices.
    kernel = second.kernel.permute(2, 3, 0, 1).contiguous()
    one = first.kernel
    if not (second.per_channel or first.per_channel):
        one = one.reshape(groups, first.channels_out // groups, -1)
        if first.support.size == 1:
            rows = kernel.reshape(*shape, groups, second.channels_out // groups, -1)
            return (rows @ one).reshape(*shape, second.channels_out, per_group).permute(2, 3, 0, 1).contiguous()
    full = None
    for a, b in taps:
        tap = kernel[a, b]
        if second.per_channel:
            part = one * tap[:, :, None, None]
        elif first.per_channel:
            # Row o of the second kernel reads the channels of its group, each with its own factors of the first.
            own = one.reshape(groups, 1, per_group, *one.shape[2:])
            factors = tap.reshape(groups, -1, per_group)[..., None, None]
            part = (factors * own).reshape(second.channels_out, per_group, *one.shape[2:])
        else:
            factors = tap.reshape(groups, second.channels_out // groups, -1)
            part = torch.bmm(factors, one).reshape(second.channels_out, per_group, *first.support.shape)
        if part.shape[2:] == shape:
            # The part covers the whole kernel, so there is no other tap.
            return part
        if full is None:
            full = one.new_zeros(*shape, second.channels_out, per_group).permute(2, 3, 0, 1)
        at, beside = places[0][a], places[1][b]
        if len(at) == at[-1] - at[0] + 1 and len(beside) == beside[-1] - beside[0] + 1:
            full[:, :, at[0] : at[-1] + 1, beside[0] : beside[-1] + 1] += part
        else:
            full[:, :, torch.from_numpy(at)[:, None], torch.from_numpy(beside)] += part
    if full is None:
        return one.new_zeros(second.channels_out, per_group, *shape)
    return full.contiguous()


def support_of(kernel: Tensor) -> Array:
    """Return a bool array (rows, columns) of the taps that are nonzero for any pair of channels."""
    # The first pair of channels nearly always settles it.
    first = kernel[:1, :1] != 0
    found = first[0, 0] if first.numel() and bool(first.all()) else (kernel != 0).any(0).any(0)
    return np.asarray(found.numpy())


def add(one: Stencil, other: Stencil) -> Stencil:
    """Return the sum of two stencils with equal strides and output sizes.

    Raises:
        Refusal: The kernel would be too wide or too large.
    """
    groups = math.gcd(one.groups, other.groups)
    rows, columns = (tuple(sorted({*a.offsets, *b.offsets})) for a, b in zip(one.axes, other.axes, strict=True))
    if max(len(rows), len(columns)) > _WIDEST:
        raise Refusal(f"the kernel would be {max(len(rows), len(columns))} taps wide")
    one, other = (item.regroup(groups).placed(rows, columns) for item in (one, other))
    kernel = None if one.kernel is None or other.kernel is None else one.kernel + other.kernel
    return replace(one, support=one.support | other.support, kernel=kernel, unit=False)


def stack(parts: Sequence[Stencil]) -> Stencil:
    """Concatenate the output channels of several stencils."""
    if len(parts) == 1:
        return parts[0]
    rows, columns = (tuple(sorted({offset for part in parts for offset in part.axes[axis].offsets})) for axis in (0, 1))
    # The outputs of a group must be consecutive, so parts with groups are converted to read all channels.
    dense = [part.regroup(1).placed(rows, columns) for part in parts]
    kernels = [part.kernel for part in dense if part.kernel is not None]
    kernel = torch.cat(kernels) if len(kernels) == len(dense) else None
    support = np.logical_or.reduce([part.support for part in dense])
    channels = sum(part.channels_out for part in dense)
    return replace(dense[0], channels_out=channels, support=support, kernel=kernel, unit=False)


def select(stencil: Stencil, channels: Sequence[int]) -> Stencil:
    """Return the stencil with only these output channels."""
    if list(channels) == list(range(stencil.channels_out)):
        return stencil
    dense = stencil.regroup(1)
    kernel = None if dense.kernel is None else dense.kernel[list(channels)]
    return replace(dense, channels_out=len(channels), kernel=kernel, unit=False)


def trim(stencil: Stencil) -> Stencil:
    """Remove rows and columns in which all taps are zero."""
    support = stencil.support
    if stencil.kernel is not None:
        support = support_of(stencil.kernel)
    rows, columns = np.asarray(support.any(1)), np.asarray(support.any(0))
    if (rows.all() and columns.all()) or stencil.unit:
        return replace(stencil, support=support)
    if not rows.any():
        rows[len(rows) // 2] = columns[len(columns) // 2] = True
    kernel = None
    if stencil.kernel is not None:
        kernel = stencil.kernel[:, :, torch.from_numpy(rows)][:, :, :, torch.from_numpy(columns)]
    axes = [
        replace(axis, offsets=tuple(np.asarray(axis.offsets)[kept].tolist()))
        for axis, kept in zip(stencil.axes, (rows, columns), strict=True)
    ]
    return replace(stencil, rows=axes[0], columns=axes[1], support=support[np.ix_(rows, columns)], kernel=kernel)
