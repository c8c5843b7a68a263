"""Append one ONNX model to another, whose outputs it takes as inputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import distinct_name, graphs_of, opset_of

__all__ = ["joined_models"]


def joined_models(
    first: onnx.ModelProto, second: onnx.ModelProto, taken: Sequence[str], prefix: str
) -> tuple[onnx.ModelProto, list[onnx.ValueInfoProto]]:
    """Join two models without changing them.

    Tensors of the first model with the name of an output of the second are renamed. Nodes and tensors of the second
    model, except its outputs, get a prefix.

    Args:
        first: Model that provides inputs and metadata.
        second: Model that provides the outputs.
        taken: Outputs of `first` that are the inputs of `second`, in order.
        prefix: Prefix of names from `second`.

    Returns:
        The joined model, and the tensors of `taken` in it.
    """
    produced = {value.name for value in first.graph.output}
    if opset_of(first) != opset_of(second) or not set(taken) <= produced or len(taken) != len(second.graph.input):
        raise ModelError(f"expected {len(second.graph.input)} tensors in one opset, got {', '.join(taken)}")
    found = onnx.ModelProto()
    found.CopyFrom(first)
    graph, appended = found.graph, second.graph
    outputs = {value.name for value in appended.output}
    used = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | outputs
    used |= {name for node in graph.node for name in (node.name, *node.output)}
    heads = {name: distinct_name(f"heads.{name}", used) if name in outputs else name for name in taken}
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [heads.get(name, name) for name in node.input]
            node.output[:] = [heads.get(name, name) for name in node.output]
    for value in graph.value_info:
        value.name = heads.get(value.name, value.name)
    names = {value.name: heads[name] for value, name in zip(appended.input, taken, strict=True)}
    names |= {name: name for name in outputs} | {"": ""}

    def renamed(name: str) -> str:
        if name not in names:
            names[name] = distinct_name(f"{prefix}.{name}", used)
        return names[name]

    for tensor in appended.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = renamed(tensor.name)
    for node in appended.node:
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.input[:] = [renamed(name) for name in node.input]
        copied.output[:] = [renamed(name) for name in node.output]
        copied.name = distinct_name(f"{prefix}.{node.name}", used)
    inside = []
    for name in taken:
        value = onnx.ValueInfoProto()
        value.CopyFrom(next(each for each in graph.output if each.name == name))
        value.name = heads[name]
        inside.append(value)
    # The former outputs are ordinary tensors now.
    del graph.output[:]
    graph.output.extend(appended.output)
    return found, inside
