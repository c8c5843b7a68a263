"""Facts about an ONNX file: nodes by operator, parameters, and MACs as far as its shapes are known."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.check import check_graph
from irepdeploy.onnx_graph.model_file import label_of, open_model
from irepdeploy.onnx_graph.proto import attribute_of, constants_of, opset_of
from irepdeploy.onnx_graph.shapes import inferred_graph

__all__ = ["ConvShape", "OnnxFacts", "OnnxLayer", "read_onnx"]

Array = np.ndarray[Any, Any]
Shape = list[int | str]

_COUNTED = ("Conv", "Gemm", "MatMul")
# Operators that also multiply and accumulate, but are not counted here.
_NOT_COUNTED = {
    "Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "RNN", "Scan",
}  # fmt: skip
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
_NO_PARAMETERS = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}


class ConvShape(NamedTuple):
    """Sizes of a convolution, with "?" for each that the file does not contain."""

    in_channels: int | str
    out_channels: int | str
    kernel: Sequence[int | str]
    strides: Sequence[int]
    dilations: Sequence[int]
    groups: int


@dataclass(frozen=True)
class OnnxLayer:
    """A node with weights.

    Attributes:
        name: Name of the node, or of its first output.
        operator: Operator type.
        params: Number of elements of its weights, without those shared with an earlier layer.
        macs: MACs of one input, or None if its shapes are unknown.
        conv: Sizes of a Conv, or None for other operators.
        weights: Kernel and bias of a Conv in float32 or float64; empty if they have no elements or are not stored in
            the file as floats.
    """

    name: str
    operator: str
    params: int
    macs: int | None
    conv: ConvShape | None = None
    weights: Sequence[Array] = ()


@dataclass(frozen=True)
class OnnxFacts:
    """Facts about an ONNX file.

    Attributes:
        opset: Version of ONNX's own operator set.
        ir_version: IR version.
        producer: Name and version of the program that wrote the file.
        metadata: The ``metadata_props``.
        inputs: Shape of each input; a dynamic size is given by its name, or "?".
        outputs: Shape of each output.
        operators: Number of nodes of each type.
        layers: Nodes with weights.
        params: Number of parameters.
        macs: Multiply-accumulates of the whole model for one input, or None if the shapes of a layer are unknown.
        not_counted: Operators that multiply and accumulate, or that are not ONNX's own, and are not included in MACs.
    """

    opset: int
    ir_version: int
    producer: str
    metadata: dict[str, str]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    operators: dict[str, int]
    layers: list[OnnxLayer]
    params: int
    macs: int | None
    not_counted: list[str]


def read_onnx(path: str | os.PathLike[str], sizes: Mapping[str, Sequence[int | None]] | None = None) -> OnnxFacts:
    """Read the facts about an ONNX file.

    Args:
        path: The file.
        sizes: Sizes of inputs to use in place of free ones, with None for sizes that remain free.

    Raises:
        InputError: The file is missing.
        ModelError: The file is not an ONNX model, or is damaged.
    """
    model = open_model(path)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, (sizes or {}).get(value.name, ()), strict=False):
            if size is not None:
                dim.dim_value = size
    graph = model.graph
    if not graph.node:
        raise ModelError("not an ONNX model: it has no nodes", where=label_of(path))
    check_graph(model, label_of(path))
    constants = constants_of(graph)
    shapes = _shapes(model, constants)
    inputs = {value.name: shapes[value.name] for value in graph.input if value.name not in constants}
    first = next(iter(inputs.values()), [])
    batch = first[0] if first else 1
    counted: set[str] = set()
    layers = []
    for node in graph.node:
        if node.op_type in _COUNTED and not node.domain and len(node.input) > 1:
            own = [name for name in node.input if name in constants and name not in counted]
            counted.update(own)
            params = sum(_parameters(constants[name]) for name in own)
            conv = _conv(node, shapes) if node.op_type == "Conv" else None
            weights = _weights(node, constants) if node.op_type == "Conv" else ()
            name = node.name or node.output[0]
            layers.append(OnnxLayer(name, node.op_type, params, _macs(node, shapes, batch), conv, weights))
    macs = [layer.macs for layer in layers]
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)
    return OnnxFacts(
        opset=opset_of(model),
        ir_version=model.ir_version,
        producer=" ".join(text for text in (model.producer_name, model.producer_version) if text),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        inputs=inputs,
        outputs={value.name: shapes[value.name] for value in graph.output},
        operators=dict(sorted(operators.items())),
        layers=layers,
        params=sum(map(_parameters, constants.values())),
        macs=None if None in macs else sum(count for count in macs if count is not None),
        not_counted=sorted(name for name in operators if name in _NOT_COUNTED or "::" in name),
    )


def _shapes(model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, Shape]:
    graph = inferred_graph(model)
    shapes: dict[str, Shape] = {name: list(tensor.dims) for name, tensor in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    return shapes


def _parameters(tensor: onnx.TensorProto) -> int:
    # A scalar is a setting, such as the limit of a clip, and integers are shapes.
    return 0 if tensor.data_type in _NO_PARAMETERS or not tensor.dims else math.prod(tensor.dims)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape], batch: int | str) -> int | None:
    out, weights = shapes.get(node.output[0]), shapes.get(node.input[1])
    if not out or not weights:
        return None
    # The products that are summed in each output, without the bias.
    if node.op_type == "Conv":
        terms = weights[1:]
    elif node.op_type == "Gemm":
        terms = [weights[1 if attribute_of(node, "transB", 0) else 0]]
    else:
        terms = weights[-2:][:1]
    whole = [*_of_one(out, batch), *terms]
    sizes = [size for size in whole if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(whole) else None


def _of_one(sizes: Shape, batch: int | str) -> Shape:
    """Return the sizes without the batch, which is the axis with its name, else the first axis if it has its size."""
    named = isinstance(batch, str) and batch != "?" and batch in sizes
    place = sizes.index(batch) if named else 0
    return sizes[:place] + sizes[place + 1 :] if sizes[place] == batch else sizes


def _conv(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> ConvShape:
    out, per_group, *kernel = shapes.get(node.input[1]) or ["?", "?"]
    groups = attribute_of(node, "group", 1)
    channels = per_group * groups if isinstance(per_group, int) else per_group
    strides, dilations = attribute_of(node, "strides", ()), attribute_of(node, "dilations", ())
    return ConvShape(channels, out, kernel, strides, dilations, groups)


def _weights(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Sequence[Array]:
    tensors = [constants[name] for name in node.input[1:3] if name in constants]
    if len(tensors) < sum(map(bool, node.input[1:3])) or any(tensor.data_type not in _FLOATS for tensor in tensors):
        return ()
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    if not all(array.size for array in arrays):
        return ()
    return [array if array.dtype == np.float64 else array.astype(np.float32) for array in arrays]
