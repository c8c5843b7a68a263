"""Check that an ONNX model is sound enough for shape inference and rewriting."""

from __future__ import annotations

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import opset_of

__all__ = ["check_model"]

# Since this opset Add and Mul broadcast, and BatchNormalization has no mode attribute.
_OLDEST = 7
_POSITIVE = {"dilations", "group", "kernel_shape", "num_outputs", "strides"}
_SIZES = {*_POSITIVE, "axis", "axes", "pads", "perm", "split"}
_LARGEST = 1 << 20


def check_model(model: onnx.ModelProto, label: str | None = None) -> None:
    """Refuse a model that is older than opset 7, or whose attributes would crash shape inference."""
    opset = opset_of(model)
    if 0 < opset < _OLDEST:
        hint = "convert it: onnx.version_converter.convert_version(model, 13)"
        raise ModelError(f"opset {opset} is older than {_OLDEST}", where=label, hint=hint)
    for node in model.graph.node:
        for item in node.attribute:
            # onnx's shape inference divides by some of them, and creates as many outputs as others request.
            values = item.ints or [item.i]
            least = 1 if item.name in _POSITIVE else -_LARGEST
            if item.name in _SIZES and not least <= min(values) <= max(values) <= _LARGEST:
                name = node.name or node.op_type
                raise ModelError(f"damaged: {item.name} of {name!r} is {list(values)}", where=label)
