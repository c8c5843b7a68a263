"""Each operator that is read back from ONNX, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse.read_back.torch_from_onnx import torch_from_onnx
from irepdeploy.onnx_collapse.read_back.torch_operators import OPERATORS

Constants = Sequence[Any]
_RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return _RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


TYPES = {
    **{(kind, 0): TensorProto.BOOL for kind in ("Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual")},
    **{(kind, 0): TensorProto.INT64 for kind in ("ArgMax", "ArgMin", "Cast")},
    ("TopK", 1): TensorProto.INT64,
}


def model_of(kind: str, constants: Constants = (), outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    """One node that reads ``x`` (N, 4, 7, 6) and constants; None is an input that is left out."""
    names = [f"c{place}" if value is not None else "" for place, value in enumerate(constants)]
    weights = [
        numpy_helper.from_array(value, name) for value, name in zip(constants, names, strict=True) if value is not None
    ]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(kind, ["x", *names], results, "layer.one", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 7, 6])
    made = [helper.make_tensor_value_info(name, TYPES.get((kind, place), TensorProto.FLOAT), None)
            for place, name in enumerate(results)]  # fmt: skip
    graph = helper.make_graph([node], "g", [x], made, weights)
    opset = {"Gelu": 20, "Mish": 18}.get(kind, 17)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


LOW, HIGH = np.array(-0.5, np.float32), np.array(0.4, np.float32)
ONE = np.array(1.5, np.float32)
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
UP = {"mode": "nearest", "nearest_mode": "floor", **ASYMMETRIC}
CASES: list[tuple[str, Constants, dict[str, Any]]] = [
    ("Add", [numbers(1, 4, 1, 1)], {}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "count_include_pad": 1}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [], {"kernel_shape": [2, 4], "strides": [2, 3], "ceil_mode": 1}),
    ("BatchNormalization", [numbers(4) for _ in range(4)], {"epsilon": 1e-2}),
    ("Clip", [LOW, HIGH], {}),
    ("Clip", [None, HIGH], {}),
    ("Concat", [numbers(1, 3, 7, 6)], {"axis": 1}),
    ("Conv", [numbers(6, 2, 3, 2), numbers(6)], {"group": 2, "strides": [2, 1], "dilations": [2, 1]}),
    ("Conv", [numbers(6, 4, 3, 3)], {"pads": [0, 1, 2, 3]}),
    ("Conv", [numbers(6, 4, 3, 3)], {"pads": [1, 2, 1, 2]}),
    ("Div", [numbers(1, 4, 1, 1)], {}),
    ("Dropout", [], {}),
    ("Elu", [], {"alpha": 0.7}),
    ("Erf", [], {}),
    ("Exp", [], {}),
    ("Flatten", [], {}),
    ("Flatten", [], {"axis": 2}),
    ("Flatten", [], {"axis": -1}),
    ("Gelu", [], {}),
    ("Gelu", [], {"approximate": "tanh"}),
    ("GlobalAveragePool", [], {}),
    ("GlobalMaxPool", [], {}),
    ("HardSigmoid", [], {}),
    ("HardSigmoid", [], {"alpha": 1 / 6}),
    ("HardSwish", [], {}),
    ("Identity", [], {}),
    ("LeakyRelu", [], {"alpha": 0.2}),
    ("LeakyRelu", [], {}),
    ("MatMul", [numbers(6, 3)], {}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("Mul", [numbers(4, 1, 1)], {}),
    ("Neg", [], {}),
    ("Pad", [whole(0, 0, 1, 2, 0, 0, 0, 3), ONE], {}),
    ("Pad", [whole(0, 0, -1, 2, 0, 0, 1, -2)], {}),
    ("Pad", [whole(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
    ("Pad", [whole(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}),
    ("Pow", [np.array(2.0, np.float32)], {}),
    ("ReduceMean", [], {"axes": [2, 3]}),
    ("ReduceMean", [], {"axes": [2], "keepdims": 0}),
    ("Relu", [], {}),
    ("Reshape", [whole(1, -1)], {}),
    ("Reshape", [whole(1, 2, 14, 6)], {}),
    ("Reshape", [whole(-1, 2, 84)], {}),
    ("Sigmoid", [], {}),
    ("Slice", [whole(1, 0), whole(3, 2**40), whole(1, 3), whole(1, 2)], {}),
    ("Slice", [whole(0, 1), whole(1, 4)], {}),
    ("Softmax", [], {"axis": 1}),
    ("Softplus", [], {}),
    ("Split", [whole(1, 3)], {"axis": 1, "outputs": 2}),
    ("Sqrt", [], {}),
    ("Sub", [numbers(1, 4, 1, 1)], {}),
    ("Sum", [numbers(1, 4, 7, 6), numbers(1, 4, 1, 1)], {}),
    ("Tanh", [], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Abs", [], {}),
    ("ArgMax", [], {"axis": 1}),
    ("ArgMin", [], {"axis": -1, "keepdims": 0}),
    ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [0, 1, 0, 1]}),
    *((kind, [], {}) for kind in ("Asinh", "Atan", "Ceil", "Cos", "Cosh", "Floor", "IsNaN", "Round", "Sign", "Sin")),
    *((kind, [], {}) for kind in ("Reciprocal", "Selu", "Sinh", "Softsign", "Tan", "ThresholdedRelu")),
    ("Cast", [], {"to": TensorProto.INT64}),
    ("Celu", [], {"alpha": 0.7}),
    ("Clip", [LOW, None], {}),
    ("Concat", [numbers(1, 2, 7, 6)], {"axis": -3}),
    ("ConvTranspose", [numbers(4, 3, 3, 2), numbers(6)], {"group": 2, "strides": [2, 1], "output_padding": [1, 0]}),
    ("ConvTranspose", [numbers(4, 3, 3, 3)], {"pads": [1, 0, 1, 0], "dilations": [2, 1]}),
    ("ConvTranspose", [numbers(4, 3, 3, 3)], {"pads": [1, 0, 0, 2], "strides": [2, 2]}),
    ("CumSum", [np.array(2)], {}),
    ("DepthToSpace", [], {"blocksize": 2}),
    ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ("Einsum", [numbers(6, 5)], {"equation": "nchw,wk->nckh"}),
    *((kind, [numbers(4, 1, 1)], {}) for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    ("Expand", [whole(1, 4, 7, 6)], {}),
    ("Expand", [whole(2, 1, 1, 1, 1)], {}),
    ("Gather", [whole(2, -1, 0)], {"axis": 1}),
    ("Gather", [whole(3, 1, 0, -2).reshape(2, 2)], {"axis": 2}),
    ("Gather", [np.array(-1)], {"axis": 3}),
    ("GatherElements", [whole(0, 5, -1, 2).reshape(1, 2, 1, 2)], {"axis": 3}),
    ("GridSample", [numbers(1, 3, 5, 2)], {"align_corners": 1}),
    ("GridSample", [numbers(1, 3, 5, 2)], {"mode": "nearest", "padding_mode": "border"}),
    ("InstanceNormalization", [numbers(4), numbers(4)], {"epsilon": 1e-3}),
    ("LayerNormalization", [numbers(6), numbers(6)], {}),
    ("LayerNormalization", [numbers(7, 6)], {"axis": -2, "epsilon": 1e-3}),
    ("LogSoftmax", [], {"axis": 1}),
    ("LpNormalization", [], {"axis": 1}),
    ("Max", [numbers(1, 4, 1, 1), ONE], {}),
    ("Mean", [numbers(1, 4, 1, 1)], {}),
    ("Min", [numbers(1, 4, 1, 1)], {}),
    ("Mish", [], {}),
    ("Mod", [ONE], {"fmod": 1}),
    ("PRelu", [numbers(4, 1, 1)], {}),
    ("PRelu", [numbers(1)], {}),
    ("PRelu", [numbers(4, 1, 6)], {}),
    ("Pad", [whole(0, 1, 0, 0, 0, 2, 0, 1), ONE], {}),
    ("Pad", [whole(0, 0, 0, 0, 0, 0, 0, 0)], {}),
    *((f"Reduce{kind}", [], {"axes": [1, 3]}) for kind in ("L1", "L2", "LogSumExp", "Max", "Min", "Prod", "SumSquare")),
    ("ReduceSum", [whole(-1)], {"keepdims": 0}),
    ("Reshape", [whole(0, -1)], {}),
    ("Reshape", [whole(0, 0, -1)], {}),
    ("Reshape", [whole(1, -1, 6)], {}),
    ("Reshape", [whole(1, 2, 2, -1)], {}),
    ("Resize", [None, np.array([1, 1, 2, 3], np.float32)], UP),
    ("Resize", [None, np.array([1, 1, 1.5, 0.7], np.float32)], UP),
    ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {}),
    ("Resize", [None, None, whole(1, 4, 10, 9)], {"mode": "linear"}),
    ("Resize", [None, None, whole(1, 4, 10, 9)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [None, None, whole(1, 4, 10, 9)], {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}),
    ("Log", [], {}),
    ("Slice", [whole(-1), whole(-(2**62)), whole(2), whole(-1)], {}),
    ("Slice", [whole(1), whole(-1), whole(-2)], {}),
    ("SpaceToDepth", [], {"blocksize": 1}),
    ("Split", [], {"axis": 1, "outputs": 2}),
    ("Split", [whole(4)], {"axis": 1}),
    ("Tile", [whole(1, 2, 1, 3)], {}),
    ("TopK", [whole(3)], {"axis": 2, "outputs": 2}),
    ("TopK", [whole(2)], {"axis": -1, "largest": 0, "outputs": 2}),
    ("Trilu", [np.array(1)], {}),
    ("Trilu", [], {"upper": 0}),
    ("Unsqueeze", [whole(-1, 1)], {}),
]


def check(model: onnx.ModelProto, image: np.ndarray, again: np.ndarray | None = None) -> None:
    """The same numbers as ONNX Runtime's; with `again` both run, one by one there, on more than the file's batch."""
    network = torch_from_onnx(model)
    with OrtRunner(model.SerializeToString()) as runner:
        name = runner.inputs[0].name
        expected = list(runner.infer({name: image}).values())
        if again is not None:
            parts = [runner.infer({name: again[i : i + 1]}) for i in range(len(again))]
            expected = [np.concatenate([part[key] for part in parts]) for key in runner.outputs]
            image = again
    with torch.no_grad():
        found: Any = network(torch.from_numpy(image))
    for a, b in zip(expected, found if isinstance(found, tuple) else (found,), strict=True):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(b.numpy(), a, rtol=1e-5, atol=1e-5)
    assert not network.training


@pytest.mark.parametrize(("kind", "constants", "attributes"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)])
def test_one_operator(kind: str, constants: Constants, attributes: dict[str, Any]) -> None:
    image = np.random.default_rng(1).standard_normal((1, 4, 7, 6), dtype=np.float32)
    more = np.random.default_rng(2).standard_normal((3, 4, 7, 6), dtype=np.float32)
    if kind in ("Log", "Sqrt"):
        image, more = abs(image), abs(more)
    alone = kind == "Sum" or (kind == "Slice" and len(constants) == 2) or (kind == "Expand" and len(constants[0]) > 4)
    check(model_of(kind, constants, **attributes), image, None if alone else more)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int) -> None:
    weight = numbers(5, 4) if transposed else numbers(4, 5)
    for bias in ([numbers(5)], [numbers(1)], []):
        weights = [
            numpy_helper.from_array(value, name) for value, name in zip([weight, *bias], ["w", "b"], strict=False)
        ]
        names = [tensor.name for tensor in weights]
        node = helper.make_node("Gemm", ["x", *names], ["y"], "fc", transB=transposed, alpha=0.5, beta=2.0)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])
        model = helper.make_model(
            helper.make_graph([node], "g", [x], [y], weights),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        check(model, numbers(3, 4))
        assert isinstance(torch_from_onnx(model).fc, torch.nn.Linear)


ONE_TO_ONE = ["Acos", "Acosh", "Asin", "Atanh"]
LOGIC = ["And", "Or", "Xor", "Not", "Where", "Squeeze", "ScatterElements", "IsInf"]


@pytest.mark.parametrize("kind", ONE_TO_ONE)
def test_functions_of_a_range(kind: str) -> None:
    image = np.random.default_rng(1).uniform(
        1.01 if kind == "Acosh" else -0.9, 1.5 if kind == "Acosh" else 0.9, (2, 4, 7, 6)
    )
    check(model_of(kind), image.astype(np.float32))


def graph_of(nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    """Nodes from ``x`` (1, 4, 7, 6) to ``y``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 7, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_logic_and_dimensions_of_size_one() -> None:
    node = helper.make_node
    nodes = [
        node("Greater", ["x", "zero"], ["a"]), node("Less", ["x", "one"], ["b"]), node("And", ["a", "b"], ["c"]),
        node("Not", ["c"], ["d"]), node("Or", ["d", "a"], ["e"]), node("Xor", ["e", "b"], ["f"]),
        node("Where", ["f", "x", "zero"], ["g"]), node("ReduceMean", ["g"], ["h"], axes=[3]),
        node("Squeeze", ["h", "last"], ["y"]),
    ]  # fmt: skip
    weights = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32), "last": whole(-1)}
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((count, 4, 7, 6), dtype=np.float32) for count in (1, 3)]
    check(graph_of(nodes, weights), *images)


def test_infinities() -> None:
    node = helper.make_node
    nodes = [node("Div", ["x", "zero"], ["a"]), node("IsInf", ["a"], ["b"]), node("Where", ["b", "x", "two"], ["y"])]
    weights = {"zero": np.arange(6, dtype=np.float32), "two": np.array(2, np.float32)}
    check(graph_of(nodes, weights), np.random.default_rng(1).standard_normal((1, 4, 7, 6), dtype=np.float32))


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset: int) -> None:
    # Per group, then per channel.
    weights = {"scale": numbers(2 if opset < 21 else 4), "bias": numbers(2 if opset < 21 else 4)}
    nodes = [helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2)]
    check(graph_of(nodes, weights, opset), np.random.default_rng(1).standard_normal((1, 4, 7, 6), dtype=np.float32))


@pytest.mark.parametrize("computed", [False, True])
def test_constants_of_one_sample_get_the_batch(computed: bool) -> None:
    """A class token that the exporter expanded to a batch of 1, and a matrix product of two computed tensors."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "shape"], ["rows"]), node("Concat", ["token", "rows"], ["all"], axis=1),
        node("Transpose", ["all"], ["turned"], perm=[0, 2, 1]), node("MatMul", ["all", "turned"], ["y"]),
    ]  # fmt: skip
    weights = {"shape": whole(1, 4, -1), "token": numbers(1, 1, 42)}
    if computed:
        nodes += [node("Conv", ["y", "kernel"], ["z"], "down", kernel_shape=[3], strides=[2], pads=[1, 1])]
        nodes[3].output[0], nodes[4].input[0], nodes[4].output[0] = "z", "z", "y"
        weights["kernel"] = numbers(2, 5, 3)
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((count, 4, 7, 6), dtype=np.float32) for count in (1, 3)]
    check(graph_of(nodes, weights), *images)


def test_every_operator_is_tested() -> None:
    assert {kind for kind, _, _ in CASES} | {"Gemm", "GroupNormalization", *ONE_TO_ONE, *LOGIC} == set(OPERATORS)


def test_a_function_named_like_a_folder() -> None:
    """A functional layer has the name of the calling module, followed by its children."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "/1/Conv"),
        helper.make_node("Conv", ["a", "w"], ["b"], "/1/down/Conv"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "/1/down/GlobalAveragePool"),
        helper.make_node("Conv", ["c", "w"], ["d"], "/1/down/in/Conv"),
        helper.make_node("Conv", ["d", "w"], ["y"], "/1"),
    ]
    network = torch_from_onnx(graph_of(nodes, {"w": numbers(4, 4, 1, 1)}))
    convs = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert sorted(convs) == ["1", "1_1.down", "1_1.down_1.in_1", "1_2"]
    check(graph_of(nodes, {"w": numbers(4, 4, 1, 1)}), numbers(1, 4, 7, 6))


def test_names_are_those_of_the_nodes() -> None:
    model = model_of("Conv", [numbers(4, 4, 1, 1)])
    for place, name in enumerate(("/stem/stem.0/Conv", "stem.0", "/stem/Conv", "")):
        node = helper.make_node("Conv", [f"y{place}", "c0"], [f"y{place + 1}"], name)
        model.graph.node.append(node)
    model.graph.output[0].name = "y4"
    network = torch_from_onnx(model)
    convs = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert sorted(convs) == ["conv", "layer.one", "stem.0", "stem.0_1", "stem_1"]
    check(model, numbers(1, 4, 7, 6))


@pytest.mark.parametrize(
    ("kind", "constants", "attributes", "text"),
    [
        ("Conv", [numbers(4, 4, 3, 3)], {"auto_pad": "SAME_UPPER"}, "auto_pad"),
        ("Flatten", [], {"axis": 0}, "Flatten"),
        ("CumSum", [np.array(1)], {"exclusive": 1}, "CumSum"),
        ("Hardmax", [], {}, "Hardmax"),
        ("IsInf", [], {"detect_negative": 0}, "IsInf of one sign"),
        ("Squeeze", [], {}, "Squeeze of all"),
        ("ReduceMax", [], {}, "over everything"),
        ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear", **ASYMMETRIC}, "linear mode at asym"),
        ("AveragePool", [], {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1]}, "AveragePool"),
        ("Slice", [whole(3), whole(0), whole(1), whole(-1)], {}, "Slice"),
        ("Pad", [whole(1, 0, 0, 0, 0, 0, 0, 0)], {}, "Pad"),
        ("Pad", [whole(0, 1, 0, 0, 0, 0, 0, 0)], {"mode": "edge"}, "Pad"),
        ("MaxPool", [], {"kernel_shape": [2, 2], "outputs": 2}, "MaxPool"),
    ],
)
def test_what_cannot_be_read_is_named(kind: str, constants: Constants, attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text) as error:
        torch_from_onnx(model_of(kind, constants, **attributes))
    assert "layer.one" in str(error.value)


def test_computed_weights() -> None:
    node = helper.make_node
    nodes = [node("Conv", ["x", "half"], ["y"], "conv", pads=[1, 0, 0, 1], strides=[2, 1])]
    nodes.insert(0, node("Mul", ["w", "x1"], ["half"]))
    nodes.insert(0, node("ReduceMean", ["x"], ["x1"], axes=[0, 1, 2, 3]))
    check(graph_of(nodes, {"w": numbers(3, 4, 2, 2)}), numbers(1, 4, 7, 6))
    transposed = [*nodes[:2], node("ConvTranspose", ["x", "half"], ["y"], "back")]
    with pytest.raises(ModelError, match=r"back.*computed weights"):
        torch_from_onnx(graph_of(transposed, {"w": numbers(4, 3, 2, 2)}))


def test_scattered_elements() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["places"], axis=1),
        helper.make_node("ScatterElements", ["x", "places", "ones"], ["y"], axis=1),
    ]
    check(graph_of(nodes, {"ones": np.ones((1, 1, 7, 6), np.float32)}), numbers(1, 4, 7, 6))
