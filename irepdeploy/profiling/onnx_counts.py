"""What an ONNX file holds: nodes by operator, parameters, MACs where its shapes say them, health of its kernels."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from irepdeploy.errors import ModelError
from irepdeploy.files import read_bytes
from irepdeploy.profiling.counts import REST, Counts, conv_text
from irepdeploy.profiling.health import LayerHealth, kernel_health

__all__ = ["OnnxFacts", "OnnxLayer", "read_onnx"]

Array = np.ndarray[Any, Any]
Shape = list[int | str]

_COUNTED = ("Conv", "Gemm", "MatMul")
# They multiply and accumulate too, and nothing here counts them.
_NOT_COUNTED = {
    "Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "RNN", "Scan",
}  # fmt: skip
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
_NO_PARAMETERS = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}


@dataclass(frozen=True)
class OnnxLayer:
    """A convolution or a product with weights; `health` only of convolutions whose weights are floats in the file."""

    name: str
    operation: str
    counts: Counts
    health: LayerHealth | None = None


@dataclass(frozen=True)
class OnnxFacts:
    """What was read.

    Args:
        inputs, outputs: name and shape of each; a size that is free is its name as text.
        layers: `Conv`, `Gemm` and `MatMul` nodes, and `REST`.
        counts: of the whole; MACs are of one input, and None where the shapes do not say them.
        not_counted: operators that multiply and accumulate, or that are not ONNX's own, and are in no MACs.
    """

    opset: int
    ir_version: int
    producer: str
    metadata: dict[str, str]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    operators: dict[str, int]
    layers: list[OnnxLayer]
    counts: Counts
    not_counted: list[str]


def read_onnx(path: str | os.PathLike[str]) -> OnnxFacts:
    """Read an ONNX file.

    Raises:
        InputError: the file is missing.
        ModelError: it is no ONNX model, is damaged, or lacks its external data.
    """
    model = _load(path)
    graph = model.graph
    constants = _constants(graph)
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
            counts = Counts(sum(_parameters(constants[name]) for name in own), _macs(node, shapes, batch))
            layers.append(_layer(node, counts, shapes, constants))
    params = sum(map(_parameters, constants.values()))
    rest = params - sum(layer.counts.params for layer in layers)
    macs = [layer.counts.macs for layer in layers]
    whole = None if None in macs else sum(count for count in macs if count is not None)
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)
    return OnnxFacts(
        opset=max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        ir_version=model.ir_version,
        producer=" ".join(text for text in (model.producer_name, model.producer_version) if text),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        inputs=inputs,
        outputs={value.name: shapes[value.name] for value in graph.output},
        operators=dict(sorted(operators.items())),
        layers=[*layers, OnnxLayer(REST, "", Counts(rest, None if whole is None else 0))],
        counts=Counts(params, whole),
        not_counted=sorted(name for name in operators if name in _NOT_COUNTED or "::" in name),
    )


def _load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    content = read_bytes(path, "ONNX file")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX model, or a damaged one", where=path) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError("not an ONNX model: it has no nodes", where=path)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(Path(path).parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"its weights lie in another file, which cannot be read: {error}", where=path) from error
    return model


def _shapes(model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, Shape]:
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # it contradicts itself, or is too large for protobuf
        graph = model.graph
    shapes: dict[str, Shape] = {name: list(tensor.dims) for name, tensor in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    return shapes


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _parameters(tensor: onnx.TensorProto) -> int:
    # A scalar is a setting, such as the limit of a clip; a whole number is a shape.
    return 0 if tensor.data_type in _NO_PARAMETERS or not tensor.dims else math.prod(tensor.dims)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape], batch: int | str) -> int | None:
    out, weights = shapes.get(node.output[0]), shapes.get(node.input[1])
    if not out or not weights:
        return None
    # The products that each output sums up; a bias is none.
    if node.op_type == "Conv":
        terms = weights[1:]
    elif node.op_type == "Gemm":
        terms = [weights[1 if _attributes(node).get("transB") else 0]]
    else:
        terms = weights[-2:][:1]
    sizes = [size for size in (*(out[1:] if out[0] == batch else out), *terms) if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(out) - (out[0] == batch) + len(terms) else None


def _layer(
    node: onnx.NodeProto, counts: Counts, shapes: Mapping[str, Shape], constants: Mapping[str, onnx.TensorProto]
) -> OnnxLayer:
    name, health = node.name or node.output[0], None
    if node.op_type != "Conv":
        return OnnxLayer(name, node.op_type, counts)
    settings = _attributes(node)
    out, per_group, *kernel = shapes.get(node.input[1]) or ["?", "?"]
    groups = settings.get("group", 1)
    channels = per_group * groups if isinstance(per_group, int) else per_group
    text = conv_text(channels, out, kernel, settings.get("strides", ()), settings.get("dilations", ()), groups)
    tensors = [constants.get(part) for part in node.input[1:3] if part]
    if all(tensor is not None and tensor.data_type in _FLOATS for tensor in tensors):
        arrays = [_array(tensor) for tensor in tensors if tensor is not None]
        health = LayerHealth(name, (), None, kernel_health(*arrays))
    return OnnxLayer(name, text, counts, health)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _array(tensor: onnx.TensorProto) -> Array:
    array = onnx.numpy_helper.to_array(tensor)
    return array if array.dtype == np.float64 else array.astype(np.float32)
