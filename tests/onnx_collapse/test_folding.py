"""Constant folding agrees with ONNX Runtime, and values determined by sizes are known before the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_collapse.folding import fold
from irepdeploy.onnx_collapse.graph import Graph
from irepdeploy.onnx_graph.shapes import infer_shapes

RNG = np.random.default_rng(4)
A = RNG.standard_normal((2, 3, 4)).astype(np.float32)
INDEX = np.asarray([[0, 2], [-1, 1]])
N = np.asarray([-7, 5, 3, -2])
D = np.asarray([2, -2, 3, 3])


def ints(*values: int) -> Any:
    return np.asarray(values, np.int64)


# Operator, inputs, attributes, opset.
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Abs", [A], {}, 13), ("Add", [A, A], {}, 13), ("Sub", [A, A[:1]], {}, 13), ("Mul", [A, A[..., :1]], {}, 13),
    ("Div", [A, A + 10], {}, 13), ("Div", [N, D], {}, 13), ("Neg", [N], {}, 13), ("Sqrt", [np.abs(A)], {}, 13),
    ("Exp", [A], {}, 13), ("Reciprocal", [A], {}, 13), ("Relu", [A], {}, 13), ("Tanh", [A], {}, 13),
    ("Sigmoid", [A], {}, 13), ("Softmax", [A], {"axis": 1}, 13), ("Softmax", [A], {"axis": 1}, 11),
    ("Sum", [A, A, A], {}, 13), ("Max", [A, A * 2, -A], {}, 13), ("Min", [A, A * 2], {}, 13),
    ("Ceil", [A], {}, 13), ("Floor", [A], {}, 13), ("Identity", [A], {}, 13),
    ("Equal", [N, D], {}, 13), ("Less", [N, D], {}, 13), ("Greater", [N, D], {}, 13),
    ("And", [N > 0, D > 0], {}, 13), ("Or", [N > 0, D > 0], {}, 13), ("Not", [N > 0], {}, 13),
    ("Where", [N > 0, N, D], {}, 13), ("Range", [np.int64(3), np.int64(-8), np.int64(-3)], {}, 13),
    ("Range", [np.float32(0), np.float32(1), np.float32(0.3)], {}, 13),
    ("Transpose", [A], {"perm": [2, 0, 1]}, 13), ("Transpose", [A], {}, 13),
    ("Reshape", [A, ints(0, -1, 2)], {}, 13), ("Reshape", [A, ints(4, 6)], {}, 13),
    ("Reshape", [A[:0], ints(0, 4, 3)], {"allowzero": 1}, 14),
    ("Squeeze", [A[:1], ints(0)], {}, 13), ("Squeeze", [A[:1]], {"axes": [0]}, 11), ("Squeeze", [A[:1]], {}, 13),
    ("Unsqueeze", [A, ints(0, -1)], {}, 13), ("Unsqueeze", [A], {"axes": [1]}, 11),
    ("Slice", [A], {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}, 9),
    ("Slice", [A], {"starts": [1], "ends": [2]}, 9),
    ("Slice", [A, ints(-1), ints(-9), ints(2), ints(-2)], {}, 13),
    ("Slice", [A, ints(2), ints(0), ints(2), ints(-1)], {}, 13),
    ("Slice", [A, ints(9), ints(-99), ints(1), ints(-1)], {}, 13), ("Slice", [A, ints(0, 1), ints(1, 2**40)], {}, 13),
    ("Slice", [A, ints(-8), ints(-9), ints(1), ints(-1)], {}, 13),
    ("Slice", [A, ints(-99), ints(99), ints(-1), ints(2)], {}, 13), ("Slice", [A, ints(5), ints(9), ints(1)], {}, 13),
    ("Gather", [A, INDEX], {"axis": 1}, 13), ("Gather", [A, np.int64(1)], {}, 13), ("Concat", [A, A], {"axis": -1}, 13),
    ("Expand", [A[:1], ints(2, 1, 1)], {}, 13), ("Expand", [A[:, :1], ints(5, 1, 3, 4)], {}, 13),
    ("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}, 13),
    ("ConstantOfShape", [ints(2)], {}, 13), ("Cast", [A * 3], {"to": TensorProto.INT64}, 13),
    ("Cast", [N], {"to": TensorProto.FLOAT}, 13), ("Cast", [N], {"to": TensorProto.BOOL}, 13),
    ("ScatterND", [A, ints(0, 1, 1, 2).reshape(2, 2), A[0, :2] + 9], {}, 13),
    ("ReduceSum", [A, ints(1)], {"keepdims": 0}, 13), ("ReduceSum", [A], {"noop_with_empty_axes": 1}, 13),
    ("ReduceMean", [A], {"axes": [0, -1]}, 13), ("ReduceMean", [A], {"keepdims": 0}, 13),
    ("ReduceL2", [A], {"axes": [1]}, 13), ("ReduceL1", [A], {"axes": [1]}, 13), ("ReduceMax", [A], {"axes": [2]}, 13),
    *((f"Reduce{kind}", [A], {"noop_with_empty_axes": 1}, 18) for kind in ("L1", "L2", "SumSquare", "Max")),
    *((f"Reduce{kind}", [N.astype(np.int32)], {}, 13) for kind in ("Mean", "Sum", "L2", "Prod")),
    ("ReduceSumSquare", [A], {"axes": [1]}, 13), ("ReduceProd", [N], {"axes": [0]}, 13),
    ("MatMul", [A, A[0].T], {}, 13), ("BatchNormalization", [A, *np.abs(A[0].T)], {"epsilon": 1e-3}, 13),
    ("Conv", [A[None], A[:, :1, None, :2], A[0, 0, :2]], {"pads": [0, 1, 0, 0], "strides": [1, 2], "group": 2}, 13),
    # By onnx's reference implementation:
    ("Einsum", [A, A], {"equation": "abc,dbc->ad"}, 13),
    ("Tile", [A, ints(1, 2, 1)], {}, 13),
    ("Clip", [A, np.float32(-1), np.float32(0.5)], {}, 13), ("CumSum", [A, np.int64(-1)], {"exclusive": 1}, 14),
    ("ArgMax", [A // 1], {"axis": 1, "select_last_index": 1}, 13), ("Trilu", [A, np.int64(-1)], {"upper": 0}, 14),
    ("GatherND", [A, INDEX % 2], {}, 13), ("DepthToSpace", [A.reshape(1, 12, 1, 2)], {"blocksize": 2}, 13),
    ("Gemm", [A[0], A[1], A[0, :, :1]], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 13), ("NonZero", [N // 3], {}, 13),
    ("LayerNormalization", [A, A[0, 0]], {}, 17), ("PRelu", [A, A[0, :, :1]], {}, 13),
    ("EyeLike", [A[0]], {"k": 1}, 13),
    *((kind, [A], {}, 20) for kind in ("Elu", "Selu", "Gelu", "Mish", "HardSwish", "Softplus", "Round", "Sign", "Erf")),
    ("Mod", [N, D], {}, 13), ("Pow", [np.abs(A), np.float32(1.5)], {}, 13), ("Flatten", [A], {"axis": 2}, 13),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "opset"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_as_onnx_runtime(kind: str, inputs: list[Any], attributes: dict[str, Any], opset: int) -> None:
    arrays = [np.asarray(item) for item in inputs]
    names = [f"in{place}" for place in range(len(arrays))]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
    nodes = [helper.make_node(kind, names, ["y"], **attributes), helper.make_node("Shape", ["y"], ["n"])]
    nodes.append(helper.make_node("Identity", ["y"], ["out"]))
    made = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in ("out", "n")]
    graph = helper.make_graph(nodes, "one", [], made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    folded = Graph.of(model)
    folded.operators = folded.operators[:1]
    _fold_alone(folded)
    if (kind, opset) == ("Softmax", 11):  # it was over all axes from its own on
        assert not folded.folded
        return
    found = folded.folded["y"].native

    for name, value in zip(("out", "n"), model.graph.output, strict=True):
        value.name = name
        value.type.tensor_type.elem_type = (
            helper.np_dtype_to_tensor_dtype(found.dtype) if name == "out" else TensorProto.INT64
        )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, _ = session.run(None, {})
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("LRN", [A[..., None]], {"size": 3}),
        ("LogSoftmax", [A * 99], {}),
        ("LpNormalization", [A], {"p": 1}),
        ("MaxPool", [A], {"kernel_shape": [2], "auto_pad": "SAME_LOWER"}),
        ("Resize", [A, None, np.asarray([1, 1, 1.4])], {"coordinate_transformation_mode": "align_corners"}),
    ],
)
def test_operators_that_onnx_evaluates_otherwise_are_left(
    collapsed: Any, kind: str, inputs: Any, attributes: Any
) -> None:
    """onnx's reference implementation gives other numbers for these than ONNX Runtime."""
    names = ["" if item is None else f"in{place}" for place, item in enumerate(inputs)]
    constants = {name: item for name, item in zip(names, inputs, strict=True) if name}
    nodes = [(kind, names, ["c"], attributes), ("Mul", ["c", "x"], ["y"]), ("Mul", ["y", "two"], ["z"])]
    found = collapsed(nodes, {**constants, "two": np.asarray(2.0)}, {"x": (1,)}, ["z"], tolerance=1e-6)
    assert found.operators_after[kind] == 1


def _fold_alone(graph: Graph) -> None:
    from irepdeploy.onnx_collapse.folding import _evaluate

    (operator,) = graph.operators
    graph.shapes = infer_shapes(graph.model, {}, set())
    graph.folded.update(_evaluate(graph, operator) or {})


def test_floats_are_kept_wide(model_of: Any) -> None:
    """1 / (1 + exp(-a)) * w in float64, of the file's float32 numbers."""
    nodes = [("Sigmoid", ["a"], ["s"]), ("Mul", ["s", "w"], ["v"]), ("Conv", ["x", "v"], ["y"])]
    model = model_of(nodes, {"a": np.asarray(0.3), "w": RNG.standard_normal((1, 1, 1, 1))}, {"x": (1, 1, 2, 2)})
    graph = Graph.of(model)
    fold(graph)
    constant = graph.constant("v")
    assert constant is not None and constant.native.dtype == np.float32 and constant.wide.dtype == np.float64
    a, w = (onnx.numpy_helper.to_array(item).astype(np.float64) for item in model.graph.initializer)
    assert constant.wide.reshape(()) == 1 / (1 + np.exp(-a)) * w.reshape(())


def test_a_size_that_floats_decide_is_the_models_own(model_of: Any) -> None:
    """floor(3 * float32(1/3) * 3) depends on rounding: integers follow float32."""
    third = np.float32(1) / np.float32(3)
    nodes = [
        ("Mul", ["three", "third"], ["m"]),
        ("Cast", ["m"], ["n"], {"to": TensorProto.INT64}),
        ("Expand", ["x", "n"], ["y"]),
    ]
    model = model_of(nodes, {"three": np.asarray([3.0]), "third": np.asarray([float(third)])}, {"x": (1, 1, 1, 1)})
    graph = Graph.of(model)
    fold(graph)
    constant = graph.constant("n")
    assert (
        constant is not None
        and constant.native.tolist() == (np.float32(3) * third).astype(np.int64).reshape(1).tolist()
    )


def test_sizes_of_a_tensor_with_a_free_batch(collapsed: Any) -> None:
    """A cut at Shape(x)[2] - 0, as the old exporter writes ``x[:, :, : x.shape[2] - n]``."""
    nodes = [
        ("Shape", ["x"], ["s"]),
        ("Gather", ["s", "two"], ["h"]),
        ("Sub", ["h", "none"], ["e"]),
        ("Unsqueeze", ["e", "zero"], ["end"]),
        ("Conv", ["x", "w"], ["c"]),
        ("Slice", ["c", "zero", "end", "axis"], ["d"]),
        ("Mul", ["d", "f"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {
        "two": np.int64(2), "none": np.int64(0), "zero": ints(0), "axis": ints(2), "f": np.asarray(2.0),
        "w": RNG.standard_normal((2, 2, 1, 1)),
    }  # fmt: skip
    found = collapsed(nodes, constants, {"x": ("N", 2, 5, 6)}, ["z"], tolerance=1e-6, sizes=[{"x": (3, 2, 5, 6)}])
    assert found.operators_after["Shape"] == 0 and found.operators_after["Conv"] == 1


def test_folded_numbers_that_others_read_stay(collapsed: Any) -> None:
    """A reshape at the end reads what was computed from the size of a tensor that is gone."""
    nodes = [
        ("Conv", ["x", "w"], ["a"]),
        ("Mul", ["a", "f"], ["b"]),
        ("Shape", ["a"], ["s"]),
        ("Gather", ["s", "first"], ["n"]),
        ("Concat", ["n", "rest"], ["shape"], {"axis": 0}),
        ("Relu", ["b"], ["r"]),
        ("Reshape", ["r", "shape"], ["z"]),
    ]
    constants = {"w": RNG.standard_normal((4, 2, 1, 1)), "f": np.asarray(2.0), "first": ints(0), "rest": ints(-1, 2, 2)}
    found = collapsed(nodes, constants, {"x": (3, 2, 5, 6)}, ["z"], tolerance=1e-6)
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu", "Reshape"]


@pytest.mark.parametrize("kind", ["RandomNormalLike", "Bernoulli"])
def test_random_operators_are_not_constants(kind: str, model_of: Any) -> None:
    nodes = [(kind, ["w"], ["v"]), ("Conv", ["x", "v"], ["a"]), ("Mul", ["a", "f"], ["y"])]
    model = model_of(nodes, {"w": np.full((1, 1, 1, 1), 0.5), "f": np.asarray(2.0)}, {"x": (1, 1, 2, 2)})
    assert not collapse(model).changed


def test_a_large_constant_is_not_written_out(model_of: Any) -> None:
    """64 MB of zeros described by 32 bytes stay an operator."""
    nodes = [("ConstantOfShape", ["n"], ["o"]), ("Add", ["x", "o"], ["y"])]
    model = model_of(nodes, {"n": ints(1, 4, 2048, 2048)}, {"x": (1, 4, 2048, 2048)})
    found = collapse(model)
    assert not found.changed
