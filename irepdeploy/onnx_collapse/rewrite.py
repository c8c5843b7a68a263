"""Rewrite a model: insert replacements, and remove operators and constants that are no longer used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from irepdeploy.onnx_collapse.emit import Emitted, Names
from irepdeploy.onnx_collapse.graph import Graph, Operator
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_graph.proto import graphs_of

__all__ = ["Replacement", "names_of", "rewrite", "rounded"]


@dataclass(frozen=True)
class Replacement:
    """Replacement of some operators.

    Attributes:
        operators: The old operators.
        emitted: The new operators.
        arrays: Constants of the new operators, rounded to the float type of the file.
    """

    operators: tuple[Operator, ...]
    emitted: Emitted
    arrays: Mapping[str, np.ndarray]


def names_of(model: onnx.ModelProto) -> Names:
    """Return a source of new names that do not occur in a model."""
    taken: set[str] = {""}
    for graph in graphs_of(model):
        taken.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
        taken.update(item.values.name for item in graph.sparse_initializer)
        for node in graph.node:
            taken.update((node.name, *node.input, *node.output))
    return Names(taken)


def rounded(arrays: Mapping[str, np.ndarray], kind: np.dtype) -> dict[str, np.ndarray]:
    """Round constants to the float type of the file, or raise Refusal if a number is too large for it."""
    found = {}
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            found[name] = array.astype(kind)
        if not np.isfinite(found[name]).all():
            raise Refusal(f"merged weights are beyond the range of {kind}")
    return found


def rewrite(graph: Graph, replacements: list[Replacement]) -> None:
    """Rewrite the model of a graph in place."""
    proto = graph.model.graph
    gone = {operator.index for item in replacements for operator in item.operators}
    come = {name: nodes for item in replacements for name, nodes in item.emitted.nodes.items()}
    same = {name: source for item in replacements for name, source in item.emitted.same.items()}
    fixed = graph.outputs | {name for operator in graph.operators for name in operator.captured}
    nodes: list[onnx.NodeProto] = []
    for operator in graph.operators:
        if operator.index not in gone:
            nodes.append(operator.node)
            continue
        for name in operator.outputs:
            if name in same and name in fixed:
                nodes.append(onnx.helper.make_node("Identity", [same.pop(name)], [name], name=operator.name))
            nodes.extend(come.get(name, ()))
    for name in same:
        while same[name] in same:
            same[name] = same[same[name]]
    kept = onnx.GraphProto()
    kept.node.extend(nodes)
    for node in kept.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    del proto.node[:]
    proto.node.extend(kept.node)
    arrays = {name: array for item in replacements for name, array in item.arrays.items()}
    arrays.update((name, constant.native) for name, constant in graph.folded.items())
    _replace_initializers(graph, arrays)
    given = {name for node in proto.node for name in node.output}
    for index in reversed(range(len(proto.value_info))):
        if proto.value_info[index].name not in given:
            del proto.value_info[index]


def _replace_initializers(graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    proto = graph.model.graph
    bodies = list(graphs_of(proto))[1:]
    read = {name for body in (proto, *bodies) for node in body.node for name in node.input}
    read |= {value.name for body in (proto, *bodies) for value in body.output}
    dropped = set()
    for index in reversed(range(len(proto.initializer))):
        name = proto.initializer[index].name
        if name not in read and name in graph.initializers:
            dropped.add(name)
            del proto.initializer[index]
    # Before IR version 4, every initializer is also an input.
    listed = graph.model.ir_version < 4
    for index in reversed(range(len(proto.input))):
        if listed and proto.input[index].name in dropped:
            del proto.input[index]
    for name, array in arrays.items():
        if name in read:
            tensor = proto.initializer.add()
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            if listed:
                proto.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
