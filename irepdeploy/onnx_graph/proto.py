"""ONNX's protobufs: attributes, names that are free, and a copy without the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

__all__ = ["attribute_of", "distinct_name", "name_nodes", "without_weights"]

# Elements. Below this size a constant may decide about shapes, and costs nothing to keep.
_SMALL = 1024


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or `default` where it has none of this name."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def distinct_name(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it where it is `taken`; it is then taken too."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place: layers are told apart by them."""
    taken: set[str] = set()
    for node in model.graph.node:
        node.name = distinct_name(node.name or node.op_type, taken)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants only declared: shapes do not depend on them, and inference copies them."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    bare.graph.name = model.graph.name or "graph"
    bare.graph.node.extend(model.graph.node)
    bare.graph.output.extend(model.graph.output)
    bare.graph.value_info.extend(model.graph.value_info)
    weights = {tensor.name for tensor in model.graph.initializer}
    bare.graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= _SMALL:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare
