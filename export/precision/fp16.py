"""Convert a float32 ONNX model to float16 between float32 inputs and outputs.

Strongly typed builders (TensorRT 11, TensorRT-RTX) take the precision from the types in the file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import attribute_of, distinct_name, drop_unread

from .inference import arrays_of

__all__ = ["FP16_MAX", "FP16_SMALLEST_NORMAL", "float_constants", "half_graph"]

Array = np.ndarray[Any, Any]
Unique = Callable[[str], str]

FP16_MAX, FP16_SMALLEST_NORMAL = 65504.0, 2.0**-14

# All floats that these read and write have one type, so that changing all of them keeps the graph valid; only the
# scales of Resize are always float32.
_OPERATORS = """
    Abs Add ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose Cos
    DepthToSpace Div Dropout Elu Erf Exp Expand Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool HardSigmoid
    HardSwish Identity InstanceNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg PRelu Pad Pow
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Selu Shape Sigmoid Sin Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
"""
# These square their input, which overflows beyond 256: they stay float32 between two casts.
_WIDE = "ReduceL2"
_BN = "BatchNormalization"


def half_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with float16 weights and activations, and a Cast after each input and before each output.

    The statistics of a batch normalisation are first folded, in float64, into its scale and shift: they may be beyond
    fp16 where scale and shift are not.
    """
    _refuse_unknown(model)
    constants = float_constants(model)
    for layer, tensors in constants.items():
        for name, values in tensors.items():
            _refuse_overflow(layer, name, values)
    half = onnx.ModelProto()
    half.CopyFrom(model)
    unique = functools.partial(distinct_name, taken=_names_in(half.graph))
    _fold_normalisations(half.graph, constants, unique)
    scales = {name for node in half.graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    for tensor in half.graph.initializer:
        if tensor.name not in scales:
            _to_half(tensor)
    for node in half.graph.node:
        if scales.isdisjoint(node.output):
            _retype(node)
    weights = {tensor.name for tensor in half.graph.initializer}
    outputs = {value.name for value in half.graph.output}
    inner = [value for value in half.graph.value_info if value.name not in outputs]
    for value in (*inner, *(value for value in half.graph.input if value.name in weights)):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    _cast_around(half.graph, unique)
    _cast_inputs(half.graph, weights, unique)
    _cast_outputs(half.graph, unique)
    return half


def float_constants(model: onnx.ModelProto) -> dict[str, dict[str, Array]]:
    """Return the float constants of each node, by node and by name of the tensor.

    For a batch normalisation these are its effective scale and shift, (C,) float64.
    """
    arrays = {name: array for name, array in arrays_of(model).items() if array.dtype == np.float32}
    found: dict[str, dict[str, Array]] = {}
    for node in model.graph.node:
        layer = node.name or node.output[0]
        if node.op_type == _BN:
            scale, shift = _scale_and_shift(node, arrays)
            found[layer] = {f"{layer}.scale": scale, f"{layer}.shift": shift}
            continue
        own = {name: arrays[name] for name in node.input if name in arrays}
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                value = onnx.numpy_helper.to_array(attribute.t)
                own |= {node.output[0]: value} if value.dtype == np.float32 else {}
        if own:
            found[layer] = own
    return found


def _names_in(graph: onnx.GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return names.union(*([node.name, *node.output] for node in graph.node))


def _refuse_unknown(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in [*_OPERATORS.split(), *_WIDE.split()]:
            raise ModelError(
                f"operator {node.op_type} has no known float16 form",
                where=node.name or node.output[0],
                hint="export it as fp32",
            )
    wide = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.DOUBLE]
    if wide:
        raise ModelError("expected float32 constants, got float64", where=wide[0])


def _refuse_overflow(layer: str, name: str, values: Array) -> None:
    peak = float(np.abs(values).max()) if values.size else 0.0
    if not peak <= FP16_MAX:
        raise ModelError(
            f"{name} holds {peak:.4g}, and fp16 ends at 65504",
            where=layer,
            hint="export it as fp32, or train with weight decay",
        )


def _scale_and_shift(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return scale and shift of y = x * scale + shift."""
    if any(name not in arrays for name in node.input[1:5]) or attribute_of(node, "training_mode", 0):
        raise ModelError("the statistics of this batch normalisation are not constants", where=node.name)
    gamma, beta, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(var + attribute_of(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold_normalisations(graph: onnx.GraphProto, constants: Mapping[str, Mapping[str, Array]], unique: Unique) -> None:
    for node in graph.node:
        if node.op_type != _BN:
            continue
        layer = node.name or node.output[0]
        scale, shift = constants[layer].values()
        # With mean 0 and variance 1, only epsilon remains of the statistics.
        scale = scale * np.sqrt(1 + attribute_of(node, "epsilon", 1e-5))
        parts = {"scale": scale, "shift": shift, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        for index, (part, values) in enumerate(parts.items(), start=1):
            node.input[index] = unique(f"{layer}.{part}")
            graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), node.input[index]))
    drop_unread(graph)


def _to_half(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        exact = onnx.numpy_helper.to_array(tensor)
        values = exact.astype(np.float16)
        if values.size == 1 and exact.any() and not values.any():
            # A single number usually keeps a divisor from being zero.
            values = np.copysign(np.nextafter(np.float16(0), np.float16(1)), values)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _retype(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif node.op_type == "Constant" and attribute.name == "value":
            _to_half(attribute.t)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            raise ModelError(f"a Constant with {attribute.name} has no float16 form", where=node.name)


def _cast_around(graph: onnx.GraphProto, unique: Unique) -> None:
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type not in _WIDE.split():
            continue
        layer, source, output = node.name or node.output[0], node.input[0], node.output[0]
        node.input[0], node.output[0] = unique(f"{layer}.wide"), unique(f"{layer}.float")
        graph.node.insert(index + 1, _cast(unique(f"{layer}.half"), node.output[0], output, TensorProto.FLOAT16))
        graph.node.insert(index, _cast(node.input[0], source, node.input[0], TensorProto.FLOAT))


def _cast_inputs(graph: onnx.GraphProto, weights: set[str], unique: Unique) -> None:
    casts = []
    for value in graph.input:
        if value.name not in weights and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            name = unique(f"{value.name}.half")
            for node in graph.node:
                node.input[:] = [name if read == value.name else read for read in node.input]
            casts.append(_cast(name, value.name, name, TensorProto.FLOAT16))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _cast_outputs(graph: onnx.GraphProto, unique: Unique) -> None:
    floats = [value.name for value in graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    renamed = {name: unique(f"{name}.half") for name in floats}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for name, half in renamed.items():
        graph.node.append(_cast(unique(f"{name}.float"), half, name, TensorProto.FLOAT))


def _cast(name: str, source: str, output: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [output], name, to=kind)
