"""Precision of an ONNX model, determined in the same way on the desktop and on the board."""

from __future__ import annotations

import math
from collections import Counter

import onnx

from irepdeploy.onnx_graph.proto import constants_of, graphs_of, nodes_of

__all__ = ["precision_of"]

_NAMES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}
_QUANTIZED = {
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear",
    # Operators of ONNX Runtime; its other quantized operators begin with QLinear, as ONNX's own do.
    "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm",
}  # fmt: skip


def precision_of(model: onnx.ModelProto) -> str:
    """Return "int8", "fp16", "bf16", "fp32" or "fp64".

    A model with quantized operators, including those in subgraphs and functions, is int8. Any other model has the type
    in which most of its parameters are stored, so that single scalars or layers in another type do not matter. A model
    without floating-point parameters has the type of its first floating-point input, or fp32 if it has none.
    """
    if any(node.op_type in _QUANTIZED or node.op_type.startswith("QLinear") for node in nodes_of(model)):
        return "int8"
    elements: Counter[int] = Counter()
    for graph in graphs_of(model):
        for tensor in constants_of(graph).values():
            if tensor.data_type in _NAMES:
                elements[tensor.data_type] += math.prod(tensor.dims)
    if elements:
        return _NAMES[max(elements, key=lambda kind: elements[kind])]
    inputs = (value.type.tensor_type.elem_type for value in model.graph.input)
    return next((_NAMES[kind] for kind in inputs if kind in _NAMES), "fp32")
