"""A float64 run of the operators that a region may hold: ONNX Runtime has no convolution in float64.

It reads every operator by the ONNX specification and shares nothing with the rules, so that it can prove them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import ModelError

__all__ = ["evaluate"]

Array = np.ndarray[Any, Any]
Constants = Callable[[str], Array | None]
Attributes = Mapping[str, Any]


@torch.no_grad()
def evaluate(
    nodes: Iterable[onnx.NodeProto], feeds: Mapping[str, Tensor], results: Sequence[str], constants: Constants
) -> dict[str, Tensor]:
    """Run `nodes` in their order.

    Args:
        feeds: float64 maps (N, C, H, W) by name.
        results: the tensors to give.
        constants: the value of a tensor that is none of them, floats in float64; None where there is none.

    Raises:
        ModelError: an operator that no region holds.
    """
    nodes = list(nodes)
    pending = Counter(name for node in nodes for name in node.input)
    pending.update(results)
    values = {name: value for name, value in feeds.items() if name in pending}
    for node in nodes:
        if node.op_type not in _OPERATORS:
            raise ModelError(f"{node.op_type} is none of the operators of a region", where=node.name)
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        inputs = [values[name] if name in values else _tensor(constants(name)) if name else None for name in node.input]
        found = _OPERATORS[node.op_type](inputs, {**attributes, "outputs": len(node.output)})
        parts = found if isinstance(found, tuple) else (found,)
        values.update((name, part) for name, part in zip(node.output, parts, strict=False) if name in pending)
        for name in node.input:
            pending[name] -= 1
            if not pending[name]:
                values.pop(name, None)
    return {name: values[name] for name in results}


def _tensor(array: Array | None) -> Tensor:
    if array is None:
        raise ModelError("an operator of a region reads what is not constant")
    return torch.from_numpy(np.array(array, copy=True) if not array.flags.writeable else np.ascontiguousarray(array))


def _ints(inputs: Sequence[Any], place: int, attributes: Attributes, name: str) -> list[int] | None:
    if name in attributes:
        return [int(item) for item in np.atleast_1d(attributes[name])]
    given = inputs[place] if len(inputs) > place else None
    return None if given is None else [int(item) for item in given.reshape(-1)]


def _padded(x: Tensor, taps: Sequence[int], attributes: Attributes) -> tuple[Tensor, list[int], list[int]]:
    """x padded with zeros for a window, strides and dilations."""
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


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, kernel = inputs[:2]
    bias = inputs[2] if len(inputs) > 2 else None
    x, strides, dilations = _padded(x, kernel.shape[2:], attributes)
    groups = attributes.get("group", 1)
    if groups == x.shape[1] == len(kernel) and groups > 1:
        # torch takes the groups of a float64 convolution one after the other.
        sizes = [
            (size - gap * (taps - 1) - 1) // stride + 1
            for size, gap, taps, stride in zip(x.shape[2:], dilations, kernel.shape[2:], strides, strict=True)
        ]
        found = x.new_zeros(len(x), groups, *sizes)
        for a in range(kernel.shape[2]):
            for b in range(kernel.shape[3]):
                rows = x[:, :, a * dilations[0] :: strides[0]][:, :, : sizes[0]]
                found += rows[..., b * dilations[1] :: strides[1]][..., : sizes[1]] * kernel[:, 0, a, b, None, None]
        return found if bias is None else found + bias[:, None, None]
    return F.conv2d(x, kernel, bias, strides, 0, dilations, groups)


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    taps = attributes["kernel_shape"]
    x, strides, dilations = _padded(inputs[0], taps, attributes)
    if list(dilations) == [1, 1]:
        return F.avg_pool2d(x, taps, strides, ceil_mode=bool(attributes.get("ceil_mode", 0)))
    mean = torch.full((x.shape[1], 1, *taps), 1 / float(np.prod(taps)), dtype=torch.float64)
    return F.conv2d(x, mean, stride=strides, dilation=dilations, groups=x.shape[1])


def _batch_normalization(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, gamma, beta, mean, var = inputs
    return F.batch_norm(x, mean, var, gamma, beta, eps=attributes.get("epsilon", 1e-5))


def _pad(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x = inputs[0]
    pads = _ints(inputs, 1, attributes, "pads") or []
    axes = _ints(inputs, 3, attributes, "axes") or list(range(x.ndim))
    value = attributes.get("value", 0.0)
    if len(inputs) > 2 and inputs[2] is not None:
        value = float(inputs[2].reshape(-1)[0])
    both = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        both[axis % x.ndim] = pads[place], pads[place + len(axes)]
    return F.pad(x, [size for pair in reversed(both) for size in pair], value=value)


def _slice(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends = _ints(inputs, 1, attributes, "starts") or [], _ints(inputs, 2, attributes, "ends") or []
    axes = _ints(inputs, 3, attributes, "axes") or range(len(starts))
    steps = _ints(inputs, 4, attributes, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Python's slices clip as ONNX's do.
        chosen = range(*slice(start, end, step).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _split(inputs: Sequence[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    sizes = _ints(inputs, 1, attributes, "split")
    if sizes is None:
        return inputs[0].split(-(-inputs[0].shape[axis] // attributes["outputs"]), axis)
    return inputs[0].split(sizes, axis)


def _scatter_nd(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    found = inputs[0].clone()
    found[tuple(inputs[1].unbind(-1))] = inputs[2]
    return found


def _scatter_elements(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, indices, updates = inputs
    axis = attributes.get("axis", 0)
    return x.scatter(axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


def _total(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    found = inputs[0]
    for item in inputs[1:]:
        found = found + item
    return found


_OPERATORS: dict[str, Callable[[Sequence[Any], Attributes], Tensor | tuple[Tensor, ...]]] = {
    "Add": _total,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), attributes["axis"]),
    "Conv": _conv,
    "Div": lambda inputs, attributes: inputs[0] / inputs[1],
    "Dropout": lambda inputs, attributes: inputs[0],
    "Identity": lambda inputs, attributes: inputs[0],
    "Mean": lambda inputs, attributes: _total(inputs, attributes) / len(inputs),
    "Mul": lambda inputs, attributes: inputs[0] * inputs[1],
    "Neg": lambda inputs, attributes: -inputs[0],
    "Pad": _pad,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "Split": _split,
    "Sub": lambda inputs, attributes: inputs[0] - inputs[1],
    "Sum": _total,
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes.get("perm") or (3, 2, 1, 0)),
}
