"""Access the nodes, subgraphs, constants, attributes and names of ONNX protobufs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx.inliner

__all__ = [
    "attribute_of", "captured_by", "constants_of", "distinct_name", "drop_unread", "drop_weight_inputs", "graphs_of",
    "inlined", "inputs_of", "name_nodes", "nodes_of", "opset_of", "subgraphs_of", "tensors_of",
]  # fmt: skip


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operator set that the model imports, or 0 if it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def graphs_of(model: onnx.ModelProto | onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the main graph and all subgraphs, starting with the outer ones."""
    graph = model.graph if isinstance(model, onnx.ModelProto) else model
    yield graph
    for node in graph.node:
        yield from subgraphs_of(node)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its own functions inlined, or the same object if it has none."""
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def subgraphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of an If, Loop or Scan, including nested ones."""
    for item in node.attribute:
        for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
            yield from graphs_of(graph)


def captured_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the outer tensors that the subgraphs of `node` read."""
    graphs = list(subgraphs_of(node))
    if not graphs:
        return
    own = {value.name for graph in graphs for value in (*graph.input, *graph.initializer)}
    own |= {output for graph in graphs for inner in graph.node for output in inner.output}
    own |= {item.values.name for graph in graphs for item in graph.sparse_initializer}
    for graph in graphs:
        yield from (name for inner in graph.node for name in inner.input if name and name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, including those of subgraphs and functions."""
    yield from _nodes(model, graphs_of(model))


def _nodes(model: onnx.ModelProto, graphs: Iterable[onnx.GraphProto]) -> Iterator[onnx.NodeProto]:
    for graph in graphs:
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for graph in subgraphs_of(node):
                yield from graph.node


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that is stored in the model, as an initializer or attribute, including subgraphs."""
    graphs = list(graphs_of(model))
    for graph in graphs:
        yield from graph.initializer
    for node in _nodes(model, graphs):
        for item in node.attribute:
            if item.HasField("t"):
                yield item.t
            yield from item.tensors


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs without initializers, which old files list among the inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def drop_weight_inputs(graph: onnx.GraphProto) -> int:
    """Remove the inputs that are also initializers, in place, and return their number; they become plain constants."""
    free, count = inputs_of(graph), len(graph.input)
    if len(free) < count:
        del graph.input[:]
        graph.input.extend(free)
    return count - len(free)


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers and the tensors of Constant nodes by name, without those of subgraphs."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    return found


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, with text as bytes, or `default` if the node lacks it."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def distinct_name(name: str, taken: set[str]) -> str:
    """Return `name`, with a number appended if it is `taken`, and add the result to `taken`."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a unique name, in place, since layers are distinguished by name."""
    taken: set[str] = set()
    for node in model.graph.node:
        node.name = distinct_name(node.name or node.op_type, taken)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove unused initializers, in place."""
    read = {name for inner in graphs_of(graph) for node in inner.node for name in node.input}
    read.update(value.name for value in graph.output)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]
