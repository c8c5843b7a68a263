"""ONNX models that are small files but never terminate or take all memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.graph_writer import onnx_model

__all__ = ["absurd_models", "endless_loop", "huge_constant", "nested_functions"]


def endless_loop(count: int = 1 << 62) -> onnx.ModelProto:
    """Return a model that adds 1 to x `count` times."""
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
    """Return a model that sums x and a constant of this many elements, which the file describes by its shape."""
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
    """Return a model whose functions call each other, with calls**depth nodes when they are inlined.

    If `closed`, the innermost function calls the outermost, so that inlining never ends.
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


def absurd_models(size: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield models in which `size`, negative, 0 or enormous, is a dimension, a constant or an attribute."""
    w = np.ones((3, 3, 3, 3), np.float32)
    one, x = np.ones(1, np.float32), {"x": (1, 3, 8, 8)}
    node: Callable[..., onnx.NodeProto] = helper.make_node

    def model(nodes: list[onnx.NodeProto], shapes: Any = x, **constants: Any) -> onnx.ModelProto:
        return onnx_model(nodes, shapes, {"y": None}, {k: np.asarray(v) for k, v in constants.items()}, opset=18)

    def added(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
        ends = [
            node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["f"], ["r"], keepdims=0),
            node("Add", ["x", "r"], ["y"]),
        ]
        return model([*nodes, *ends], **constants)

    relu = [node("Relu", ["x"], ["y"])]
    for place, name in enumerate(("batch", "channels", "height")):
        shape = [1, 3, 8, 8]
        shape[place] = size
        yield f"{name} {size}", model(relu, {"x": shape})
        yield f"{name} {size} of a Conv", model([node("Conv", ["x", "w"], ["y"])], {"x": shape}, w=w)
    for attribute, times in (("pads", 4), ("strides", 2), ("dilations", 2), ("kernel_shape", 2)):
        yield f"Conv {attribute} {size}", model([node("Conv", ["x", "w"], ["y"], **{attribute: [size] * times})], w=w)
        if attribute != "dilations":
            given = {"kernel_shape": [3, 3], attribute: [size] * times}
            yield f"AveragePool {attribute} {size}", model([node("AveragePool", ["x"], ["y"], **given)])
    yield f"Conv group {size}", model([node("Conv", ["x", "w"], ["y"], group=size)], w=w)
    for kind, attribute in (
        ("Flatten", "axis"), ("Softmax", "axis"), ("DepthToSpace", "blocksize"), ("SpaceToDepth", "blocksize"),
        ("LRN", "size"),
    ):  # fmt: skip
        yield f"{kind} {attribute} {size}", model([node(kind, ["x"], ["y"], **{attribute: size})])
    yield f"Split num_outputs {size}", model([node("Split", ["x"], ["y"], num_outputs=size)])
    yield f"Concat axis {size}", model([node("Concat", ["x", "x"], ["y"], axis=size)])
    yield f"Transpose {size}", model([node("Transpose", ["x"], ["y"], perm=[size, 0, 1, 2])])
    transposed = {"strides": [2, 2], "output_shape": [size, size]}
    yield f"ConvTranspose output {size}", model([node("ConvTranspose", ["x", "w"], ["y"], **transposed)], w=w)
    for kind, second in (
        ("Reshape", [size, 1]), ("Expand", [size, 3, 8, 8]), ("Pad", [0, 0, 0, size, 0, 0, 0, size]),
        ("Gather", [size]), ("TopK", [size]), ("Tile", [size, 1, 1, 1]),
    ):  # fmt: skip
        outputs = ["y", "i"] if kind == "TopK" else ["y"]
        yield f"{kind} {size}", model([node(kind, ["x", "s"], outputs)], s=second)
    yield f"Resize {size}", model([node("Resize", ["x", "", "", "s"], ["y"])], s=[1, 3, size, size])
    yield f"Slice {size}", model([node("Slice", ["x", "s", "s"], ["y"])], s=[size])
    # These are folded, since they only read constants.
    yield f"constant Expand {size}", added(node("Expand", ["o", "s"], ["e"]), o=one, s=[size])
    yield f"constant Tile {size}", added(node("Tile", ["o", "s"], ["e"]), o=one, s=[size])
    yield f"constant Pad {size}", added(node("Pad", ["o", "s"], ["e"]), o=one, s=[0, size])
    yield f"ConstantOfShape {size}", added(node("ConstantOfShape", ["s"], ["e"]), s=[size])
    yield f"Range {size}", added(node("Range", ["a", "s", "b"], ["e"]), a=0, s=size, b=1)
    yield f"OneHot {size}", added(node("OneHot", ["i", "s", "v"], ["e"]), i=[1, 2], s=size, v=[0.0, 1.0])
    outer = [node("Mul", ["a", "b"], ["p"]), node("Mul", ["p", "c"], ["q"]), node("Mul", ["q", "d"], ["e"])]
    spread = {name: np.ones([400 if axis == place else 1 for axis in range(4)]) for place, name in enumerate("abcd")}
    yield "products of constants", added(*outer, **spread)
    for content in (b"", bytes(w.nbytes)):
        claimed = model([node("Conv", ["x", "w"], ["y"])])
        claimed.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[size, 3, 3, 3], raw_data=content)
        yield f"{len(content)} bytes for a constant of {size}", claimed
