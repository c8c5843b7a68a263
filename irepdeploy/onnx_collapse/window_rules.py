"""Rules of operators with windows: Conv, AveragePool, Pad, and Slice over height and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form, Linear
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.stencil import Axis, Stencil
from irepdeploy.reparam.algebra import bn_scale_shift

__all__ = ["WINDOW_RULES", "per_channel", "slice_ranges"]


def per_channel(scale: Tensor, bias: Tensor | None = None) -> Linear:
    """``scale * x + bias`` by channel, both (C,)."""
    channels = len(scale)
    point = Axis((0,))
    kernel = scale.reshape(channels, 1, 1, 1).contiguous()
    stencil = Stencil(channels, channels, channels, point, point, np.ones((1, 1), bool), kernel)
    return Linear(stencil, bias)


def _windows(operator: Operator, size: Sequence[int], taps: Sequence[int], *, free: bool) -> list[Axis]:
    """Both axes of a convolution or pooling with `taps` taps."""
    attributes = operator.attributes
    strides = attributes.get("strides") or [1, 1]
    dilations = attributes.get("dilations") or [1, 1]
    pads = list(attributes.get("pads") or [0] * 4)
    if not len(strides) == len(dilations) == len(taps) == 2 or len(pads) != 4:
        raise Refusal("it does not have two spatial axes")
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        if free:
            raise Refusal(f"auto_pad={mode.decode()} with free sizes")
        for place in (0, 1):
            reach = (taps[place] - 1) * dilations[place] + 1
            count = -(-size[place] // strides[place])
            whole = max((count - 1) * strides[place] + reach - size[place], 0)
            before = whole // 2 if mode == b"SAME_UPPER" else -(-whole // 2)
            pads[place], pads[place + 2] = before, whole - before
    elif mode == b"VALID":
        pads = [0] * 4
    elif mode != b"NOTSET":
        raise Refusal(f"auto_pad={mode.decode(errors='replace')}")
    axes = []
    for place in (0, 1):
        offsets = tuple(tap * dilations[place] - pads[place] for tap in range(taps[place]))
        reach = (taps[place] - 1) * dilations[place] + 1
        axes.append(Axis(offsets, strides[place], pads[place] + pads[place + 2] - reach))
    return axes


def _conv(operator: Operator, form: Form, context: Context) -> Linear:
    kernel = context.tensor(operator, 1)
    if kernel is None or kernel.ndim != 4:
        raise Refusal("it is no two-dimensional convolution")
    groups = operator.attributes.get("group", 1)
    if kernel.shape[1] * groups != form.channels or kernel.shape[0] % groups:
        raise Refusal("its weights do not fit its input")
    bias = context.tensor(operator, 2)
    if bias is not None and bias.shape != (len(kernel),):
        raise Refusal("its bias does not fit its weights")
    rows, columns = _windows(operator, form.size, kernel.shape[2:], free=form.free)
    support = (kernel != 0).any(0).any(0).numpy()
    return Linear(Stencil(form.channels, kernel.shape[0], groups, rows, columns, support, kernel), bias)


def _batch_normalization(operator: Operator, form: Form, context: Context) -> Linear:
    if operator.attributes.get("training_mode", 0) or any(operator.outputs[1:]):
        raise Refusal("batch normalisation in train mode")
    if operator.attributes.get("spatial", 1) != 1:
        raise Refusal("batch normalisation by position")
    gamma, beta, mean, var = (context.tensor(operator, place) for place in range(1, 5))
    if (
        mean is None
        or var is None
        or any(item is not None and item.shape != (form.channels,) for item in (gamma, beta, mean, var))
    ):
        raise Refusal("its statistics do not fit its input")
    scale, shift = bn_scale_shift(gamma, beta, mean, var, operator.attributes.get("epsilon", 1e-5))
    if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        raise Refusal("its statistics give NaN or infinity")
    return per_channel(scale, shift)


def _average_pool(operator: Operator, form: Form, context: Context) -> Linear:
    attributes = operator.attributes
    taps = attributes["kernel_shape"]
    axes = _windows(operator, form.size, taps, free=form.free)
    padded = any(axis.offsets[0] < 0 or axis.excess + 1 + axis.offsets[-1] > 0 for axis in axes)
    if padded and not attributes.get("count_include_pad", 0):
        raise Refusal("an average pool that does not count its padding weighs the border differently")
    if attributes.get("ceil_mode", 0):
        for axis, size in zip(axes, form.size, strict=True):
            if form.free or (size + axis.excess) % axis.stride:
                raise Refusal("an average pool with ceil_mode adds windows that reach over the padding")
    kernel = torch.full((form.channels, 1, *taps), 1 / float(np.prod(taps)), dtype=torch.float64)
    support = np.ones(tuple(taps), bool)
    return Linear(Stencil(form.channels, form.channels, form.channels, axes[0], axes[1], support, kernel))


def _pad(operator: Operator, form: Form, context: Context) -> Linear:
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
    moved = [Axis((-before[axis],), 1, before[axis] + after[axis] - 1) for axis in (2, 3)]
    return Linear(_moved(form.channels, *moved), fill=value)


def slice_ranges(operator: Operator, context: Context) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice.

    Raises:
        Refusal: they are computed at run time.
    """
    starts, ends = context.integers(operator, 1, "starts"), context.integers(operator, 2, "ends")
    if starts is None or ends is None:
        raise Refusal("its ranges are not known")
    axes, steps = context.integers(operator, 3, "axes"), context.integers(operator, 4, "steps")
    axes = list(range(len(starts))) if axes is None else [axis % 4 for axis in axes]
    return list(zip(axes, starts, ends, steps or [1] * len(starts), strict=True))


def _slice(operator: Operator, form: Form, context: Context) -> Linear:
    axes = [Axis((0,)), Axis((0,))]
    for axis, start, end, step in slice_ranges(operator, context):
        if axis < 2 or step < 1:
            raise Refusal("it reverses the map, or cuts the batch")
        size = form.size[axis - 2]
        if form.free and (start < 0 or (0 <= end < 1 << 31)):
            raise Refusal("it cuts at a place that depends on a free size")
        first = min(max(start + size if start < 0 else start, 0), size)
        last = min(max(end + size if end < 0 else end, 0), size)
        # (size + excess) // step + 1 = ceil((last - first) / step)
        axes[axis - 2] = Axis((first,), step, last - first - 1 - size)
    return Linear(_moved(form.channels, *axes))


def _moved(channels: int, rows: Axis, columns: Axis) -> Stencil:
    unit = rows == columns == Axis((0,))
    kernel = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
    return Stencil(channels, channels, channels, rows, columns, np.ones((1, 1), bool), kernel, unit)


WINDOW_RULES: dict[str, Callable[[Operator, Form, Context], Linear]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "Pad": _pad,
    "Slice": _slice,
}
