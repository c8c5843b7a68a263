"""Clean up the ONNX models that torch's exporters write."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from irepdeploy.onnx_graph.proto import distinct_name, drop_unread, graphs_of

__all__ = ["tidy"]


def tidy(model: onnx.ModelProto, *, ir_version: int, prefix: str = "") -> None:
    """Turn constants into initializers, fold batch normalization, make names distinct and remove paths, in place.

    `ir_version` replaces that of the exporter, which uses no features of a later one. `prefix` is the name of the
    module that wraps the network.
    """
    model.ir_version = ir_version
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in graphs_of(model.graph):
        graph.doc_string = ""
        del graph.value_info[:]
        for node in graph.node:
            # These contain stack traces with paths of this machine.
            node.doc_string = ""
            del node.metadata_props[:]
    _constants(model.graph)
    _fold(model.graph)
    drop_unread(model.graph)
    _rename(model.graph, prefix)


def _constants(graph: onnx.GraphProto) -> None:
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        tensors = [item.t for item in node.attribute if item.name == "value"]
        if node.op_type == "Constant" and tensors:
            tensor = graph.initializer.add()
            tensor.CopyFrom(tensors[0])
            tensor.name = node.output[0]
            del graph.node[index]


def _fold(graph: onnx.GraphProto) -> None:
    """Fold batch normalization into the preceding convolution, in float64 and rounded once."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for index in reversed(range(len(graph.node))):
        bn = graph.node[index]
        conv = producers.get(bn.input[0]) if bn.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or readers[bn.input[0]] != 1 or len(bn.output) > 1:
            continue
        names = [*conv.input[1:], *bn.input[1:]]
        if not all(name in weights for name in names):
            continue
        gamma, beta, mean, var = (_wide(weights[name]) for name in bn.input[1:5])
        epsilon = next((item.f for item in bn.attribute if item.name == "epsilon"), 1e-5)
        kernel = _wide(weights[conv.input[1]])
        bias = _wide(weights[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(kernel))
        scale = gamma / np.sqrt(var + epsilon)
        _replace(graph, conv, 1, f"{bn.output[0]}.folded.weight", kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)))
        _replace(graph, conv, 2, f"{bn.output[0]}.folded.bias", (bias - mean) * scale + beta)
        conv.output[0] = bn.output[0]
        producers[bn.output[0]] = conv
        del graph.node[index]
        weights = {tensor.name: tensor for tensor in graph.initializer}


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, name: str, array: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
    if place < len(node.input):
        node.input[place] = name
    else:
        node.input.append(name)


def _wide(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float64)


def _rename(graph: onnx.GraphProto, prefix: str) -> None:
    """Give nodes unique names without slashes, and name numbered weights after their first reader."""
    taken: set[str] = set()
    for inner in graphs_of(graph):
        for node in inner.node:
            steps = node.name.strip("/").split("/")
            # TorchScript names a layer of a Sequential after both: stem/stem.0.
            kept_steps = [a for a, b in zip(steps, [*steps[1:], ""], strict=True) if not b.startswith(f"{a}.")]
            name = ".".join(kept_steps) or node.op_type
            node.name = distinct_name(name.removeprefix(f"{prefix}.") if prefix else name, taken)
    kept = {value.name for value in (*graph.input, *graph.output)}
    taken |= kept | {output for inner in graphs_of(graph) for node in inner.node for output in node.output}
    renamed: dict[str, str] = {}
    first = {name: (node, place) for node in reversed(graph.node) for place, name in enumerate(node.input)}
    for tensor in graph.initializer:
        name = tensor.name.removeprefix(f"{prefix}.") if prefix else tensor.name
        reader = first.get(tensor.name)
        if reader is not None and ("::" in name or name.startswith(("/", "val_")) or name.isdecimal()):
            node, place = reader
            role = {1: "weight", 2: "bias"}.get(place) if node.op_type in ("Conv", "Gemm", "ConvTranspose") else None
            name = f"{node.name}.{role or f'input{place}'}"
        old, tensor.name = tensor.name, distinct_name(name, taken)
        renamed[old] = tensor.name
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
