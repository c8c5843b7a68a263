"""Replace an If whose condition is known by its branch; exporters write an If for each squeeze of an unknown size."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from irepdeploy.onnx_collapse.emit import Names
from irepdeploy.onnx_collapse.graph import Graph
from irepdeploy.onnx_collapse.rewrite import names_of, rewrite
from irepdeploy.onnx_graph.proto import subgraphs_of

__all__ = ["take_known_branches"]


def take_known_branches(graph: Graph) -> int:
    """Replace each If with a known condition by the nodes of its branch in the model, and return their number.

    Unless the number is 0, `graph` is outdated afterwards.
    """
    chosen: dict[int, onnx.GraphProto] = {}
    for place, operator in enumerate(graph.operators):
        condition = graph.constant(operator.input(0)) if operator.kind == "If" else None
        if condition is None or condition.native.size != 1:
            continue
        branch = operator.attributes.get("then_branch" if condition.native.item() else "else_branch")
        if branch is not None and not branch.sparse_initializer and len(branch.output) == len(operator.outputs):
            chosen[place] = branch
    if not chosen:
        return 0
    # Constants that a branch reads become initializers.
    rewrite(graph, [])
    proto = graph.model.graph
    nodes = onnx.GraphProto()
    nodes.node.extend(proto.node)
    del proto.node[:]
    proto.node.extend(node for place, node in enumerate(nodes.node) if place not in chosen)
    names = names_of(graph.model)
    for place in chosen:
        for name in nodes.node[place].output:
            names(name)
    del proto.node[:]
    for place, node in enumerate(nodes.node):
        proto.node.extend(_inlined(node, chosen[place], names) if place in chosen else [node])
    return len(chosen)


def _inlined(node: onnx.NodeProto, branch: onnx.GraphProto, names: Names) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a branch, with its results renamed to those of the If."""
    made = [tensor.name for tensor in branch.initializer] + [name for inner in branch.node for name in inner.output]
    renamed: dict[str, str] = {}
    same: list[tuple[str, str]] = []
    for value, result in zip(branch.output, node.output, strict=True):
        if value.name in made and value.name not in renamed and result:
            renamed[value.name] = result
        elif result:
            same.append((value.name, result))
    for name in filter(None, made):
        if name not in renamed:
            renamed[name] = names(name)
    for tensor in branch.initializer:
        yield onnx.helper.make_node("Constant", [], [renamed[tensor.name]], value=tensor)
    for inner in branch.node:
        inner.name = names(inner.name) if inner.name else ""
        for reader in (inner, *(each for body in subgraphs_of(inner) for each in body.node)):
            reader.input[:] = [renamed.get(name, name) for name in reader.input]
        for body in subgraphs_of(inner):
            for value in body.output:
                value.name = renamed.get(value.name, value.name)
        inner.output[:] = [renamed.get(name, name) for name in inner.output]
        yield inner
    for name, result in same:
        yield onnx.helper.make_node("Identity", [renamed.get(name, name)], [result])
