"""The candidate operations of the re-parameterization search space, one class each (Section 3.1).

Each branch runs in parallel to a fixed KxK convolution, ends in its own batch normalization, and can compute the KxK
kernel and the bias that it equals in eval mode. `BRANCHES` lists all of them by name. The names are those for a 3x3
convolution: beside a 5x5 one, ``conv1x3`` is a 1x5 convolution and ``conv1x1_avg3x3`` pools 5x5. A convolution may have
the same branch more than once: ``conv3x3_2`` is the second ``conv3x3``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.errors import ArchitectureError, choices
from irepdeploy.reparam import algebra
from irepdeploy.reparam.geometry import Geometry, pad_or_crop
from irepdeploy.reparam.normalization import batch_norm, scale_shift
from irepdeploy.reparam.sample import RUNNING, Statistics, Taps, tap_slice

__all__ = ["BRANCHES", "Branch", "branch_class", "possible_branches", "register_branch"]

Linear = tuple[Tensor, Tensor | None, Tensor, Tensor]


class Branch(nn.Module):
    """Base class of the candidate operations.

    A subclass sets `name`, builds its layers in ``__init__`` and defines `forward` and `linear`. `rows` and `columns`
    are the taps of the KxK kernel that `linear` returns. A subclass that defines `equivalent_taps` instead of `linear`
    runs its `forward` in a merged step too.

    Args:
        geometry: Geometry of the fixed convolution.
    """

    name: ClassVar[str]
    rows: ClassVar[Taps] = "all"
    columns: ClassVar[Taps] = "all"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        """Return why the branch is impossible beside a convolution of this geometry, or None if it is possible."""
        return None

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), multiplied by the scalar `factor` if given."""
        raise NotImplementedError

    def linear(self, statistics: Statistics) -> Linear | None:
        """Return kernel and bias of the map before the last normalization, and the scale and shift of the latter.

        Args:
            statistics: Expresses every batch normalization of the branch as a scale and a shift.

        Returns:
            The kernel (C_out, C_in/groups, rows, columns), whose equal rows may be given as one row and equal columns
            as one column, the bias (C_out,) or None, the scale (C_out,) and the shift (C_out,). None if the branch
            does not support merging.
        """
        return None

    def equivalent_taps(self) -> tuple[Tensor, Tensor]:
        """Return the kernel (C_out, C_in/groups, rows, columns) and the bias (C_out,) of the branch in eval mode."""
        found = self.linear(RUNNING)
        if found is None:
            raise NotImplementedError
        return algebra.fold_scale_shift(*found)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Return the kernel (C_out, C_in/groups, K, K) and the bias (C_out,) of the branch in eval mode."""
        taps, bias = self.equivalent_taps()
        size = self.geometry.kernel
        kernel = taps.new_zeros((*taps.shape[:2], size, size))
        algebra.add_taps(kernel, taps, tap_slice(self.rows, size), tap_slice(self.columns, size))
        return kernel, bias

    def add_to(self, kernel: Tensor, bias: Tensor, factor: Tensor | None) -> None:
        """Add the kernel and bias of `equivalent`, times the scalar `factor`, to `kernel` and `bias` in place."""
        taps, shift = self.equivalent_taps()
        size = self.geometry.kernel
        algebra.add_taps(kernel, taps, tap_slice(self.rows, size), tap_slice(self.columns, size), factor)
        bias += shift if factor is None else shift * factor


class _TapBranch(Branch):
    """A convolution over some taps of the KxK kernel, followed by batch normalization."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        taps = range(geometry.kernel)
        rows, columns = taps[tap_slice(self.rows, len(taps))], taps[tap_slice(self.columns, len(taps))]
        self.padding = geometry.tap_padding(rows[0], columns[0])
        self.conv = nn.Conv2d(
            geometry.in_channels,
            geometry.out_channels,
            (len(rows), len(columns)),
            stride=geometry.stride,
            dilation=(geometry.dilation[0] * rows.step, geometry.dilation[1] * columns.step),
            groups=geometry.groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        if "ends" in (cls.rows, cls.columns) and geometry.kernel != 3:
            return "a dilated pair of taps exists only beside a 3x3 convolution"
        return None

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        x, padding = pad_or_crop(x, self.padding)
        conv, stride = self.conv, self.geometry.stride
        if conv.kernel_size == (1, 1) and padding == (0, 0) and stride != (1, 1):
            # Crop to the pixels that are read: with few channels in channels_last, the CPU's backward pass of a
            # strided 1x1 convolution writes out of bounds (oneDNN, torch 2.13).
            x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
        y = F.conv2d(x, conv.weight, None, stride, padding, conv.dilation, conv.groups)
        return batch_norm(y, self.bn, factor)

    def linear(self, statistics: Statistics) -> Linear:
        weight = self.conv.weight
        return weight, None, *statistics.of_taps(self.bn, weight, self.rows, self.columns, None)


class Conv3x3(_TapBranch):
    """A second KxK convolution, used by other papers but not part of the paper's search space."""

    name, rows, columns = "conv3x3", "all", "all"


class Conv1x3(_TapBranch):
    """1xK convolution over the middle row."""

    name, rows, columns = "conv1x3", "middle", "all"


class Conv3x1(_TapBranch):
    """Kx1 convolution over the middle column."""

    name, rows, columns = "conv3x1", "all", "middle"


class Conv1x1(_TapBranch):
    """1x1 convolution at the centre tap."""

    name, rows, columns = "conv1x1", "middle", "middle"


class Dil1x2(_TapBranch):
    """1x2 convolution of dilation 2 over the two ends of the middle row."""

    name, rows, columns = "dil1x2", "middle", "ends"


class Dil2x1(_TapBranch):
    """2x1 convolution of dilation 2 over the two ends of the middle column."""

    name, rows, columns = "dil2x1", "ends", "middle"


class Dil2x2(_TapBranch):
    """2x2 convolution of dilation 2 over the four corners."""

    name, rows, columns = "dil2x2", "ends", "ends"


class Conv1x1Conv3x3(Branch):
    """1x1 convolution to C_in channels, BN, KxK convolution, BN.

    The map between the two convolutions is padded with the first BN's output for a zero input, so that the branch
    equals one convolution at the border too. With ``bn(h) = s * h + z`` this is a zero-padded convolution of h with the
    kernel times s, plus the sum of the kernel times z, so no padded map has to be created.
    """

    name = "conv1x1_3x3"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        inner, groups = self.inner_channels(geometry), geometry.groups
        self.conv1 = nn.Conv2d(geometry.in_channels, inner, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = replace(geometry, in_channels=inner).conv(bias=False)
        self.bn2 = nn.BatchNorm2d(geometry.out_channels)

    @staticmethod
    def inner_channels(geometry: Geometry) -> int:
        """Return the number of channels between the two convolutions."""
        return geometry.in_channels

    def first_kernel(self) -> Tensor:
        """Return the 1x1 kernel (inner channels, C_in/groups, 1, 1)."""
        return self.conv1.weight

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        geometry = self.geometry
        h = F.conv2d(x, self.first_kernel(), groups=geometry.groups)
        scale, shift = scale_shift(self.bn1, h)
        kernel, bias = self._second(scale, shift)
        # The statistics of a half-precision map are float32; convolve in the dtype of the map.
        kernel, bias = kernel.to(h.dtype), bias.to(h.dtype)
        y = F.conv2d(h, kernel, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        return batch_norm(y, self.bn2, factor)

    def linear(self, statistics: Statistics) -> Linear:
        first = self.first_kernel()
        scale, shift = statistics.of_pixels(self.bn1, first)
        # Scale the smaller of the two kernels. Batch statistics of a half-precision map are float32.
        first, shift = algebra.fold_scale_shift(first, None, scale, shift)
        kernel, bias = algebra.chain_1x1(first, shift, self.conv2.weight.to(first.dtype), self.geometry.groups)
        return kernel, bias, *statistics.of_taps(self.bn2, kernel, "all", "all", bias)

    def _second(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return kernel and bias of the second convolution, with the first BN folded in."""
        groups = self.geometry.groups
        weight = self.conv2.weight
        taps = weight.sum((2, 3)).reshape(groups, -1, weight.shape[1])
        bias = (taps * shift.reshape(groups, 1, -1)).sum(2).reshape(-1)
        return algebra.scale_inputs(weight, scale, groups), bias


class IdConv1x1Conv3x3(Conv1x1Conv3x3):
    """DBB's 1x1-KxK chain, whose 1x1 kernel is I + W with W initialized to 0.

    Beside a depthwise convolution the 1x1 kernel is an ordinary one, and the chain is twice as wide.
    """

    name = "idconv1x1_3x3"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        if not geometry.depthwise:
            nn.init.zeros_(self.conv1.weight)

    @staticmethod
    def inner_channels(geometry: Geometry) -> int:
        return geometry.in_channels * (2 if geometry.depthwise else 1)

    def first_kernel(self) -> Tensor:
        weight = self.conv1.weight
        if self.geometry.depthwise:
            return weight
        return weight + algebra.identity(self.geometry.in_channels, self.geometry.groups, weight)


class Conv1x1Avg3x3(Branch):
    """1x1 convolution to C_out channels, BN, KxK average pool that always divides by K*K, BN.

    The map is padded with the first BN's output for a zero input, as in `Conv1x1Conv3x3`. Pooling ``s * h + z`` padded
    with z equals ``s * pool(h) + z`` with h padded with zero.
    """

    name = "conv1x1_avg3x3"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        channels = geometry.out_channels
        self.conv = nn.Conv2d(geometry.in_channels, channels, 1, groups=geometry.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        scale, shift = scale_shift(self.bn1, h)
        scale, shift = scale.to(h.dtype), shift.to(h.dtype)
        y = torch.addcmul(_per_channel(shift), _pool(h, self.geometry), _per_channel(scale))
        return batch_norm(y, self.bn2, factor)

    def linear(self, statistics: Statistics) -> Linear:
        weight = self.conv.weight
        scale, shift = statistics.of_pixels(self.bn1, weight)
        kernel, bias = algebra.fold_scale_shift(weight / self.geometry.kernel**2, None, scale, shift)
        return kernel, bias, *statistics.of_taps(self.bn2, kernel, "all", "all", bias)


class Avg3x3(Branch):
    """KxK average pool that always divides by K*K, then BN; DBB's pool beside a depthwise convolution."""

    name = "avg3x3"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        if geometry.in_channels == geometry.out_channels:
            return None
        return "a pool needs as many output channels as input channels"

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        return batch_norm(_pool(x, self.geometry), self.bn, factor)

    def linear(self, statistics: Statistics) -> Linear:
        geometry = self.geometry
        kernel = algebra.identity(geometry.out_channels, geometry.groups, self.bn.weight) / geometry.kernel**2
        return kernel, None, *statistics.of_taps(self.bn, kernel, "all", "all", None)


class Identity(Branch):
    """Batch normalization alone, possible only if C_in = C_out and the stride is 1."""

    name, rows, columns = "identity", "middle", "middle"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        middle = geometry.kernel // 2
        self.padding = geometry.tap_padding(middle, middle)
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        if geometry.keeps_shape:
            return None
        return "an identity needs as many output channels as input channels, and stride 1"

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        height, width = self.padding
        if (height, width) != (0, 0):
            x = F.pad(x, (width, width, height, height))
        return batch_norm(x, self.bn, factor)

    def linear(self, statistics: Statistics) -> Linear:
        kernel = algebra.identity(self.geometry.out_channels, self.geometry.groups, self.bn.weight)
        return kernel, None, *statistics.of_taps(self.bn, None, self.rows, self.columns, None)


BRANCHES: dict[str, type[Branch]] = {
    branch.name: branch
    for branch in (
        Conv1x3,
        Conv3x1,
        Conv1x1,
        Conv1x1Conv3x3,
        Conv1x1Avg3x3,
        Dil1x2,
        Dil2x1,
        Dil2x2,
        Identity,
        Conv3x3,
        IdConv1x1Conv3x3,
        Avg3x3,
    )
}

_REPEATED = re.compile(r"(.+)_([2-9]|[1-9][0-9]+)")


def branch_class(name: str) -> type[Branch]:
    """Return the class of a branch; ``conv3x3_2`` is the second ``conv3x3`` beside one convolution.

    Raises:
        ArchitectureError: No branch has this name.
    """
    if name in BRANCHES:
        return BRANCHES[name]
    repeated = _REPEATED.fullmatch(name)
    if repeated and repeated[1] in BRANCHES:
        return BRANCHES[repeated[1]]
    raise ArchitectureError(f"unknown branch {name!r}", hint=choices(name, BRANCHES))


def register_branch(branch: type[Branch]) -> type[Branch]:
    """Register a custom branch class, so that presets, lists and Architectures can refer to it by name.

    Use it as a class decorator; it returns `branch`. Test the class with `irepdeploy.testing.BranchContract`.

    Raises:
        ArchitectureError: The name is already taken, or is not valid.
    """
    name = getattr(branch, "name", "")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or _REPEATED.fullmatch(name):
        raise ArchitectureError(
            f"{name!r} cannot name a branch", where=branch.__name__, hint="letters, digits and _; no number at its end"
        )
    if BRANCHES.setdefault(name, branch) is not branch:
        raise ArchitectureError(f"branch {name!r} is already registered", where=branch.__name__)
    return branch


def possible_branches(geometry: Geometry, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the branches among `names` that are possible beside a convolution of this geometry."""
    return tuple(name for name in names if branch_class(name).impossible(geometry) is None)


def _pool(x: Tensor, geometry: Geometry) -> Tensor:
    """Average each KxK window, padded zeros included."""
    size = geometry.kernel
    if geometry.dilation == (1, 1) and max(geometry.padding) <= size // 2:
        return F.avg_pool2d(x, size, geometry.stride, geometry.padding, count_include_pad=True)
    # avg_pool2d supports neither dilation nor padding above half its window.
    window = x.new_full((x.shape[1], 1, size, size), 1 / size**2)
    return F.conv2d(x, window, None, geometry.stride, geometry.padding, geometry.dilation, x.shape[1])


def _per_channel(vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, 1, 1)
