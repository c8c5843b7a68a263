"""Check that an ONNX model is valid enough for shape inference and rewriting."""

from __future__ import annotations

from collections import Counter

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import captured_by, graphs_of, opset_of, subgraphs_of

__all__ = ["check_attributes", "check_graph", "check_model"]

# Since this opset, Add and Mul broadcast, and BatchNormalization has no mode attribute.
_OLDEST = 7
_POSITIVE = {"dilations", "group", "kernel_shape", "num_outputs", "strides"}
_SIZES = {*_POSITIVE, "axis", "axes", "pads", "perm", "split"}
_LARGEST = 1 << 20


def check_model(model: onnx.ModelProto, label: str | None = None) -> None:
    """Raise ModelError for a model that is older than opset 7."""
    opset = opset_of(model)
    if 0 < opset < _OLDEST:
        hint = "convert it: onnx.version_converter.convert_version(model, 13)"
        raise ModelError(f"opset {opset} is older than {_OLDEST}", where=label, hint=hint)


def check_graph(model: onnx.ModelProto, label: str | None = None) -> None:
    """Raise ModelError for a graph in which a tensor has no origin, or several.

    The nodes must already be sorted, if that is possible.
    """
    graph = model.graph
    stored = [tensor.name for tensor in graph.initializer] + [item.values.name for item in graph.sparse_initializer]
    for what, names in (("input", [value.name for value in graph.input]), ("initializer", stored)):
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ModelError(f"damaged: the {what} {twice!r} is listed twice", where=label)
    known = {value.name for value in graph.input}.union(stored, [""])
    computed = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in (*node.input, *captured_by(node)):
            if name in known:
                continue
            text = f"{node.name or next(iter(node.output), node.op_type)!r} reads {name!r}, which "
            cycle = name in computed
            text = f"its nodes form a cycle: {text}only a later one computes" if cycle else f"{text}no node computes"
            raise ModelError(f"damaged: {text}", where=label)
        for name in filter(None, node.output):
            if name in known:
                raise ModelError(f"damaged: {name!r} is computed twice", where=label)
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"damaged: no node computes the output {value.name!r}", where=label)


def check_attributes(model: onnx.ModelProto, label: str | None = None) -> None:
    """Raise ModelError for attributes by which shape inference would divide, or that request millions of outputs."""
    inner = (graph for function in model.functions for node in function.node for graph in subgraphs_of(node))
    bodies = (*graphs_of(model), *model.functions, *inner)
    for node in (node for body in bodies for node in body.node):
        for item in node.attribute:
            if item.name not in _SIZES or item.ref_attr_name:
                continue
            values = item.ints or [item.i]
            least = 1 if item.name in _POSITIVE else -_LARGEST
            if not least <= min(values) <= max(values) <= _LARGEST:
                name = node.name or node.op_type
                raise ModelError(f"damaged: {item.name} of {name!r} is {list(values)}", where=label)
