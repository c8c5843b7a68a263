"""Operators with windows: Conv, AveragePool and Pad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form, Linear
from irepdeploy.onnx_collapse.graph import Array, Operator
from irepdeploy.onnx_collapse.operators.rule import Attributes, StencilRule, integers
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.stencil import Axis, Stencil, moved, support_of

__all__ = ["AveragePool", "Conv", "Pad"]

_BORDER = "pads with zeros behind a bias, which is not a convolution at the border"


class Conv(StencilRule):
    """A two-dimensional convolution with constant weights."""

    convolution = True
    reported_from = 1
    border_reason = _BORDER

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        kernel = context.weights(operator, 1)
        if kernel is None or kernel.ndim != 4:
            raise Refusal("it is not a two-dimensional convolution")
        groups = operator.attributes.get("group", 1)
        if kernel.shape[1] * groups != form.channels or kernel.shape[0] % groups:
            raise Refusal("its weights do not fit its input")
        bias = context.tensor(operator, 2)
        if bias is not None and bias.shape != (len(kernel),):
            raise Refusal("its bias does not fit its weights")
        rows, columns = _windows(operator, form.size, kernel.shape[2:], dynamic=form.dynamic)
        stencil = Stencil(form.channels, kernel.shape[0], groups, rows, columns, support_of(kernel), kernel)
        return Linear(stencil, bias)

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes, *, skip_zeros: bool = True) -> Tensor:
        x, kernel = inputs[:2]
        bias = inputs[2] if len(inputs) > 2 else None
        x, strides, dilations = _padded(x, kernel.shape[2:], attributes)
        groups = attributes.get("group", 1)
        sizes = [
            (size - gap * (taps - 1) - 1) // stride + 1
            for size, gap, taps, stride in zip(x.shape[2:], dilations, kernel.shape[2:], strides, strict=True)
        ]
        if skip_zeros and min(sizes) > 0 and x.shape[1] == groups * kernel.shape[1] and not bool(x.any()):
            # A proof runs zeros through many convolutions. The random input reveals kernels that are not finite.
            found = x.new_zeros(len(x), len(kernel), *sizes)
            return found if bias is None else found + bias[:, None, None]
        if not groups == x.shape[1] == len(kernel) or groups == 1:
            return F.conv2d(x, kernel, bias, strides, 0, dilations, groups)
        # torch convolves groups in float64 one after the other; convolving tap by tap is faster.
        found = x.new_zeros(len(x), groups, *sizes)
        for a in range(kernel.shape[2]):
            for b in range(kernel.shape[3]):
                rows = x[:, :, a * dilations[0] :: strides[0]][:, :, : sizes[0]]
                found += rows[..., b * dilations[1] :: strides[1]][..., : sizes[1]] * kernel[:, 0, a, b, None, None]
        return found if bias is None else found + bias[:, None, None]

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        if inputs[0].ndim != 4:
            raise NotImplementedError
        tensors = [None if array is None else torch.from_numpy(array.astype(np.float64)) for array in inputs]
        return np.asarray(self.evaluate(tensors, attributes, skip_zeros=False).numpy().astype(inputs[0].dtype))

    def macs(self, operator: Operator, written: int, context: Context) -> int:
        weights = context.graph.shape(operator.inputs[1]) or ()
        return written * math.prod(size or 1 for size in weights[1:])


class AveragePool(StencilRule):
    """A mean over windows with the same divisor everywhere."""

    reported_from = 2
    border_reason = _BORDER

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        attributes = operator.attributes
        taps = attributes["kernel_shape"]
        axes = _windows(operator, form.size, taps, dynamic=form.dynamic)
        padded = any(axis.offsets[0] < 0 or axis.excess + 1 + axis.offsets[-1] > 0 for axis in axes)
        if padded and not attributes.get("count_include_pad", 0):
            raise Refusal("an average pool that does not count its padding weighs the border differently")
        if attributes.get("ceil_mode", 0):
            for axis, size in zip(axes, form.size, strict=True):
                if form.dynamic or (size + axis.excess) % axis.stride:
                    raise Refusal("an average pool with ceil_mode adds windows that reach over the padding")
        kernel = torch.full((form.channels, 1, *taps), 1 / float(np.prod(taps)), dtype=torch.float64)
        support = np.ones(tuple(taps), bool)
        return Linear(Stencil(form.channels, form.channels, form.channels, axes[0], axes[1], support, kernel))

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        """Compute the mean, by a convolution if there is a dilation, which torch's pooling lacks."""
        taps = attributes["kernel_shape"]
        x, strides, dilations = _padded(inputs[0], taps, attributes)
        if list(dilations) == [1, 1]:
            return F.avg_pool2d(x, taps, strides, ceil_mode=bool(attributes.get("ceil_mode", 0)))
        mean = torch.full((x.shape[1], 1, *taps), 1 / float(np.prod(taps)), dtype=torch.float64)
        return F.conv2d(x, mean, stride=strides, dilation=dilations, groups=x.shape[1])

    def macs(self, operator: Operator, written: int, context: Context) -> int:
        return written * math.prod(operator.attributes["kernel_shape"])


class Pad(StencilRule):
    """A padding of height and width by a constant; negative sizes crop."""

    border_reason = _BORDER

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        """Return the stencil that shifts the map, with the constant as the value outside the map."""
        if operator.attributes.get("mode", b"constant") != b"constant":
            raise Refusal(f"it pads by {operator.attributes['mode'].decode(errors='replace')}")
        pads = context.integers(operator, 1, "pads")
        axes = range(4) if (given := context.integers(operator, 3, "axes")) is None else [axis % 4 for axis in given]
        if pads is None or len(pads) != 2 * len(axes):
            raise Refusal("its paddings are not known")
        before, after = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)
        for place, axis in enumerate(axes):
            before[axis], after[axis] = pads[place], pads[place + len(axes)]
        if any((before[0], before[1], after[0], after[1])):
            raise Refusal("it pads channels or the batch")
        value = operator.attributes.get("value", 0.0)
        if "value" not in operator.attributes and (array := context.array(operator, 2)) is not None:
            value = float(array.reshape(-1)[0])
        rows, columns = (Axis((-before[axis],), 1, before[axis] + after[axis] - 1) for axis in (2, 3))
        return Linear(moved(form.channels, rows, columns), fill=value)

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        x = inputs[0]
        pads = integers(inputs, 1, attributes, "pads") or []
        axes = integers(inputs, 3, attributes, "axes") or list(range(x.ndim))
        value = attributes.get("value", 0.0)
        if len(inputs) > 2 and inputs[2] is not None:
            value = float(inputs[2].reshape(-1)[0])
        both = [(0, 0)] * x.ndim
        for place, axis in enumerate(axes):
            both[axis % x.ndim] = pads[place], pads[place + len(axes)]
        return F.pad(x, [size for pair in reversed(both) for size in pair], value=value)


def _windows(operator: Operator, size: Sequence[int], taps: Sequence[int], *, dynamic: bool) -> list[Axis]:
    """Return both axes of the stencil of a convolution or a pool with `taps` taps."""
    attributes = operator.attributes
    strides = attributes.get("strides") or [1, 1]
    dilations = attributes.get("dilations") or [1, 1]
    pads = list(attributes.get("pads") or [0] * 4)
    if not len(strides) == len(dilations) == len(taps) == 2 or len(pads) != 4:
        raise Refusal("it does not have two spatial axes")
    mode = attributes.get("auto_pad", b"NOTSET")
    reaches = [(tap - 1) * dilation + 1 for tap, dilation in zip(taps, dilations, strict=True)]
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        if dynamic:
            raise Refusal(f"auto_pad={mode.decode()} with dynamic sizes")
        for place in (0, 1):
            count = -(-size[place] // strides[place])
            whole = max((count - 1) * strides[place] + reaches[place] - size[place], 0)
            before = whole // 2 if mode == b"SAME_UPPER" else -(-whole // 2)
            pads[place], pads[place + 2] = before, whole - before
    elif mode == b"VALID":
        pads = [0] * 4
    elif mode != b"NOTSET":
        raise Refusal(f"auto_pad={mode.decode(errors='replace')}")
    return [
        Axis(
            tuple(tap * dilations[place] - pads[place] for tap in range(taps[place])),
            strides[place],
            pads[place] + pads[place + 2] - reaches[place],
        )
        for place in (0, 1)
    ]


def _padded(x: Tensor, taps: Sequence[int], attributes: Attributes) -> tuple[Tensor, list[int], list[int]]:
    """Return `x` padded with zeros, strides and dilations, for the evaluation of a window."""
    strides = list(attributes.get("strides") or [1, 1])
    dilations = list(attributes.get("dilations") or [1, 1])
    top, left, bottom, right = attributes.get("pads") or [0] * 4
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        both = []
        for axis in (0, 1):
            size, stride = x.shape[2 + axis], strides[axis]
            span = dilations[axis] * (taps[axis] - 1) + 1
            total = max(((size + stride - 1) // stride - 1) * stride + span - size, 0)
            small, large = total // 2, total - total // 2
            both.append((small, large) if mode == b"SAME_UPPER" else (large, small))
        (top, bottom), (left, right) = both
    elif mode == b"VALID":
        top = left = bottom = right = 0
    return F.pad(x, (left, right, top, bottom)), strides, dilations
