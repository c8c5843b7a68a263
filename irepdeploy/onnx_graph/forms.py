"""Checks for operator forms that some targets refuse or misread, by name.

A target lists the forms that its files must not contain (`Target.forbidden`). Each check yields its findings as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from irepdeploy.onnx_graph.proto import attribute_of
from irepdeploy.onnx_graph.view import View

__all__ = ["FORMS"]

# Inputs that determine a shape.
_SHAPING = {"Pad": slice(1, 4), "Slice": slice(3, 4), "Squeeze": slice(1, None), "Unsqueeze": slice(1, None)}


def _reduce_axes(view: View) -> Iterator[str]:
    # The parsers of TensorRT 8.5 and 8.6 ignore this input and reduce over every dimension.
    for node in view.nodes:
        if node.op_type.startswith("Reduce") and len(node.input) > 1:
            yield f"{node.name}: {node.op_type} with its axes as an input"


def _reduce_computed(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type.startswith("Reduce") and not all(view.fixed(name) for name in node.input[1:]):
            yield f"{node.name}: {node.op_type} over computed axes"


def _shape_computed(view: View) -> Iterator[str]:
    for node in view.nodes:
        places = _SHAPING.get(node.op_type, slice(0))
        if not all(view.fixed(name) for name in node.input[places]):
            yield f"{node.name}: {node.op_type} by a computed tensor"


def _clip(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type == "Clip" and not all(view.fixed(name) for name in node.input[1:]):
            yield f"{node.name}: Clip with computed bounds"


def _float64(view: View) -> Iterator[str]:
    double = onnx.TensorProto.DOUBLE
    for name, tensor in view.constants.items():
        if tensor.data_type == double:
            yield f"{name}: a float64 tensor"
    for node in view.nodes:
        if node.op_type == "Cast" and attribute_of(node, "to", None) == double:
            yield f"{node.name}: a cast to float64"


def _int32_bias(view: View) -> Iterator[str]:
    for node in view.nodes:
        tensor = view.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is not None and tensor.data_type == onnx.TensorProto.INT32:
            yield f"{node.name}: DequantizeLinear of an int32 bias (quantize with QuantizeBias=False)"


def _uint8_quantized(view: View) -> Iterator[str]:
    for node in view.nodes:
        # Without a zero point, QuantizeLinear returns uint8.
        if node.op_type == "QuantizeLinear":
            zero = view.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if zero is None or zero.data_type == onnx.TensorProto.UINT8:
                yield f"{node.name}: quantized to uint8"


def _zero_point(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero = view.value(node.input[2])
            if zero is not None and np.any(zero):
                yield f"{node.name}: a zero point that is not zero"


def _resize(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type == "Resize":
            mode = attribute_of(node, "mode", b"nearest").decode()
            place = attribute_of(node, "coordinate_transformation_mode", b"half_pixel").decode()
            if mode not in ("nearest", "linear") or place == "tf_crop_and_resize" or attribute_of(node, "antialias", 0):
                yield f"{node.name}: Resize by {mode}, {place}"


def _uint8_input(view: View) -> Iterator[str]:
    for value in view.model.graph.input:
        others = [node for node in view.readers.get(value.name, []) if node.op_type != "Cast"]
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and others:
            yield f"input {value.name}: uint8 that is read by something other than a Cast"


FORMS: dict[str, Callable[[View], Iterator[str]]] = {
    "Reduce with axes as input": _reduce_axes,
    "Reduce with computed axes": _reduce_computed,
    "Pad, Slice or Squeeze by a computed tensor": _shape_computed,
    "Clip bounds computed": _clip,
    "float64 tensor": _float64,
    "bias as int32 DequantizeLinear": _int32_bias,
    "quantized to uint8": _uint8_quantized,
    "zero point not zero": _zero_point,
    "Resize by cubic or cropping": _resize,
    "uint8 input not cast": _uint8_input,
}
