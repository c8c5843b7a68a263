"""Shapes of the tensors of a graph, inferred without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

__all__ = ["Shape", "Shapes", "infer_shapes"]

Array = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]

# In place of a height or width that is free; more than the windows of a region reach.
_NOMINAL = 224
# Tensors up to this size may hold sizes, which inference has to see.
_SMALL = 256
_SIZES = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT)


@dataclass
class Shapes:
    """By tensor: its sizes, its sizes with a number where one is free, and its element type."""

    exact: dict[str, Shape] = field(default_factory=dict)
    nominal: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)


def infer_shapes(model: onnx.ModelProto, values: Mapping[str, Array], skipped: Iterable[int]) -> Shapes:
    """Infer the shapes of a model's tensors.

    Args:
        values: constants that operators give; the operators of index `skipped` give nothing else.
    """
    skeleton = _skeleton(model, values, set(skipped))
    shapes = Shapes()
    for name, (sizes, kind, batch) in _inferred(skeleton).items():
        shapes.types[name] = kind
        if sizes is not None:
            shapes.exact[name] = sizes
            shapes.batches[name] = batch
    for tensor in model.graph.initializer:
        shapes.exact[tensor.name], shapes.types[tensor.name] = tuple(tensor.dims), tensor.data_type
    for name, array in values.items():
        shapes.exact[name] = array.shape
        shapes.types[name] = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    free = False
    for value in skeleton.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                free = free or place > 0
                dim.dim_value = _NOMINAL if place else 1
    if free:
        del skeleton.graph.value_info[:]
        for value in skeleton.graph.output:
            value.type.tensor_type.ClearField("shape")
        found = {name: sizes for name, (sizes, _, _) in _inferred(skeleton).items()}
    else:
        found = {
            name: (1 if sizes[0] is None else sizes[0], *sizes[1:]) for name, sizes in shapes.exact.items() if sizes
        }
    for name, sizes in found.items():
        if sizes is not None and None not in sizes:
            shapes.nominal[name] = tuple(size for size in sizes if size is not None)
    return shapes


def _inferred(skeleton: onnx.ModelProto) -> dict[str, tuple[Shape | None, int, str]]:
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = skeleton.graph
    found = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        known = kind.HasField("shape")
        batch = dims[0].dim_param if known and dims else ""
        found[value.name] = (sizes if known else None, kind.elem_type, batch)
    return found


def _skeleton(model: onnx.ModelProto, values: Mapping[str, Array], skipped: set[int]) -> onnx.ModelProto:
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    given = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    fixed = [item for item in model.graph.initializer if item.name not in given]
    constants = {item.name for item in fixed} | set(values)
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(model.graph.output)
    for tensor in fixed:
        if math.prod(tensor.dims) <= _SMALL and tensor.data_type in _SIZES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for name, array in values.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.size <= _SMALL and kind in _SIZES:
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    graph.node.extend(node for index, node in enumerate(model.graph.node) if index not in skipped)
    return skeleton
