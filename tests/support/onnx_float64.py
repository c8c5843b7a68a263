"""Evaluate a small ONNX graph in float64 with torch, as the reference of the collapse's tests.

It is deliberately independent of the collapse, so that the two share no mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

Array = np.ndarray[Any, Any]


@torch.no_grad()
def evaluate(model: onnx.ModelProto | bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return every output of `model`, with all floating-point constants and inputs in float64.

    Raises:
        KeyError: An operator is not supported.
    """
    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    values: dict[str, Any] = {"": None}
    for tensor in model.graph.initializer:
        values[tensor.name] = _wide(numpy_helper.to_array(tensor))
    values.update({name: _wide(array) for name, array in feeds.items()})
    for node in model.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        results = _OPERATORS[node.op_type](attributes, *(values[name] for name in node.input))
        results = results if isinstance(results, tuple) else (results,)
        values.update(zip(node.output, results, strict=False))
    return {value.name: values[value.name].numpy() for value in model.graph.output}


def _wide(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, np.float64 if array.dtype.kind == "f" else array.dtype))


def _padded(x: Tensor, pads: Any, value: float = 0.0) -> Tensor:
    half = len(pads) // 2
    return F.pad(x, [int(p) for axis in reversed(range(half)) for p in (pads[axis], pads[axis + half])], value=value)


def _conv(a: Mapping[str, Any], x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    x = _padded(x, a.get("pads", [0, 0, 0, 0]))
    return F.conv2d(x, kernel, bias, a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), a.get("group", 1))


def _average(a: Mapping[str, Any], x: Tensor) -> Tensor:
    pads, kernel, strides = a.get("pads", [0, 0, 0, 0]), a["kernel_shape"], a.get("strides", [1, 1])
    total = F.avg_pool2d(_padded(x, pads), kernel, strides)
    if a.get("count_include_pad", 0):
        return total
    return total / F.avg_pool2d(_padded(torch.ones_like(x), pads), kernel, strides)


def _normalized(a: Mapping[str, Any], x: Tensor, *parts: Tensor) -> Tensor:
    gamma, beta, mean, var = (part.reshape(1, -1, 1, 1) for part in parts)
    return (x - mean) / torch.sqrt(var + a.get("epsilon", 1e-5)) * gamma + beta


def _pad(a: Mapping[str, Any], x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Any = None) -> Tensor:
    mode = a.get("mode", b"constant").decode()
    sizes = pads.tolist()
    if mode == "constant":
        return _padded(x, sizes, 0.0 if value is None else float(value))
    return F.pad(x, [sizes[3], sizes[7], sizes[2], sizes[6]], mode={"edge": "replicate"}.get(mode, mode))


def _slice(
    a: Mapping[str, Any], x: Tensor, starts: Tensor, ends: Tensor, axes: Any = None, steps: Any = None
) -> Tensor:
    index = [slice(None)] * x.ndim
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = place if axes is None else int(axes[place])
        index[axis] = slice(start, end, 1 if steps is None else int(steps[place]))
    return x[tuple(index)]


def _split(a: Mapping[str, Any], x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    even = -(-x.shape[axis] // a.get("num_outputs", 1))
    return torch.split(x, even if sizes is None else sizes.tolist(), axis)


def _summed(a: Mapping[str, Any], *terms: Tensor) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average,
    "BatchNormalization": _normalized,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Constant": lambda a: _wide(numpy_helper.to_array(a["value"])),
    "Conv": _conv,
    "Div": lambda a, x, y: x / y,
    "Dropout": lambda a, x, *rest: x,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "MaxPool": lambda a, x: F.max_pool2d(x, a["kernel_shape"], a.get("strides", 1), a.get("pads", [0])[0]),
    "Mul": lambda a, x, y: x * y,
    "Neg": lambda a, x: -x,
    "Pad": _pad,
    "Relu": lambda a, x: x.relu(),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Slice": _slice,
    "Split": _split,
    "Sub": lambda a, x, y: x - y,
    "Sum": _summed,
}
