"""The candidate operations of the re-parameterization search space, one class each (Section 3.1).

Each stands beside a fixed 3x3 convolution, ends in its own batch normalisation, and knows the 3x3 kernel and the bias
that it is equal to in eval mode. `BRANCHES` names them all.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.reparam import algebra
from irepdeploy.reparam.geometry import Geometry, pad_or_crop

__all__ = ["BRANCHES", "Branch", "batch_norm", "possible_branches", "scale_shift"]


class Branch(nn.Module):
    """One candidate operation.

    A subclass sets `name`, builds its layers in ``__init__`` and gives `forward` and `equivalent`.
    """

    name: ClassVar[str]

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        """Why the branch cannot stand beside a convolution of this geometry, or None where it can."""
        return None

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W'), times the scalar `factor` where one is given."""
        raise NotImplementedError

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """The 3x3 kernel (C_out, C_in/groups, 3, 3) and the bias (C_out,) that the branch equals in eval mode."""
        raise NotImplementedError


class _TapBranch(Branch):
    """A convolution over some taps of the 3x3 kernel, then batch normalisation."""

    rows: ClassVar[tuple[int, ...]]
    columns: ClassVar[tuple[int, ...]]

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.padding = geometry.tap_padding(self.rows[0], self.columns[0])
        self.conv = nn.Conv2d(
            geometry.in_channels,
            geometry.out_channels,
            (len(self.rows), len(self.columns)),
            stride=geometry.stride,
            dilation=(
                geometry.dilation[0] * _spread(self.rows),
                geometry.dilation[1] * _spread(self.columns),
            ),
            groups=geometry.groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        x, padding = pad_or_crop(x, self.padding)
        conv = self.conv
        y = F.conv2d(x, conv.weight, None, conv.stride, padding, conv.dilation, conv.groups)
        return batch_norm(y, self.bn, factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        kernel = algebra.embed(self.conv.weight, self.rows, self.columns)
        return algebra.fold_scale_shift(kernel, None, *scale_shift(self.bn))


class Conv3x3(_TapBranch):
    """A second 3x3 convolution; not in the paper's search space, but peers use it."""

    name = "conv3x3"
    rows, columns = (0, 1, 2), (0, 1, 2)


class Conv1x3(_TapBranch):
    """1x3 convolution: the middle row."""

    name = "conv1x3"
    rows, columns = (1,), (0, 1, 2)


class Conv3x1(_TapBranch):
    """3x1 convolution: the middle column."""

    name = "conv3x1"
    rows, columns = (0, 1, 2), (1,)


class Conv1x1(_TapBranch):
    """1x1 convolution: the centre."""

    name = "conv1x1"
    rows, columns = (1,), (1,)


class Dil1x2(_TapBranch):
    """1x2 convolution of dilation 2: the two ends of the middle row."""

    name = "dil1x2"
    rows, columns = (1,), (0, 2)


class Dil2x1(_TapBranch):
    """2x1 convolution of dilation 2: the two ends of the middle column."""

    name = "dil2x1"
    rows, columns = (0, 2), (1,)


class Dil2x2(_TapBranch):
    """2x2 convolution of dilation 2: the four corners."""

    name = "dil2x2"
    rows, columns = (0, 2), (0, 2)


class Conv1x1Conv3x3(Branch):
    """1x1 convolution to C_in channels, BN, 3x3 convolution, BN.

    Between the two the map is padded with the first BN's image of zero, so that the whole is one convolution at the
    border too. With ``bn(h) = s * h + z`` that is a zero-padded convolution of h with the kernel times s, plus the sum
    of kernel times z: no padded map is ever made.
    """

    name = "conv1x1_3x3"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        channels, groups = geometry.in_channels, geometry.groups
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels,
            geometry.out_channels,
            3,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            groups=groups,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(geometry.out_channels)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        geometry = self.geometry
        h = self.conv1(x)
        scale, shift = scale_shift(self.bn1, h)
        kernel, bias = self._second(scale, shift)
        y = F.conv2d(h, kernel, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        return batch_norm(y, self.bn2, factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        kernel, bias = self._second(*scale_shift(self.bn1))
        zero = torch.zeros_like(self.bn1.running_mean)  # type: ignore[arg-type]  # our BNs track statistics
        kernel, _ = algebra.chain_1x1(self.conv1.weight, zero, kernel, self.geometry.groups)
        return algebra.fold_scale_shift(kernel, bias, *scale_shift(self.bn2))

    def _second(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The second convolution with the first BN in it."""
        groups = self.geometry.groups
        weight = self.conv2.weight
        bias = algebra.scale_inputs(weight, shift, groups).sum((1, 2, 3))
        return algebra.scale_inputs(weight, scale, groups), bias


class Conv1x1Avg3x3(Branch):
    """1x1 convolution to C_out channels, BN, 3x3 average pool that always divides by 9, BN.

    The map is padded with the first BN's image of zero, as in `Conv1x1Conv3x3`; a pool of ``s * h + z`` padded with z
    is ``s * pool(h) + z`` with h padded with zero.
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
        y = torch.addcmul(_per_channel(shift), self._pool(h), _per_channel(scale))
        return batch_norm(y, self.bn2, factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        kernel, bias = algebra.fold_scale_shift(algebra.average(self.conv.weight), None, *scale_shift(self.bn1))
        return algebra.fold_scale_shift(kernel, bias, *scale_shift(self.bn2))

    def _pool(self, h: Tensor) -> Tensor:
        geometry = self.geometry
        if geometry.dilation == (1, 1) and max(geometry.padding) <= 1:
            return F.avg_pool2d(h, 3, geometry.stride, geometry.padding, count_include_pad=True)
        # avg_pool2d has neither dilation nor padding above half its window.
        window = h.new_full((h.shape[1], 1, 3, 3), 1 / 9)
        return F.conv2d(h, window, None, geometry.stride, geometry.padding, geometry.dilation, h.shape[1])


class Identity(Branch):
    """Batch normalisation alone; only where C_in = C_out and the stride is 1."""

    name = "identity"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.padding = geometry.tap_padding(1, 1)
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        if geometry.keeps_shape:
            return None
        return "an identity needs as many output as input channels and stride 1"

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        height, width = self.padding
        if (height, width) != (0, 0):
            x = F.pad(x, (width, width, height, height))
        return batch_norm(x, self.bn, factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        scale, shift = scale_shift(self.bn)
        kernel = algebra.identity(self.geometry.out_channels, self.geometry.groups, scale)
        return algebra.fold_scale_shift(kernel, None, scale, shift)


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
    )
}


def possible_branches(geometry: Geometry, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` that can stand beside a convolution of this geometry."""
    return tuple(name for name in names if BRANCHES[name].impossible(geometry) is None)


def batch_norm(x: Tensor, bn: nn.BatchNorm2d, factor: Tensor | None) -> Tensor:
    """``factor * bn(x)``, the factor taken into the affine of the normalisation: one pass over the map less."""
    if factor is None:
        return bn(x)
    if type(bn) is not nn.BatchNorm2d or bn.weight is None:
        return bn(x) * factor
    momentum = _count_batch(bn)
    return F.batch_norm(
        x,
        bn.running_mean,
        bn.running_var,
        bn.weight * factor,
        bn.bias * factor,
        bn.training or bn.running_mean is None,
        momentum,
        bn.eps,
    )


def scale_shift(bn: nn.BatchNorm2d, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`bn` as ``scale * x + shift``: by the running statistics, or in train mode by those of the batch `x`.

    With a batch in train mode the running statistics move as they do in torch's own forward pass.

    Args:
        x: (N, C, H, W), or None to take the running statistics in any mode.
    """
    if x is None or not bn.training:
        assert bn.running_mean is not None and bn.running_var is not None
        return algebra.bn_scale_shift(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)
    # Statistics of a half-precision map are taken in float32, as torch's own kernels do.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
    if bn.running_mean is not None and bn.running_var is not None:
        momentum = _count_batch(bn)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), momentum)
            bn.running_var.lerp_((var * (count / max(count - 1, 1))).to(bn.running_var.dtype), momentum)
    return algebra.bn_scale_shift(bn.weight, bn.bias, mean, var, bn.eps)


def _count_batch(bn: nn.BatchNorm2d) -> float:
    """Count a batch in train mode and return the weight of its statistics."""
    if bn.training and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            return 1.0 / float(bn.num_batches_tracked)
    return 0.0 if bn.momentum is None else bn.momentum


def _per_channel(vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, 1, 1)


def _spread(taps: tuple[int, ...]) -> int:
    return taps[1] - taps[0] if len(taps) > 1 else 1
