"""Bounds of data propagation, with which ONNX's shape inference follows the values of shapes through operators.

It stores every number of a one-dimensional tensor, regardless of its length, so that a product of two numbers can
result in a terabyte.
"""

from __future__ import annotations

import math

import onnx

from irepdeploy.onnx_graph.proto import constants_of, opset_of, subgraphs_of

__all__ = ["without_long_values"]

# Number of elements that no list of sizes exceeds.
_LONG = 1 << 14
_LARGE = 1 << 24
# The first input that determines the size of the result.
_SIZED = {
    "CenterCropPad": 1, "Col2Im": 1, "ConstantOfShape": 0, "Expand": 1, "MaxUnpool": 2, "OneHot": 1, "Pad": 1,
    "Range": 0, "Resize": 2, "Tile": 1, "TopK": 1, "Upsample": 1,
}  # fmt: skip


def without_long_values(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return the model without operators that would propagate long values; their results become inputs of the graph.

    The result is None if long values may reach subgraphs or functions, where they cannot be bounded.
    """
    try:
        plain = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return None
    types = {value.name: value for value in (*plain.input, *plain.value_info, *plain.output)}
    constants = constants_of(model.graph)
    own = {(item.domain, item.name) for item in model.functions}
    long = {name for name, value in types.items() if _length(value) > _LONG}
    cut = []
    for index, node in enumerate(model.graph.node):
        inner = (*subgraphs_of(node),)
        if inner or (own and (node.domain, node.op_type) in own):
            bodies = (*inner, *model.functions)
            if long or any(each.op_type in _SIZED for body in bodies for each in body.node):
                return None
            continue
        # The result has only a few numbers.
        if node.op_type in ("Shape", "Size"):
            continue
        read = long.intersection(node.input) if long else long
        if read and _propagates(node, model):
            cut.append(index)
        if read or _grows(node, types, constants):
            # Outputs of known length are already in `long` if they are long.
            long.update(name for name in node.output if name and _length(types.get(name)) < 0)
    if not cut:
        return model
    bounded = onnx.ModelProto()
    bounded.CopyFrom(model)
    for index in reversed(cut):
        for name in filter(None, bounded.graph.node[index].output):
            bounded.graph.input.append(types.get(name, onnx.ValueInfoProto(name=name)))
        del bounded.graph.node[index]
    return bounded


def _length(value: onnx.ValueInfoProto | None) -> int:
    """Return the length of a one-dimensional tensor, 0 for any other rank, or -1 if it is unknown."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return -1
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 1:
        return 0
    return dims[0].dim_value if dims[0].HasField("dim_value") else -1


def _grows(node: onnx.NodeProto, types: dict[str, onnx.ValueInfoProto], constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type in _SIZED:
        return any(name and name not in constants for name in node.input[_SIZED[node.op_type] :])
    return node.op_type in ("Reshape", "Flatten") and any(_elements(types.get(name)) > _LARGE for name in node.input)


def _elements(value: onnx.ValueInfoProto | None) -> int:
    return 0 if value is None else math.prod(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)


def _propagates(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset_of(model), node.domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_data_propagation_function)
