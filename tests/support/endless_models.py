"""ONNX models that are small files and never end, or take all memory."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.graph_writer import onnx_model

__all__ = ["endless_loop", "huge_constant", "nested_functions"]


def endless_loop(count: int = 1 << 62) -> onnx.ModelProto:
    """Return x plus `count`, one at a time."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["sum", "one"], ["next"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, ()),
            value("go", TensorProto.BOOL, ()),
            value("sum", TensorProto.FLOAT, None),
        ],
        [value("still", TensorProto.BOOL, ()), value("next", TensorProto.FLOAT, None)],
    )
    return onnx_model(
        [helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)],
        {"x": (1, 3, 8, 8)},
        {"y": (1, 3, 8, 8)},
        {"count": np.array(count), "yes": np.array(True), "one": np.ones(1, np.float32)},
    )


def huge_constant(elements: int = 1 << 42) -> onnx.ModelProto:
    """Return the sum of x and of a constant of so many elements, which the file describes by its shape."""
    return onnx_model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        {"x": (1, 3, 8, 8)},
        {"y": (1, 3, 8, 8)},
        {"shape": np.array([elements])},
    )


def nested_functions(depth: int = 30, calls: int = 2, *, closed: bool = False) -> onnx.ModelProto:
    """Return a model whose functions call each other: calls**depth nodes when they are written out.

    If `closed`, the innermost calls the outermost, so that it never ends.
    """
    functions = []
    for level in range(depth):
        inner = f"f{level + 1}" if level + 1 < depth else "f0" if closed else "Relu"
        domain = "own" if level + 1 < depth or closed else ""
        names = ["x", *(f"t{place}" for place in range(calls - 1)), "y"]
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, imports))
    model = onnx_model(
        [helper.make_node("f0", ["x"], ["y"], domain="own")], {"x": (1, 3, 8, 8)}, {"y": (1, 3, 8, 8)}, opset=17
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.extend(functions)
    return model
