"""Statistics of batch normalizations that follow linear maps of one input: running statistics, and those of a sample.

A branch is linear up to its batch normalization, so a training step needs only the mean and variance of its map, not
the map itself. A `Sample` estimates them from patches of the input at some output positions. With all positions they
equal the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalization import Norm, moments_of_ranks, scale_shift, scale_shift_of, uses_batch

__all__ = ["RUNNING", "Sample", "Statistics", "Taps", "sample_size", "tap_slice"]

Taps = Literal["all", "middle", "ends"]
# Taps along rows and columns.
Kind = tuple[Taps, Taps]
Sides = tuple[slice, ...]
ScaleShift = tuple[Tensor, Tensor]

_ALL: Kind = ("all", "all")
_CENTRE: Kind = ("middle", "middle")

# Chosen by measurement, see docs/merged-step.md. Narrow layers cost little, and have few channels over which errors
# average out.
_LEAST, _MOST, _OF_CHANNELS = 256, 2048, 65536


class Statistics(Protocol):
    """Statistics that express a batch normalization as ``scale * y + shift``, where scale and shift are (C,).

    The batch normalization follows a linear map of the block's input.
    """

    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        """Return scale and shift of `bn` after a convolution with the block's stride and padding.

        Args:
            bn: The batch normalization.
            kernel: Kernel (C_out, C_in/groups, rows, columns), where equal rows or columns may be given as one. None
                is the identity, in which channel i reads channel i.
            rows: Rows of the KxK kernel that `kernel` covers.
            columns: Columns of the KxK kernel that `kernel` covers.
            bias: Bias of the convolution (C_out,), or None.
        """
        ...

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        """Return scale and shift of `bn` after a 1x1 convolution (C, C_in/groups, 1, 1), stride 1, no padding."""
        ...


class _Running:
    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        return scale_shift(bn)

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        return scale_shift(bn)


RUNNING: Statistics = _Running()


class Sample:
    """Batch statistics in train mode, estimated from some of the output positions of a convolution.

    One position is drawn from each of `count` equal parts of the batch, so that all positions are equally likely. Mean
    and variance, and therefore the gradients of input and kernels, are computed from the patches at these positions.
    A normalization in eval mode uses its running statistics.

    Args:
        x: The batch (N, C_in, H, W).
        geometry: Geometry of the convolution.
        count: Number of positions to sample. If it is at least the number of output positions, the statistics are
            those of the whole batch.
        kinds: Pairs of rows and columns that will be requested. Others are supported, but slower.
    """

    def __init__(self, x: Tensor, geometry: Geometry, count: int, kinds: Iterable[Kind]) -> None:
        self._x = x
        self._geometry = geometry
        self._out = geometry.output_size((x.shape[2], x.shape[3]))
        self._all = count >= len(x) * self._out[0] * self._out[1]
        self._count = count
        self._kinds: dict[Kind, None] = dict.fromkeys([_ALL, _CENTRE, *kinds])
        # Not cached properties, because torch.compile does not support their lock.
        self._gathered: dict[Kind, Tensor] | None = None
        self._drawn: Tensor | None = None

    @property
    def batch(self) -> Tensor:
        """The batch, for a single other reader; this saves autograd a map for the gradient of the patches."""
        return self._x

    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        """Return scale and shift of `bn` after a convolution; see `Statistics`."""
        if not uses_batch(bn):
            return scale_shift(bn)
        if (rows, columns) in self._kinds:
            patch = self._patches[rows, columns]
        else:
            size = self._geometry.kernel
            patch = self._patches[_ALL][:, tap_slice(rows, size), tap_slice(columns, size)]
        return self._behind(bn, patch, kernel, bias)

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        """Return scale and shift of `bn` after a 1x1 convolution of the input; see `Statistics`."""
        if not uses_batch(bn):
            return scale_shift(bn)
        return self._behind(bn, self._pixels, kernel, None)

    def _behind(self, bn: Norm, patch: Tensor, kernel: Tensor | None, bias: Tensor | None) -> ScaleShift:
        """Return scale and shift of `bn` after a kernel applied to patches (count, rows, columns, C_in)."""
        mean, var = self._moments(patch, kernel)
        return scale_shift_of(bn, mean if bias is None else mean + bias, var, len(patch))

    def moments(self, kernel: Tensor, bn: Norm) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C_out,) after a kernel with all taps, of all ranks if `bn` is a SyncBatchNorm."""
        patch = self._patches[_ALL]
        return moments_of_ranks(bn, *self._moments(patch, kernel), len(patch))[:2]

    def _moments(self, patch: Tensor, kernel: Tensor | None) -> tuple[Tensor, Tensor]:
        matrix, groups = None, self._geometry.groups
        if kernel is not None:
            # Equal taps are given as one.
            repeated = [axis for axis in (1, 2) if kernel.shape[axis + 1] < patch.shape[axis]]
            if repeated:
                patch = patch.sum(repeated, keepdim=True)
            matrix = kernel.permute(0, 2, 3, 1).flatten(1, 2).to(patch.dtype)
        if not torch.compiler.is_compiling():
            found: tuple[Tensor, Tensor] = _Moments.apply(patch, matrix, groups)
            return found
        y = _wide(_mapped(patch, matrix, groups))
        mean = _mean(y)
        return mean.flatten(), _mean((y - mean).square()).flatten()

    @property
    def _patches(self) -> dict[Kind, Tensor]:
        """Patches of the input (count, rows, columns, C_in) at the taps of each kind."""
        if self._gathered is None:
            self._gathered = self._gather()
        return self._gathered

    @property
    def _pixels(self) -> Tensor:
        """Pixels of the input (count, 1, 1, C_in), all equally likely."""
        geometry, (height, width) = self._geometry, self._x.shape[2:]
        middle = geometry.kernel // 2
        if geometry.stride == (1, 1) and geometry.tap_padding(middle, middle) == (0, 0):
            # Every pixel is the centre of a window.
            return self._patches[_CENTRE]
        if self._drawn is None:
            image, row, column = self._draw(height, width)
            index = (image * height + row) * width + column
            [self._drawn] = self._read(index[:, None, None], torch.ones_like(index[:, None, None]), [_CENTRE])
        return self._drawn

    def _gather(self) -> dict[Kind, Tensor]:
        geometry, (height, width) = self._geometry, self._x.shape[2:]
        image, i, j = (each[:, None] for each in self._draw(*self._out))
        taps = torch.arange(geometry.kernel, device=self._x.device)
        down = i * geometry.stride[0] - geometry.padding[0] + taps * geometry.dilation[0]
        right = j * geometry.stride[1] - geometry.padding[1] + taps * geometry.dilation[1]
        inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
        pixel = (image * height + down.clamp(0, height - 1))[:, :, None] * width
        index = pixel + right.clamp(0, width - 1)[:, None, :]
        return dict(zip(self._kinds, self._read(index, inside, list(self._kinds)), strict=True))

    def _read(self, index: Tensor, inside: Tensor, kinds: list[Kind]) -> Sequence[Tensor]:
        """Read pixels (count, rows, columns), with zeros outside of `inside`, and return the taps of each kind."""
        sides = [tuple(tap_slice(kind, index.shape[1]) for kind in pair) for pair in kinds]
        inside = inside.unsqueeze(-1).to(self._x.dtype)
        if torch.compiler.is_compiling():
            return _taps(_flat(self._x).index_select(0, index.flatten()).unflatten(0, index.shape) * inside, sides)
        self._x, *parts = _Patches.apply(self._x, index, inside, sides)
        return parts

    def _draw(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw positions in maps of this size, and return their image, row and column, each (count,)."""
        total = len(self._x) * height * width
        if self._all or self._count >= total:
            flat = torch.arange(total, device=self._x.device)
        else:
            flat = torch.arange(self._count, device=self._x.device)
            # float64, because float32 cannot represent every position of a large batch.
            jitter = torch.rand(self._count, device=self._x.device, dtype=torch.float64)
            flat = ((flat + jitter) * (total / self._count)).long().clamp(max=total - 1)
        return flat // (height * width), flat // width % height, flat % width


class _Patches(torch.autograd.Function):
    """Return the map, and views of the taps of patches (count, rows, columns) of its pixels, times `inside`.

    The gradient of the pixels is added in place to that of the map, for which autograd would create a second map of
    zeros.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inside: Tensor, sides: list[Sides]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(index, inside)
        ctx.sides = sides
        patches = _flat(x).index_select(0, index.flatten()).unflatten(0, index.shape).mul_(inside)
        return x.view_as(x), *_taps(patches, sides)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        index, inside = ctx.saved_tensors
        # Nothing else holds this gradient, because only a convolution reads the returned map.
        of_map = gradients[0].contiguous(memory_format=torch.channels_last)
        of_patches = of_map.new_zeros((*index.shape, of_map.shape[1]))
        for (rows, columns), gradient in zip(ctx.sides, gradients[1:], strict=True):
            of_patches[:, rows, columns] += gradient
        of_patches *= inside
        of_map.permute(0, 2, 3, 1).view(-1, of_map.shape[1]).index_add_(0, index.flatten(), of_patches.flatten(0, 2))
        return of_map, None, None, None


def _flat(x: Tensor) -> Tensor:
    """Reshape (N, C, H, W) to (N*H*W, C), as a view if `x` is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _taps(patches: Tensor, sides: list[Sides]) -> list[Tensor]:
    """Return the views of patches (count, rows, columns, C) at each of `sides`."""
    return [patches[:, rows, columns] for rows, columns in sides]


class _Moments(torch.autograd.Function):
    """Mean and variance (C_out,) of a linear map of patches (count, rows, columns, C_in).

    It saves the centred map for the gradient, for which autograd would make five passes where one is enough: with n
    patches, ``dy = dmean / n + 2 * dvar * (y - mean) / n``. Taps of patches are copied again instead of saved.
    """

    @staticmethod
    def forward(ctx: Any, patch: Tensor, matrix: Tensor | None, groups: int) -> tuple[Tensor, Tensor]:
        y = _wide(_mapped(patch, matrix, groups))
        mean = _mean(y)
        centred = y - mean
        ctx.save_for_backward(patch, matrix, centred)
        return mean.flatten(), _mean(centred.square()).flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        patch, matrix, centred = ctx.saved_tensors
        groups, count = centred.shape[:2]
        of_mean, of_var = (each.reshape(groups, 1, -1) / max(count, 1) for each in gradients)
        of_map = torch.addcmul(of_mean, centred, of_var, value=2).to(patch.dtype)
        if matrix is None:
            return of_map.reshape(patch.shape), None, None
        of_matrix = torch.bmm(of_map.transpose(1, 2), _rows(patch, groups)).reshape(matrix.shape)
        of_rows = torch.bmm(of_map, _by_group(matrix, groups)).reshape(groups, count, *matrix.shape[1:])
        return of_rows.permute(1, 2, 0, 3).reshape(patch.shape), of_matrix, None


def _mapped(patch: Tensor, matrix: Tensor | None, groups: int) -> Tensor:
    """Apply a matrix (C_out, taps, C_in/groups), or the identity if None; return (groups, count, C_out/groups)."""
    if matrix is None:
        return patch.reshape(1, len(patch), patch.shape[3])
    return torch.bmm(_rows(patch, groups), _by_group(matrix, groups).transpose(1, 2))


def _rows(patch: Tensor, groups: int) -> Tensor:
    """Return the patches as rows (groups, count, taps * C_in/groups) to multiply by the matrix."""
    count, rows, columns, channels = patch.shape
    return patch.reshape(count, rows * columns, groups, channels // groups).permute(2, 0, 1, 3).flatten(2)


def _by_group(matrix: Tensor, groups: int) -> Tensor:
    """Return a matrix (C_out, taps, C_in/groups) as (groups, C_out/groups, taps * C_in/groups)."""
    return matrix.reshape(groups, len(matrix) // groups, -1)


def _mean(y: Tensor) -> Tensor:
    """Return the mean of (groups, count, C) over the positions as (groups, 1, C), or 0 on a rank without positions."""
    return y.sum(1, keepdim=True) / max(y.shape[1], 1)


def _wide(y: Tensor) -> Tensor:
    """Convert a half-precision map to float32, in which torch's own kernels compute statistics."""
    return y.float() if y.dtype in (torch.float16, torch.bfloat16) else y


def sample_size(positions: int, channels: int) -> int:
    """Return how many of `positions` output positions are sampled by default, for this number of output channels."""
    return min(max(_LEAST, min(_OF_CHANNELS // channels, _MOST)), positions)


def tap_slice(kind: Taps, size: int) -> slice:
    """Return the slice of these taps along a side of `size` taps."""
    return {
        "all": slice(0, size, 1),
        "middle": slice(size // 2, size // 2 + 1, 1),
        "ends": slice(0, size, size - 1),
    }[kind]
