"""Operators that compute sizes, indices and weights; they are folded, but never part of a region."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from irepdeploy.onnx_collapse.graph import Array, Graph, Operator
from irepdeploy.onnx_collapse.operators.rule import Attributes, Fold, OperatorRule, integers

__all__ = [
    "Cast", "Constant", "Folded", "Function", "Gather", "NeverFolded", "Reduction", "Shape", "Size", "Variadic",
    "constant_of_shape", "expand", "norm", "number_range", "reshape", "sigmoid", "softmax", "squeeze", "unsqueeze",
]  # fmt: skip


_NUMBERS = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}


class Folded(OperatorRule):
    """Rule for an operator that is folded by ``function(inputs, attributes)``."""

    def __init__(self, function: Fold, since: int = 7) -> None:
        self.fold, self.fold_since = function, since


class Function(Folded):
    """Rule for an operator that is folded by ``function(*inputs)``, element by element."""

    per_element = True

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(lambda inputs, attributes: function(*inputs))


class Variadic(Folded):
    """Rule for an operator that is folded by applying ``function(a, b)`` from left to right, element by element."""

    per_element = True

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(lambda inputs, attributes: np.asarray(functools.reduce(function, inputs)))


class Reduction(Folded):
    """Rule for an operator that is folded by ``function(array, axis=axes, keepdims=keepdims)``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        def fold(inputs: Sequence[Any], attributes: Attributes) -> Any:
            x = inputs[0]
            # Over no axes, each number is reduced by itself: ReduceL1 then returns its absolute value.
            none = () if attributes.get("noop_with_empty_axes", 0) else None
            axes = _axes(inputs, attributes) or none
            # For integers, numpy returns wider integers or floats.
            return np.asarray(function(x, axis=axes, keepdims=bool(attributes.get("keepdims", 1)))).astype(x.dtype)

        super().__init__(fold)


class NeverFolded(OperatorRule):
    """Rule for an operator that is unknown, draws random numbers, runs subgraphs, or dequantizes a small weight."""

    foldable = False


class Constant(OperatorRule):
    """A constant in the graph."""

    def known(self, operator: Operator, graph: Graph) -> Array | None:
        attributes = operator.attributes
        if "value" in attributes:
            return np.asarray(numpy_helper.to_array(attributes["value"]))
        return next((np.asarray(attributes[name], kind) for name, kind in _NUMBERS.items() if name in attributes), None)


class Shape(OperatorRule):
    """The sizes of a tensor."""

    def known(self, operator: Operator, graph: Graph) -> Array | None:
        shape = _shape(operator.inputs[0], graph)
        if shape is None:
            return None
        cut = shape[slice(operator.attributes.get("start", 0), operator.attributes.get("end"))]
        return None if None in cut else np.asarray(cut, np.int64)


class Size(OperatorRule):
    """The number of elements of a tensor."""

    def known(self, operator: Operator, graph: Graph) -> Array | None:
        shape = _shape(operator.inputs[0], graph)
        return None if shape is None or None in shape else np.asarray(math.prod(size or 0 for size in shape))


class Cast(OperatorRule):
    """A conversion to another type."""

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        (array,) = inputs
        return np.asarray(array.astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])))

    def fold_wide(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        """Keep a float in float64 if it is cast to another float type."""
        floats = inputs[0].dtype.kind == onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]).kind == "f"
        return np.asarray(inputs[0]) if floats else self.fold(inputs, attributes)


class Gather(OperatorRule):
    """Elements selected by index."""

    selects = True

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.take(inputs[0], inputs[1], axis=attributes.get("axis", 0))


def _shape(name: str, graph: Graph) -> tuple[int | None, ...] | None:
    return graph.folded[name].native.shape if name in graph.folded else graph.shape(name)


def _axes(inputs: Sequence[Any], attributes: Attributes) -> tuple[int, ...] | None:
    axes = integers(inputs, 1, attributes, "axes")
    return None if axes is None else tuple(axes)


def squeeze(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Remove axes of size 1."""
    return np.squeeze(inputs[0], axis=_axes(inputs, attributes))


def unsqueeze(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Insert axes of size 1."""
    return np.expand_dims(inputs[0], _axes(inputs, attributes) or ())


def reshape(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Reshape an array; 0 keeps a size unless ``allowzero`` is set."""
    data, sizes = inputs[0], [int(size) for size in inputs[1]]
    if not attributes.get("allowzero", 0):
        sizes = [data.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return np.reshape(data, sizes)


def expand(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Broadcast an array to a shape."""
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
    return np.broadcast_to(inputs[0], shape).copy()


def constant_of_shape(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Return an array of a shape, filled with one number."""
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full(tuple(int(size) for size in inputs[0]), value.reshape(-1)[0], value.dtype)


def number_range(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Return the numbers from start to limit."""
    start, limit, delta = (item.item() for item in inputs)
    count = max(math.ceil((limit - start) / delta), 0)
    return (start + np.arange(count) * delta).astype(inputs[0].dtype)


def sigmoid(x: Array) -> Array:
    """Return the sigmoid of each element."""
    return 1 / (1 + np.exp(-x))


def norm(x: Array, **options: Any) -> Array:
    """Return the Euclidean norm along axes."""
    return np.sqrt(np.sum(x * x, **options))


def softmax(inputs: Sequence[Any], attributes: Attributes) -> Array:
    """Return the softmax along an axis."""
    axis = attributes.get("axis", -1)
    shifted = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)
