"""Infer the shapes of the tensors of a model, without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from irepdeploy.errors import ModelError, one_line
from irepdeploy.onnx_graph.propagation import without_long_values

__all__ = ["Shape", "Shapes", "infer_shapes", "inferred_graph", "tensor_types"]

Array = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]

# Nominal value of a dynamic height or width, larger than the reach of the windows of a region.
_NOMINAL = 224
# Number of elements. Inference must see tensors that may contain sizes; larger ones are only declared, because
# inference copies its input.
_SMALL = 1024


@dataclass
class Shapes:
    """Sizes and element types of tensors, which are read from the inferred types on demand.

    Attributes:
        inferred: Inferred types by tensor, with free sizes.
        numbered: Types by tensor, inferred with a number in place of each free size. None if only batches are free.
        known: Sizes and element types of constants.
    """

    inferred: Mapping[str, onnx.ValueInfoProto] = field(default_factory=dict)
    numbered: Mapping[str, onnx.ValueInfoProto] | None = None
    known: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    _exact: dict[str, Shape | None] = field(default_factory=dict)

    def exact(self, name: str) -> Shape | None:
        """Return the sizes of a tensor, with None for each free one, or None if the rank is unknown."""
        if name in self.known:
            return self.known[name][0]
        if name not in self._exact:
            self._exact[name] = _sizes(self.inferred.get(name))
        return self._exact[name]

    def nominal(self, name: str) -> tuple[int, ...] | None:
        """Return the sizes of a tensor with a number in place of each free one, or None if any is unknown."""
        if self.numbered is not None:
            sizes = _sizes(self.numbered.get(name))
        elif sizes := self.exact(name):
            sizes = (1 if sizes[0] is None else sizes[0], *sizes[1:])
        return tuple(size for size in sizes if size is not None) if sizes and None not in sizes else None

    def type(self, name: str) -> int:
        """Return the element type of a tensor, or 0 if it is unknown."""
        if name in self.known:
            return self.known[name][1]
        return self.inferred[name].type.tensor_type.elem_type if name in self.inferred else 0


def _sizes(value: onnx.ValueInfoProto | None) -> Shape | None:
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple([dim.dim_value if dim.HasField("dim_value") else None for dim in dims])


def infer_shapes(model: onnx.ModelProto, values: Mapping[str, Array], skipped: Iterable[int]) -> Shapes:
    """Infer shapes while folding.

    Args:
        model: The model; it is not changed.
        values: Results of operators that were folded.
        skipped: Indices of these operators.
    """
    skeleton = _skeleton(model, values, set(skipped))
    # These were declared before folding and rewriting, and may be outdated.
    del skeleton.graph.value_info[:]
    shapes = Shapes(_inferred(skeleton))
    shapes.known.update((tensor.name, (tuple(tensor.dims), tensor.data_type)) for tensor in model.graph.initializer)
    shapes.known.update(
        (name, (array.shape, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))) for name, array in values.items()
    )
    free = False
    for value in skeleton.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                free = free or place > 0
                dim.dim_value = _NOMINAL if place else 1
    if free:
        for value in skeleton.graph.output:
            value.type.tensor_type.ClearField("shape")
        shapes.numbered = _inferred(skeleton)
    return shapes


def inferred_graph(model: onnx.ModelProto, *, strict: bool = False, data_prop: bool = False) -> onnx.GraphProto:
    """Return the graph with inferred shapes, in which large initializers are declared as inputs.

    Args:
        model: The model; it is not changed.
        strict: Raise ModelError if inference fails. Otherwise the shapes are those that the model declares.
        data_prop: Follow the values of shapes through operators.
    """
    return _infer(_skeleton(model, {}, set()), strict=strict, data_prop=data_prop)


def tensor_types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the inferred type and shape of every tensor that is not an initializer."""
    weights = {tensor.name for tensor in model.graph.initializer}
    graph = inferred_graph(model)
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value for value in values if value.name not in weights}


def _infer(skeleton: onnx.ModelProto, *, strict: bool, data_prop: bool) -> onnx.GraphProto:
    if data_prop:
        bounded = without_long_values(skeleton)
        skeleton, data_prop = bounded or skeleton, bounded is not None
    try:
        return onnx.shape_inference.infer_shapes(skeleton, strict_mode=strict, data_prop=data_prop).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        if strict:
            reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[-1])
            raise ModelError(f"its shapes contradict each other: {reason}") from error
        return skeleton.graph


def _inferred(skeleton: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    graph = _infer(skeleton, strict=False, data_prop=True)
    return {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}


def _skeleton(model: onnx.ModelProto, values: Mapping[str, Array], skipped: set[int]) -> onnx.ModelProto:
    skeleton = onnx.ModelProto(
        ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions
    )
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    # Since IR version 4, an initializer of an input is only a default value.
    given = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    fixed = [item for item in model.graph.initializer if item.name not in given]
    constants = {item.name for item in fixed} | set(values)
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in fixed:
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for name, array in values.items():
        if array.size <= _SMALL:
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    graph.node.extend(node for index, node in enumerate(model.graph.node) if index not in skipped)
    return skeleton
