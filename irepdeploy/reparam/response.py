"""Run a module of any class on test maps, and derive its stride and offsets from the responses."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from irepdeploy.errors import NotFusable, first_line
from irepdeploy.reparam.comparator import TOLERANCES, relative_error

__all__ = ["Response", "check_kind", "significant"]

# Sides of square maps in pixels. The smallest that a module accepts is used; offsets are found on the largest.
_SIDES = (15, 31, 63)

# Responses below this share of the channel's largest, or below the rounding error of the response to zero, count as
# zero.
_NEGLIGIBLE = 1e-12
_ROUNDING = 8 * torch.finfo(torch.float64).eps

_HINT = "leave the module as it is, or fuse smaller parts of it"


class Response:
    """A copy of a module that is run on maps (N, C_in, H, W), with a check of every output.

    Args:
        module: The module, in eval mode; it is not changed.
        where: Name of the module in error messages.
        in_channels: Number of input channels. By default the channel counts of the convolutions and batch
            normalizations of the module are tried in order.
        wide: Convert the copy to float64. Otherwise maps have the dtype of its first floating-point tensor.

    Raises:
        NotFusable: The module cannot be copied, or runs on no map.
    """

    def __init__(self, module: nn.Module, where: str, in_channels: int | None = None, *, wide: bool = True) -> None:
        self.where = where
        try:
            self.module = copy.deepcopy(module)
            if wide:
                self.module.double()
        except Exception as error:  # anything that a foreign state raises
            raise self.refusal(f"it cannot be copied: {first_line(error)}") from error
        tensors = itertools.chain(module.parameters(), module.buffers())
        like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
        self.device = like.device
        self.dtype = torch.float64 if wide else like.dtype
        known = _channel_counts(module) if in_channels is None else [in_channels]
        if not known:
            raise self.refusal("the number of its input channels is unknown", hint="pass in_channels")
        self.channels, self.side = self._first_that_runs(known, inferred=in_channels is None)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), or raise NotFusable if the output is not a finite map."""
        try:
            y: object = self.module(x)
        except Exception as error:  # anything that a foreign forward raises
            text = f"it does not run on every map: {x.shape[2]}x{x.shape[3]} pixels fail with: {first_line(error)}"
            raise self.refusal(text) from error
        if isinstance(y, tuple | list | dict):
            raise self.refusal(f"expected one map as its output, got a {type(y).__name__} of {len(y)}")
        if not isinstance(y, Tensor):
            raise self.refusal(f"expected a map as its output, got {type(y).__name__}")
        if y.ndim != x.ndim:
            raise self.refusal(f"it changes the rank: a map of 4 dimensions becomes {y.ndim}")
        if y.shape[0] != x.shape[0]:
            raise self.refusal(f"it returns {y.shape[0]} samples for {x.shape[0]}")
        if y.numel() == 0:
            raise self.refusal(f"it returns an empty map for {x.shape[2]}x{x.shape[3]} pixels")
        if y.dtype != x.dtype:
            raise self.refusal(
                f"it returns {str(y.dtype).removeprefix('torch.')} for an input of any dtype",
                hint="remove the cast inside it",
            )
        if not bool(torch.isfinite(y).all()):
            raise self.refusal("it returns NaN or infinity", hint="its weights or statistics are damaged")
        return y

    def refusal(self, what: str, hint: str | None = None) -> NotFusable:
        """Return the NotFusable error to raise."""
        return NotFusable(f"this is not one convolution: {what}", where=self.where, hint=hint or _HINT)

    def zeros(self, samples: int, height: int, width: int) -> Tensor:
        """Return a map (samples, C_in, height, width) of zeros."""
        return torch.zeros(samples, self.channels, height, width, dtype=self.dtype, device=self.device)

    def random(self, samples: int, height: int, width: int, seed: int = 0) -> Tensor:
        """Return a seeded map of normal values, drawn in float64 and cast so that all dtypes get the same values."""
        generator = torch.Generator().manual_seed(seed)
        shape = (samples, self.channels, height, width)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def check_affine(self) -> None:
        """Raise NotFusable if the response to a sum is not the sum of the responses, at either of two amplitudes."""
        for amplitude in (1.0, 1e3):
            x, y = (amplitude * self.random(2, self.side, self.side)).split(1)
            # One sample per run, because samples of one batch would share batch statistics.
            expected, found = self(x) + self(y), self(x + y) + self(torch.zeros_like(x))
            error = relative_error(expected.cpu().numpy(), found.cpu().numpy())
            if not error <= TOLERANCES["float64"].max_rel_error:
                raise self.refusal(
                    f"it is not affine: the response to a sum differs from the sum of the responses by {error:.1e}",
                    hint="it contains a non-linearity or a statistic of the batch; fuse the parts between those",
                )

    def growth(self) -> list[tuple[int, int]]:
        """Return stride and ``reach - 2 * padding`` of each axis, derived from output sizes.

        The output for a map of n pixels has ``(n - 1 - (reach - 2 * padding)) // stride + 1`` pixels, where reach is
        the distance from the first to the last tap.
        """
        side = self.side
        before = self._output_size(side)
        after = self._output_size(3 * side)
        for small, large in zip(before, after, strict=True):
            if large <= small:
                raise self.refusal("the size of its output does not grow with that of its input")
            if large - small > 2 * side:
                raise self.refusal("it enlarges the map (upsampling)")
        rises: tuple[list[tuple[int, int]], ...] = ([], [])
        for size in range(side + 1, 3 * side + 1):
            after = self._output_size(size)
            for rise, small, large in zip(rises, before, after, strict=True):
                if large > small:
                    rise.append((size, large))
            if min(map(len, rises)) >= 2:
                break
            before = after
        else:
            raise self.refusal(f"its stride is larger than {side}")
        found = []
        for (size, output), (next_size, _), *_ in rises:
            stride = next_size - size
            found.append((stride, size - 1 - stride * (output - 1)))
        return found

    def offsets(self, strides: Sequence[int]) -> tuple[set[int], set[int]]:
        """Return, for each axis, the offsets from ``stride * o`` at which output o reads its input.

        Offsets are found within 30 pixels, or within the total reach of the module's convolutions. All input channels
        receive an impulse of random height at the same time; that two responses cancel is as unlikely as that two
        heights are equal.
        """
        heights = self.random(1, 1, 1)[0, :, 0, 0]
        side = max(_SIDES[-1], 4 * max(strides), 2 * _reach(self.module, max(strides)) + 3)
        zero = self(self.zeros(1, side, side))[0]
        rows: set[int] = set()
        columns: set[int] = set()
        # Different taps read each residue modulo the stride.
        centres = [side // 2 // stride * stride for stride in strides]
        residues = itertools.product(*map(range, strides))
        for row, column in ((centres[0] + down, centres[1] + across) for down, across in residues):
            x = self.zeros(1, side, side)
            x[0, :, row, column] = heights
            seen = significant(self(x)[0] - zero, zero).any(0)
            if bool(seen[[0, -1]].any()) or bool(seen[:, [0, -1]].any()):
                raise self.refusal(f"its response to one pixel reaches the border of a map of {side}x{side} pixels")
            rows.update(row - strides[0] * output for output in seen.any(1).nonzero().flatten().tolist())
            columns.update(column - strides[1] * output for output in seen.any(0).nonzero().flatten().tolist())
        return rows, columns

    def _output_size(self, side: int) -> tuple[int, int]:
        shape = self(self.zeros(1, side, side)).shape
        return shape[2], shape[3]

    def _first_that_runs(self, channel_counts: list[int], *, inferred: bool) -> tuple[int, int]:
        failure: Exception | None = None
        for side, channels in itertools.product(_SIDES, channel_counts):
            try:
                self.module(torch.zeros(1, channels, side, side, dtype=self.dtype, device=self.device))
            except Exception as error:  # anything that a foreign forward raises
                # The error on the largest map is the most informative, since no kernel is too large for that map.
                failure = error if channels == channel_counts[0] else failure
            else:
                return channels, side
        assert failure is not None
        counts = " or ".join(map(str, channel_counts))
        raise self.refusal(
            f"it fails on a map of {counts} channels and {_SIDES[-1]}x{_SIDES[-1]} pixels: {first_line(failure)}",
            hint="pass in_channels" if inferred else "is in_channels correct?",
        ) from failure


def significant(response: Tensor, zero: Tensor) -> Tensor:
    """Return a mask of where `response` exceeds rounding error.

    Args:
        response: A response minus the response to zero, (C, H, W).
        zero: The response to zero, (C, H, W).
    """
    largest = response.abs().amax((1, 2), keepdim=True)
    return response.abs() > _NEGLIGIBLE * largest + _ROUNDING * zero.abs().amax((1, 2), keepdim=True)


def check_kind(module: nn.Module, where: str) -> None:
    """Raise NotFusable for a module in train mode or with several inputs."""
    for name, child in module.named_modules():
        if child.training:
            inside = f" ({name})" if name else ""
            raise NotFusable(f"the module is in train mode{inside}", where=where, hint="call .eval() first")
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.kind in positional and parameter.default is parameter.empty
    ]
    if len(needed) > 1:
        raise NotFusable(
            f"this is not one convolution: it takes {len(needed)} inputs ({', '.join(needed)})", where=where, hint=_HINT
        )


def _channel_counts(module: nn.Module) -> list[int]:
    counts = (
        child.in_channels if isinstance(child, nn.modules.conv._ConvNd) else child.num_features
        for child in module.modules()
        if isinstance(child, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm)
    )
    return list(dict.fromkeys(counts))


def _reach(module: nn.Module, stride: int) -> int:
    """Return the reach of all convolutions in `module` if chained, with a total stride of at most `stride`."""
    total, step = 0, 1
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            total += step * max((size - 1) * gap for size, gap in zip(child.kernel_size, child.dilation, strict=True))
            step = min(step * max(child.stride), stride)
    return total
