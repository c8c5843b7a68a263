"""What operators give for constant inputs, in numpy: those that sizes, paddings, indices and weights are made of.

An operator that is not here is left to onnx's reference implementation, which is slow and knows all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["OPERATORS", "Evaluate"]

Array = np.ndarray[Any, Any]
Evaluate = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def _axes(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Axes are an input since opset 13, an attribute before."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(axis) for axis in np.atleast_1d(inputs[1]))
    axes = attributes.get("axes")
    return None if axes is None else tuple(axes)


def _squeeze(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return np.squeeze(inputs[0], axis=_axes(inputs, attributes))


def _unsqueeze(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return np.expand_dims(inputs[0], _axes(inputs, attributes) or ())


def _slice(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    data = inputs[0]
    if "starts" in attributes:  # before opset 10
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        starts, ends = inputs[1], inputs[2]
        axes, steps = (inputs[place] if len(inputs) > place else None for place in (3, 4))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size, step = data.shape[axis], int(step)
        start, end = (int(place) + size if place < 0 else int(place) for place in (start, end))
        if step < 0:
            # Below the first element is no number to numpy.
            last = end if end >= 0 else None
            cut[axis] = slice(min(start, size - 1), last, step)
        else:
            cut[axis] = slice(max(start, 0), max(min(end, size), 0), step)
    return np.asarray(data[tuple(cut)])


def _reshape(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    data, sizes = inputs[0], [int(size) for size in inputs[1]]
    if not attributes.get("allowzero", 0):
        sizes = [data.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return np.reshape(data, sizes)


def _expand(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
    return np.broadcast_to(inputs[0], shape).copy()


def _constant_of_shape(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    from onnx import numpy_helper

    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full(tuple(int(size) for size in inputs[0]), value.reshape(-1)[0], value.dtype)


def _gather(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


def _concat(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return np.concatenate(inputs, axis=attributes["axis"])


def _transpose(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return np.transpose(inputs[0], attributes.get("perm"))


def _range(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    start, limit, delta = (item.item() for item in inputs)
    count = max(math.ceil((limit - start) / delta), 0)
    return (start + np.arange(count) * delta).astype(inputs[0].dtype)


def _scatter_nd(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    if attributes.get("reduction", b"none") != b"none":
        # Of whoever asked the operator stays as it is, as one that is not in the table.
        raise NotImplementedError
    data = inputs[0].copy()
    data[tuple(np.moveaxis(inputs[1], -1, 0))] = inputs[2]
    return data


def _divide(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    a, b = inputs
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.trunc(a / b).astype(a.dtype) if (a < 0).any() or (b < 0).any() else a // b


def _sigmoid(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    return 1 / (1 + np.exp(-inputs[0]))


def _softmax(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    axis = attributes.get("axis", -1)
    shifted = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _numpy(function: Callable[..., Any]) -> Evaluate:
    return lambda inputs, attributes: function(*inputs)


def _variadic(function: Callable[[Any, Any], Any]) -> Evaluate:
    def evaluate(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
        total = inputs[0]
        for item in inputs[1:]:
            total = function(total, item)
        return np.asarray(total)

    return evaluate


OPERATORS: dict[str, Evaluate] = {
    "Abs": _numpy(np.abs),
    "Add": _numpy(np.add),
    "And": _numpy(np.logical_and),
    "Ceil": _numpy(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _numpy(np.equal),
    "Exp": _numpy(np.exp),
    "Expand": _expand,
    "Floor": _numpy(np.floor),
    "Gather": _gather,
    "Greater": _numpy(np.greater),
    "Identity": _numpy(np.asarray),
    "Less": _numpy(np.less),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mul": _numpy(np.multiply),
    "Neg": _numpy(np.negative),
    "Not": _numpy(np.logical_not),
    "Or": _numpy(np.logical_or),
    "Range": _range,
    "Reciprocal": _numpy(lambda x: 1 / x),
    "Relu": _numpy(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": _numpy(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _numpy(np.subtract),
    "Sum": _variadic(np.add),
    "Tanh": _numpy(np.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _numpy(np.where),
}
