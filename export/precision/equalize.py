"""Cross-layer equalization: scale the channels of hidden feature maps to similar ranges without changing the outputs.

If only one layer reads the output of another, through operators f with f(s x) = s f(x) for s > 0 (ReLU, pools),
channel i can be divided by any s_i > 0 in the first layer and multiplied by it in the second. With r1_i and r2_i the
largest weights of channel i in the two, s_i = sqrt(r1_i / r2_i) makes both sqrt(r1_i r2_i) (Nagel et al., "Data-free
quantization through weight equalization and bias correction", 2019, section 4.1). Each s_i is rounded to a power of
two, so that float32 outputs stay the same to the bit; a range is then at most half a bit from its optimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from irepdeploy.errors import InputError
from irepdeploy.onnx_graph.proto import attribute_of

from .inference import arrays_of

__all__ = ["Pair", "equalized", "equalized_like", "hidden_pairs", "rescaled"]

Array = np.ndarray[Any, Any]

_LAYERS = ("Conv", "Gemm")
_HOMOGENEOUS = frozenset(
    {"AveragePool", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Relu"}
)
_SWEEPS = 30


@dataclass(frozen=True)
class Pair:
    """Two nodes with a hidden map of `channels` channels between them that no other node reads."""

    first: str
    second: str
    channels: int


def equalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[Pair, Array]]:
    """Equalize every hidden map of a copy of a float32 model; return it and the s_i, (C,) float64, of each map."""
    pairs = hidden_pairs(model)
    nodes, arrays = _nodes(model), arrays_of(model)
    peaks = {
        name: np.abs(_taps(nodes[name], arrays[nodes[name].input[1]])).max(-1)
        for name in sorted({layer for pair in pairs for layer in (pair.first, pair.second)})
    }
    factors = {pair: np.ones(pair.channels) for pair in pairs}
    for _ in range(_SWEEPS):
        settled = True
        for pair in pairs:
            step = _step(pair, nodes, peaks)
            settled = settled and bool((step == 1).all())
            factors[pair] *= step
        if settled:
            break
    return rescaled(model, factors), factors


def rescaled(model: onnx.ModelProto, factors: Mapping[Pair, Array]) -> onnx.ModelProto:
    """Divide channel i of each map by s_i > 0 in the first layer and multiply by it in the second, in a copy."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = _nodes(result)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for pair, scale in factors.items():
        if np.shape(scale) != (pair.channels,) or not (np.isfinite(scale).all() and (np.asarray(scale) > 0).all()):
            raise InputError(f"expected {pair.channels} positive factors", where=pair.first)
        first, second = nodes[pair.first], nodes[pair.second]
        weight, bias = tensors[first.input[1]], tensors.get(first.input[2]) if len(first.input) > 2 else None
        _write(weight, _divided_rows(first, onnx.numpy_helper.to_array(weight), scale))
        if bias is not None:
            _write(bias, onnx.numpy_helper.to_array(bias) / scale)
        weight = tensors[second.input[1]]
        _write(weight, _multiplied_columns(second, onnx.numpy_helper.to_array(weight), scale))
    return result


def equalized_like(reference: onnx.ModelProto, result: onnx.ModelProto) -> onnx.ModelProto:
    """Return the reference, or its equalized form if the quantized weights of `result` are closer to that."""
    if not any(node.op_type == "DequantizeLinear" for node in result.graph.node):
        return reference
    other, factors = equalized(reference)
    changed = {pair.first for pair, scale in factors.items() if (scale != 1).any()}
    weights = [_weights_of(model, changed) for model in (reference, other, result)]
    distances = [
        sum(float(np.abs(weights[2][name] - some[name]).sum()) for name in changed if name in weights[2])
        for some in weights[:2]
    ]
    return other if distances[1] < distances[0] else reference


def hidden_pairs(model: onnx.ModelProto) -> list[Pair]:
    """Return the pairs of a model in the order of its nodes; layers that share a weight form no pair."""
    graph = model.graph
    reads = Counter(name for node in graph.node for name in node.input if name)
    reads.update(value.name for value in graph.output)
    readers = {name: node for node in graph.node for name in node.input}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    pairs = []
    for first in graph.node:
        channels = _channels_out(first, weights, reads)
        if channels is None:
            continue
        name, passed = first.output[0], True
        while passed and reads[name] == 1 and name in readers:
            node = readers[name]
            if node.op_type in _LAYERS and node.input[0] == name:
                if _owns(node, weights, reads) and _takes(node, weights[node.input[1]], channels):
                    pairs.append(Pair(first.name, node.name, channels))
                break
            passed = node.op_type in _HOMOGENEOUS and node.input[0] == name and len(node.output) == 1
            passed = passed and (node.op_type != "Flatten" or attribute_of(node, "axis", 1) == 1)
            name = node.output[0]
    return pairs


def _weights_of(model: onnx.ModelProto, layers: set[str]) -> dict[str, Array]:
    """Return the weights of these nodes, dequantized."""
    arrays = arrays_of(model)
    made = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.name in layers:
            name = node.input[1]
            found[node.name] = arrays[name] if name in arrays else _dequantized(made[name], arrays)
    return found


def _dequantized(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> Array:
    weight, scale, *zero = (arrays[name] for name in node.input if name)
    shape = [1] * weight.ndim
    if scale.size > 1:
        shape[attribute_of(node, "axis", 1)] = -1
    steps = weight.astype(np.float32) - (zero[0].reshape(shape) if zero else 0)
    return steps * scale.reshape(shape)


def _step(pair: Pair, nodes: Mapping[str, onnx.NodeProto], peaks: dict[str, Array]) -> Array:
    """Return the next s_i of a pair, and update `peaks`, (out, in) of each layer, accordingly."""
    second = nodes[pair.second]
    rows = peaks[pair.first].reshape(pair.channels, -1).max(1).astype(np.float64)
    columns = _by_channel(second, peaks[pair.second], pair.channels).max((1, 3)).ravel().astype(np.float64)
    live = (rows > 0) & (columns > 0)
    scale = np.ones(pair.channels)
    scale[live] = np.exp2(np.rint(np.log2(rows[live] / columns[live]) / 2))
    peaks[pair.first] = (peaks[pair.first].reshape(pair.channels, -1) / scale[:, None]).reshape(peaks[pair.first].shape)
    grouped = _by_channel(second, peaks[pair.second], pair.channels)
    peaks[pair.second] = (grouped * _as_columns(scale, grouped)).reshape(peaks[pair.second].shape)
    return scale


def _divided_rows(node: onnx.NodeProto, weight: Array, scale: Array) -> Array:
    rows = weight if _rows_first(node) else weight.T
    divided = (rows.reshape(len(rows), -1) / scale[:, None]).reshape(rows.shape)
    return divided if _rows_first(node) else divided.T


def _multiplied_columns(node: onnx.NodeProto, weight: Array, scale: Array) -> Array:
    rows = weight if _rows_first(node) else weight.T
    grouped = _by_channel(node, rows, len(scale))
    multiplied = (grouped * _as_columns(scale, grouped)).reshape(rows.shape)
    return multiplied if _rows_first(node) else multiplied.T


def _by_channel(node: onnx.NodeProto, rows: Array, channels: int) -> Array:
    """Reshape weights (out, ...) to (groups, out/groups, channels/groups, rest); after a Flatten, rest is the map."""
    groups = attribute_of(node, "group", 1) if node.op_type == "Conv" else 1
    return rows.reshape(groups, len(rows) // groups, channels // groups, -1)


def _as_columns(scale: Array, grouped: Array) -> Array:
    return scale.reshape(grouped.shape[0], 1, grouped.shape[2], 1)


def _taps(node: onnx.NodeProto, weight: Array) -> Array:
    """Reshape weights to (out, in, taps); those of a linear layer have one tap."""
    rows = weight if _rows_first(node) else weight.T
    return rows.reshape(*rows.shape[:2], -1)


def _rows_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" or bool(attribute_of(node, "transB", 0))


def _channels_out(node: onnx.NodeProto, weights: Mapping[str, TensorProto], reads: Mapping[str, int]) -> int | None:
    if node.op_type not in _LAYERS or not _owns(node, weights, reads):
        return None
    channels = int(weights[node.input[1]].dims[0 if _rows_first(node) else 1])
    if len(node.input) > 2 and node.input[2] and list(weights[node.input[2]].dims) != [channels]:
        return None
    return channels


def _owns(node: onnx.NodeProto, weights: Mapping[str, TensorProto], reads: Mapping[str, int]) -> bool:
    constants = [name for name in node.input[1:] if name]
    return (
        bool(node.name)
        and not attribute_of(node, "transA", 0)
        and all(name in weights and reads[name] == 1 for name in constants)
    )


def _takes(node: onnx.NodeProto, weight: TensorProto, channels: int) -> bool:
    """Return whether the layer's columns are these channels or, after a Flatten, whole maps of them."""
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(attribute_of(node, "group", 1)) == channels
    return int(weight.dims[1 if _rows_first(node) else 0]) % channels == 0


def _write(tensor: TensorProto, values: Array) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), tensor.name))


def _nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node if node.op_type in _LAYERS}
