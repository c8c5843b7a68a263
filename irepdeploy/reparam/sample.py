"""Statistics of batch normalisations that stand behind linear maps of one input: running ones, and those of a sample.

A branch is linear up to its batch normalisation, so a training step needs only mean and variance of its map, not the
map. A `Sample` estimates them from patches of the input at some output positions. With all positions they are the
statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalisation import Norm, scale_shift, scale_shift_of, uses_batch

__all__ = ["RUNNING", "Sample", "Statistics", "Taps", "sample_size", "tap_slice"]

Taps = Literal["all", "middle", "ends"]
ScaleShift = tuple[Tensor, Tensor]

# Chosen by measurement: see the suite training-cost.
_SHARE, _LEAST, _MOST = 8, 256, 2048


class Statistics(Protocol):
    """Express a batch normalisation behind a linear map of the block's input as ``scale * y + shift``, each (C,)."""

    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        """Behind a convolution (C_out, C_in/groups, rows, columns) with the block's stride and padding.

        Equal rows and columns may be given as one. None stands for the identity: channel i reads channel i.
        """
        ...

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        """Behind a 1x1 convolution (C, C_in/groups, 1, 1) of stride 1 without padding."""
        ...


class _Running:
    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        return scale_shift(bn)

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        return scale_shift(bn)


RUNNING: Statistics = _Running()


class Sample:
    """Statistics of a batch (N, C_in, H, W) in train mode, from `count` of the output positions of a convolution.

    One position is drawn from each of `count` equal parts of the batch, so that all positions are equally likely. Mean
    and variance, and with them the gradients of input and kernels, come from the patches there. A normalisation in eval
    mode keeps its running statistics.

    Args:
        x: The batch.
        geometry: The convolution.
        count: Number of positions; all of them are the batch itself.
        kinds: The rows and columns that will be asked for; others are possible, and slower.
    """

    def __init__(self, x: Tensor, geometry: Geometry, count: int, kinds: Iterable[tuple[Taps, Taps]]) -> None:
        self._x = x
        self._geometry = geometry
        self._out = geometry.output_size((x.shape[2], x.shape[3]))
        self._all = count >= len(x) * self._out[0] * self._out[1]
        self._count = count
        self._kinds = dict.fromkeys([*kinds, ("all", "all")])
        # Not a cached property: torch.compile does not support its lock.
        self._gathered: dict[object, Tensor] | None = None

    @property
    def batch(self) -> Tensor:
        """The batch, for one reader beside the sample: it saves autograd a map for the gradient of the patches."""
        return self._x

    def of_taps(self, bn: Norm, kernel: Tensor | None, rows: Taps, columns: Taps, bias: Tensor | None) -> ScaleShift:
        """Express `bn` behind a convolution: see `Statistics`."""
        if not uses_batch(bn):
            return scale_shift(bn)
        if (rows, columns) in self._kinds:
            patch = self._patches[rows, columns]
        else:
            size = self._geometry.kernel
            whole = self._patches["all", "all"].unflatten(1, (size, size))
            patch = whole[:, tap_slice(rows, size), tap_slice(columns, size)].flatten(1, 2)
        return self._behind(bn, patch, kernel, bias)

    def of_pixels(self, bn: Norm, kernel: Tensor) -> ScaleShift:
        """Express `bn` behind a 1x1 convolution of the input: see `Statistics`."""
        if not uses_batch(bn):
            return scale_shift(bn)
        return self._behind(bn, self._patches["pixels"], kernel, None)

    def _behind(self, bn: Norm, patch: Tensor, kernel: Tensor | None, bias: Tensor | None) -> ScaleShift:
        """Express `bn` behind a kernel on patches (count, taps, C_in)."""
        count, taps, channels = patch.shape
        if kernel is None:
            y = patch.reshape(1, count, channels)
        else:
            matrix, groups = kernel.permute(0, 2, 3, 1).flatten(1, 2), self._geometry.groups
            if matrix.shape[1] == 1 < taps:
                patch, taps = patch.sum(1, keepdim=True), 1
            patch = patch.reshape(count, taps, groups, -1).permute(2, 0, 1, 3).reshape(groups, count, -1)
            matrix = matrix.reshape(groups, len(kernel) // groups, -1).to(patch.dtype)
            y = torch.bmm(patch, matrix.transpose(1, 2))
        # In float32 for a half-precision map, as torch's own kernels do.
        y = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        mean = y.mean(1, keepdim=True)
        var = (y - mean).square().mean(1).flatten()
        mean = mean.flatten() if bias is None else mean.flatten() + bias
        return scale_shift_of(bn, mean, var, count)

    @property
    def _patches(self) -> dict[object, Tensor]:
        """The input at the taps of each kind (count, taps, C_in) and at "pixels" (count, 1, C_in)."""
        if self._gathered is None:
            self._gathered = self._gather()
        return self._gathered

    def _gather(self) -> dict[object, Tensor]:
        geometry, (height, width) = self._geometry, self._x.shape[2:]
        taps = torch.arange(geometry.kernel, device=self._x.device)
        positions = self._draw(*self._out)
        found: dict[object, tuple[Tensor, Tensor]] = {}
        for rows, columns in self._kinds:
            row, column = (taps[tap_slice(kind, len(taps))] for kind in (rows, columns))
            found[rows, columns] = self._read(positions, row, column)
        middle = geometry.kernel // 2
        if geometry.stride == (1, 1) and geometry.tap_padding(middle, middle) == (0, 0):
            # The centres are all pixels.
            row = column = taps[middle : middle + 1]
            found["pixels"] = self._read(positions, row, column)
        else:
            image, row, column = self._draw(height, width)
            index = (image * height + row) * width + column
            found["pixels"] = index[:, None], torch.ones_like(index[:, None], dtype=torch.bool)
        index, inside = (torch.cat([pair[part].flatten() for pair in found.values()]) for part in (0, 1))
        inside = inside[:, None].to(self._x.dtype)
        if torch.compiler.is_compiling():
            gathered = _pixels(self._x).index_select(0, index) * inside
        else:
            self._x, gathered = _Patches.apply(self._x, index, inside)
        parts = gathered.split([pair[0].numel() for pair in found.values()])
        return {kind: part.reshape(*pair[0].shape, -1) for (kind, pair), part in zip(found.items(), parts, strict=True)}

    def _read(self, positions: tuple[Tensor, ...], row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of the pixel that each tap reads, and whether it lies inside of the map, (count, taps)."""
        geometry, (height, width) = self._geometry, self._x.shape[2:]
        image, i, j = (each[:, None] for each in positions)
        down = i * geometry.stride[0] - geometry.padding[0] + row * geometry.dilation[0]
        right = j * geometry.stride[1] - geometry.padding[1] + column * geometry.dilation[1]
        inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
        pixel = (image * height + down.clamp(0, height - 1))[:, :, None] * width
        return (pixel + right.clamp(0, width - 1)[:, None, :]).flatten(1), inside.flatten(1)

    def _draw(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw image, row and column of positions of maps of this size, each (count,)."""
        total = len(self._x) * height * width
        if self._all or self._count >= total:
            flat = torch.arange(total, device=self._x.device)
        else:
            flat = torch.arange(self._count, device=self._x.device)
            # In float64: float32 cannot tell all positions of a large batch apart.
            jitter = torch.rand(self._count, device=self._x.device, dtype=torch.float64)
            flat = ((flat + jitter) * (total / self._count)).long().clamp(max=total - 1)
        return flat // (height * width), flat // width % height, flat % width


class _Patches(torch.autograd.Function):
    """Return the map, and those of its pixels (count, C) that are read, times `inside`.

    The gradient of the pixels is added to that of the map in place; autograd would make a second map of zeros for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index, inside)
        return x.view_as(x), _pixels(x).index_select(0, index) * inside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        index, inside = ctx.saved_tensors
        # Nobody else holds it: a convolution alone reads the map that was returned.
        of_map = gradients[0].contiguous(memory_format=torch.channels_last)
        of_map.permute(0, 2, 3, 1).view(-1, of_map.shape[1]).index_add_(0, index, gradients[1] * inside)
        return of_map, None, None


def _pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*H*W, C), a view if channels last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def sample_size(positions: int) -> int:
    """Return how many of a block's output positions are sampled by default."""
    return min(max(_LEAST, min(positions // _SHARE, _MOST)), positions)


def tap_slice(kind: Taps, size: int) -> slice:
    """Return these taps of a side of `size` taps."""
    return {
        "all": slice(0, size, 1),
        "middle": slice(size // 2, size // 2 + 1, 1),
        "ends": slice(0, size, size - 1),
    }[kind]
