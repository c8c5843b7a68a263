"""Folding: what a model computes from constants and from sizes that are known, before it runs.

Floats are kept in float64 beside what the model computes, so that a weight that is made of others (a batch
normalisation's statistics, the sigmoid of an alpha) is rounded once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from irepdeploy.onnx_collapse.graph import Constant, Graph, Operator, widened
from irepdeploy.onnx_collapse.numpy_operators import OPERATORS, Evaluate
from irepdeploy.onnx_graph.shapes import infer_shapes

__all__ = ["fold"]

Array = np.ndarray[Any, Any]

# What they give is not a function of their inputs, or is there to keep a weight small (a quantised one).
_NEVER = {
    "Bernoulli", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Multinomial", "QuantizeLinear",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Scan",
}  # fmt: skip
# A constant that is this much larger than what it is made of is cheaper made anew: bytes, and times the inputs.
_LARGE, _GROWTH = 1 << 22, 4
_ROUNDS = 8


def fold(graph: Graph) -> None:
    """Fold `graph` to a fixpoint and infer its shapes; operators that are folded leave it."""
    fixed: dict[str, Array] = {}
    skipped: set[int] = set()
    tried: set[int] = set()
    for _ in range(_ROUNDS):
        live = {operator.index for operator in graph.operators}
        dead = set(range(len(graph.model.graph.node))) - live
        graph.shapes = infer_shapes(graph.model, fixed, skipped | dead)
        folded = _fold_once(graph, tried)
        if not folded:
            return
        for operator in folded:
            skipped.add(operator.index)
            for name in filter(None, operator.outputs):
                if name in graph.folded:
                    fixed[name] = graph.folded[name].native
        graph.operators = [operator for operator in graph.operators if operator.index not in skipped]
        graph.index()
        for name in [name for name in graph.folded if name not in graph.readers and name not in graph.outputs]:
            del graph.folded[name], fixed[name]


def _fold_once(graph: Graph, tried: set[int]) -> list[Operator]:
    """Fold what can be, and let go of values that only folded operators read."""
    folded = []
    pending = {name: len(readers) for name, readers in graph.readers.items()}
    for operator in graph.operators:
        found = None if operator.index in tried or operator.captured else _evaluate(graph, operator)
        if found is None:
            if all(graph.is_constant(name) for name in operator.inputs if name) and operator.inputs:
                tried.add(operator.index)
            continue
        folded.append(operator)
        graph.folded.update(found)
        for name in set(operator.inputs):
            pending[name] = pending.get(name, 0) - 1
            if not pending[name] and name not in graph.outputs and name in graph.folded:
                del graph.folded[name]
    return folded


def _evaluate(graph: Graph, operator: Operator) -> dict[str, Constant] | None:
    """What an operator gives, None where that is not known or not wanted."""
    if "::" in operator.kind or operator.kind in _NEVER or any(name in graph.outputs for name in operator.outputs):
        return None
    if operator.kind in ("Shape", "Size"):
        value = _sizes(graph, operator)
        return None if value is None else {operator.outputs[0]: Constant(value, value)}
    if operator.kind == "Constant":
        value = _constant(operator)
        return None if value is None else {operator.outputs[0]: Constant(value, widened(value))}
    if operator.kind in ("Gather", "Slice") and (value := _part_of_shape(graph, operator)) is not None:
        return {operator.outputs[0]: Constant(value, value)}
    if not operator.inputs or not all(graph.is_constant(name) for name in operator.inputs if name):
        return None
    inputs = [graph.constant(name) if name else None for name in operator.inputs]
    # Several outputs, and attributes with a default that a version changed, are the reference's matter.
    single = len(list(filter(None, operator.outputs))) == 1
    evaluate = OPERATORS.get(operator.kind) if single else None
    if graph.opset < 13 and (evaluate is None or operator.kind == "Softmax") and operator.kind != "Cast":
        return None  # the reference knows today's meaning of an operator only
    try:
        with np.errstate(all="ignore"):
            native = _run(
                graph, operator, evaluate, [None if item is None else item.native for item in inputs], wide=False
            )
            size = sum(item.native.nbytes for item in inputs if item is not None)
            if any(array.nbytes > max(_LARGE, _GROWTH * size) for array in native):
                return None
            wide = native
            if any(array.dtype.kind == "f" for array in native):
                wide = _run(
                    graph, operator, evaluate, [None if item is None else item.wide for item in inputs], wide=True
                )
    except Exception:  # whatever a kernel raises for inputs that it does not know: the operator stays as it is
        return None
    found = {}
    for name, array, other in zip(operator.outputs, native, wide, strict=True):
        if name:
            other = other if array.dtype.kind == "f" and other.shape == array.shape else array
            found[name] = Constant(array, widened(other))
    return found


_VALUES = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}


def _run(
    graph: Graph, operator: Operator, evaluate: Evaluate | None, inputs: Sequence[Array | None], *, wide: bool
) -> list[Array]:
    if operator.kind == "Cast":
        return [_cast(inputs, operator.attributes, wide=wide)]
    if evaluate is not None:
        found = np.asarray(evaluate(inputs, operator.attributes))
        return [found]
    return _reference(graph, operator, inputs)


def _cast(inputs: Sequence[Array | None], attributes: Mapping[str, Any], *, wide: bool) -> Array:
    (array,) = inputs
    assert array is not None
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    return array if wide and array.dtype.kind == kind.kind == "f" else array.astype(kind)


def _reference(graph: Graph, operator: Operator, inputs: Sequence[Array | None]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    inner = onnx.GraphProto(name="one")
    inner.node.append(operator.node)
    inner.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in {name: array for name, array in zip(operator.inputs, inputs, strict=True) if name}.items()
        if array is not None
    )
    inner.output.extend(onnx.ValueInfoProto(name=name) for name in operator.outputs if name)
    model = onnx.ModelProto(ir_version=10, graph=inner)
    model.opset_import.add(domain="", version=graph.opset)
    feed = {name: array for name, array in zip(operator.inputs, inputs, strict=True) if name}
    found = iter(ReferenceEvaluator(model).run(None, feed))
    return [np.asarray(next(found)) if name else np.zeros(0) for name in operator.outputs]


def _sizes(graph: Graph, operator: Operator) -> Array | None:
    name = operator.inputs[0]
    shape = graph.folded[name].native.shape if name in graph.folded else graph.shape(name)
    if shape is None:
        return None
    if operator.kind == "Size":
        return None if None in shape else np.asarray(math.prod(size for size in shape if size is not None))
    cut = shape[slice(operator.attributes.get("start", 0), operator.attributes.get("end"))]
    return None if None in cut else np.asarray(cut, np.int64)


def _part_of_shape(graph: Graph, operator: Operator) -> Array | None:
    """Some sizes of a tensor of which others are free."""
    shape = graph.producers.get(operator.inputs[0])
    sizes = None if shape is None or shape.kind != "Shape" or shape.attributes else graph.shape(shape.inputs[0])
    if sizes is None or not all(graph.is_constant(name) for name in operator.inputs[1:] if name):
        return None
    known = np.asarray([-1 if size is None else size for size in sizes], np.int64)
    rest = (graph.constant(name) if name else None for name in operator.inputs[1:])
    inputs = [known, *(None if item is None else item.native for item in rest)]
    try:
        found = np.asarray(OPERATORS[operator.kind](inputs, operator.attributes))
    except (IndexError, ValueError):
        return None
    return None if (found < 0).any() else found


def _constant(operator: Operator) -> Array | None:
    attributes = operator.attributes
    if "value" in attributes:
        return np.asarray(numpy_helper.to_array(attributes["value"]))
    for name, kind in _VALUES.items():
        if name in attributes:
            return np.asarray(attributes[name], kind)
    return None
