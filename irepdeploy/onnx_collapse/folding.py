"""Fold operators that a model computes from constants and known sizes.

Every folded float is also kept in float64, so that a weight computed from others (batch-normalization statistics, the
sigmoid of an alpha) is rounded only once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from irepdeploy.onnx_collapse.graph import Array, Constant, Graph, Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.operators.rule import Fold
from irepdeploy.onnx_graph.shapes import infer_shapes

__all__ = ["fold"]

# A constant above both limits, in bytes and as a multiple of its inputs, is cheaper to compute at run time.
_LARGE, _GROWTH = 1 << 22, 4
_ROUNDS = 8
# Largest size of an element in bytes, and the most elements to compute with onnx's slow reference implementation.
_WIDEST, _LARGEST_REFERENCE = 8, 1 << 18
# Operators that only name or enlarge a constant; folding them alone is no reason to rewrite a file.
_TRIVIAL = ("Cast", "CastLike", "Constant", "ConstantOfShape", "Expand", "Identity", "Tile")
# The most products to sum in an Einsum, which onnx computes, and in a convolution or a matrix product.
_LARGEST_EINSUM, _MOST_MACS = 1 << 24, 1 << 34
# The oldest opset whose operators the reference evaluator fully supports.
_REFERENCE_SINCE = 13


def fold(graph: Graph) -> int:
    """Fold a graph until nothing changes and infer its shapes; folded operators are removed from the graph.

    Returns:
        The number of operators that were evaluated, without those that only name or enlarge a constant.
    """
    count = 0
    fixed: dict[str, Array] = {}
    skipped: set[int] = set()
    tried: set[int] = set()
    for _ in range(_ROUNDS):
        live = {operator.index for operator in graph.operators}
        dead = set(range(len(graph.model.graph.node))) - live
        graph.shapes = infer_shapes(graph.model, fixed, skipped | dead)
        with np.errstate(all="ignore"):
            folded = _fold_once(graph, tried)
        if not folded:
            break
        count += sum(operator.kind not in _TRIVIAL for operator in folded)
        for operator in folded:
            skipped.add(operator.index)
            for name in filter(None, operator.outputs):
                if name in graph.folded:
                    fixed[name] = graph.folded[name].native
        graph.operators = [operator for operator in graph.operators if operator.index not in skipped]
        graph.index()
        for name in [name for name in graph.folded if name not in graph.readers and name not in graph.outputs]:
            del graph.folded[name], fixed[name]
    return count


def _fold_once(graph: Graph, tried: set[int]) -> list[Operator]:
    """Fold every operator that can be folded, and release values that only folded operators read."""
    folded = []
    pending = {name: len(readers) for name, readers in graph.readers.items()}
    for operator in graph.operators:
        found = None if operator.index in tried or operator.captured else _evaluate(graph, operator)
        if found is None:
            if operator.inputs and _all_constant(graph, operator):
                tried.add(operator.index)
            continue
        folded.append(operator)
        graph.folded.update(found)
        for name in set(operator.inputs):
            pending[name] = pending.get(name, 0) - 1
            if not pending[name] and name not in graph.outputs and name in graph.folded:
                del graph.folded[name]
    return folded


def _all_constant(graph: Graph, operator: Operator) -> bool:
    """Return whether every input that is not omitted is constant."""
    return all(graph.is_constant(name) for name in operator.inputs if name)


def _evaluate(graph: Graph, operator: Operator) -> dict[str, Constant] | None:
    """Return the outputs of an operator, or None if they are unknown or not worth keeping."""
    rule = rule_of(operator.kind)
    if "::" in operator.kind or not rule.foldable or not graph.outputs.isdisjoint(operator.outputs):
        return None
    value = rule.known(operator, graph)
    if value is None and rule.selects:
        value = _part_of_shape(graph, operator)
    if value is not None:
        return {operator.outputs[0]: Constant(value)}
    if not operator.inputs or not _all_constant(graph, operator):
        return None
    # Several outputs are left to the reference evaluator, which implements only the latest version of an operator.
    own = rule.fold is not None and len(list(filter(None, operator.outputs))) == 1
    if graph.opset < (rule.fold_since if own else _REFERENCE_SINCE):
        return None
    inputs = [graph.constant(name) if name else None for name in operator.inputs]
    native_inputs = [None if item is None else item.native for item in inputs]
    if _may_grow(graph, operator, [array for array in native_inputs if array is not None], own=own):
        return None
    try:
        native = _run(rule.fold if own else None, graph, operator, native_inputs)
        if sum(array.nbytes for array in native) > _most_bytes(native_inputs):
            return None
        wide = native
        if any(array.dtype.kind == "f" for array in native):
            wide_inputs = [None if item is None else item.wide for item in inputs]
            wide = _run(rule.fold_wide if own else None, graph, operator, wide_inputs)
    except Exception:  # after any error of a kernel the operator is kept
        return None
    found = {}
    for name, array, other in zip(operator.outputs, native, wide, strict=True):
        if name:
            exact = other if array.dtype.kind == "f" and other.shape == array.shape else None
            found[name] = Constant(array, exact)
    return found


def _most_bytes(inputs: Sequence[Array | None]) -> int:
    return max(_LARGE, _GROWTH * sum(array.nbytes for array in inputs if array is not None))


def _may_grow(graph: Graph, operator: Operator, natives: list[Array], *, own: bool) -> bool:
    """Return whether the result may be too large to keep or to compute; a few numbers can describe a terabyte."""
    most, pairs = _most_bytes(natives), math.prod(max(array.size, 1) for array in natives)
    if operator.kind == "Einsum" and pairs > _LARGEST_EINSUM:
        return True
    if own and pairs * _WIDEST <= most and operator.kind not in _ENLARGING:
        return False
    shapes = [graph.shape(name) for name in operator.outputs if name]
    if all(shape is not None and None not in shape for shape in shapes):
        elements = sum([math.prod([size or 0 for size in shape or ()]) for shape in shapes])
        if operator.kind in _SUMMED and elements * _SUMMED[operator.kind](natives) > _MOST_MACS:
            return True
        return elements * _WIDEST > most or (not own and elements > _LARGEST_REFERENCE)
    if operator.kind.startswith("Reduce"):
        return False
    per_element = _broadcast if rule_of(operator.kind).per_element else None
    if (count := _ELEMENTS.get(operator.kind, per_element)) is not None:
        try:
            return count(natives) * _WIDEST > most
        except (ArithmeticError, IndexError, TypeError, ValueError):  # inputs of a wrong type or rank
            return True
    # The result of any other operator has at most as many elements as the product of its inputs' sizes.
    return not own or pairs * _WIDEST > most


def _broadcast(inputs: list[Array]) -> int:
    return math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))


# The number of products per element of a result.
_SUMMED: dict[str, Callable[[list[Array]], int]] = {
    "Conv": lambda inputs: math.prod(inputs[1].shape[1:]) if len(inputs) > 1 else 0,
    "MatMul": lambda inputs: math.prod(inputs[0].shape[-1:]),
}


def _integers(array: Array) -> tuple[int, ...]:
    return tuple(map(int, array))


# The number of elements of results whose size depends on input values, or is far below the product of input sizes.
_ELEMENTS: dict[str, Callable[[list[Array]], float]] = {
    "BatchNormalization": lambda inputs: inputs[0].size,
    "Concat": lambda inputs: sum(array.size for array in inputs),
    "ConstantOfShape": lambda inputs: math.prod(_integers(inputs[0])),
    "Expand": lambda inputs: math.prod(np.broadcast_shapes(inputs[0].shape, _integers(inputs[1]))),
    "NonZero": lambda inputs: inputs[0].size * max(inputs[0].ndim, 1),
    "Pad": lambda inputs: math.prod(size + sum(map(abs, _integers(inputs[1]))) for size in inputs[0].shape),
    "Range": lambda inputs: abs((float(inputs[1]) - float(inputs[0])) / float(inputs[2])) + 1,
}


# Operators whose result may have more elements than the product of their inputs' sizes.
_ENLARGING = _ELEMENTS.keys() | _SUMMED.keys()


def _run(fold: Fold | None, graph: Graph, operator: Operator, inputs: Sequence[Array | None]) -> list[Array]:
    return _reference(graph, operator, inputs) if fold is None else [np.asarray(fold(inputs, operator.attributes))]


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


def _part_of_shape(graph: Graph, operator: Operator) -> Array | None:
    """Return known sizes that are selected from a shape with dynamic sizes."""
    shape = graph.producers.get(operator.inputs[0])
    sizes = None if shape is None or shape.kind != "Shape" or shape.attributes else graph.shape(shape.inputs[0])
    if sizes is None or not all(graph.is_constant(name) for name in operator.inputs[1:] if name):
        return None
    fold = rule_of(operator.kind).fold
    assert fold is not None
    known = np.asarray([-1 if size is None else size for size in sizes], np.int64)
    rest = (graph.constant(name) if name else None for name in operator.inputs[1:])
    inputs = [known, *(None if item is None else item.native for item in rest)]
    try:
        found = np.asarray(fold(inputs, operator.attributes))
    except (IndexError, ValueError):
        return None
    return None if (found < 0).any() else found
