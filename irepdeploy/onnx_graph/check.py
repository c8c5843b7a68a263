"""Check that an ONNX model is sound enough for shape inference and rewriting."""

from __future__ import annotations

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import graphs_of, opset_of, subgraphs_of

__all__ = ["check_attributes", "check_model"]

# Since this opset Add and Mul broadcast, and BatchNormalization has no mode attribute.
_OLDEST = 7
_POSITIVE = {"dilations", "group", "kernel_shape", "num_outputs", "strides"}
_SIZES = {*_POSITIVE, "axis", "axes", "pads", "perm", "split"}
_LARGEST = 1 << 20


def check_model(model: onnx.ModelProto, label: str | None = None) -> None:
    """Refuse a model that is older than opset 7."""
    opset = opset_of(model)
    if 0 < opset < _OLDEST:
        hint = "convert it: onnx.version_converter.convert_version(model, 13)"
        raise ModelError(f"opset {opset} is older than {_OLDEST}", where=label, hint=hint)


def check_attributes(model: onnx.ModelProto, label: str | None = None) -> None:
    """Refuse attributes that shape inference would divide by or that ask it for millions of outputs."""
    inner = (graph for function in model.functions for node in function.node for graph in subgraphs_of(node))
    bodies = (*graphs_of(model), *model.functions, *inner)
    for node in (node for body in bodies for node in body.node):
        for item in node.attribute:
            if item.name not in _SIZES or item.ref_attr_name:
                continue
            values = item.ints or [item.i]
            least = 1 if item.name in _POSITIVE else -_LARGEST
            if not least <= min(values) <= max(values) <= _LARGEST:
                name = node.name or node.op_type
                raise ModelError(f"damaged: {item.name} of {name!r} is {list(values)}", where=label)
