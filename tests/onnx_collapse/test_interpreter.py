"""The float64 interpreter on which proofs rely, compared with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse.interpreter import evaluate
from irepdeploy.onnx_collapse.operators import OPERATORS

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 4, 9, 8)).astype(np.float32)


def floats(*shape: int) -> Any:
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.asarray(values, np.int64)


CASES: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
    ("Conv", [floats(6, 2, 3, 2), floats(6)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}, 13, 1),
    ("Conv", [floats(4, 1, 3, 2)], {"group": 4, "strides": [1, 2], "dilations": [2, 3], "pads": [0, 3, 1, 2]}, 13, 1),
    ("Conv", [floats(8, 1, 3, 3), floats(8)], {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 3]}, 13, 1),
    ("Conv", [floats(3, 4, 2, 2)], {"auto_pad": "SAME_UPPER", "strides": [1, 2]}, 13, 1),
    ("Conv", [floats(3, 4, 2, 2)], {"auto_pad": "VALID"}, 13, 1),
    (
        "AveragePool",
        [],
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1, "strides": [2, 1]},
        13,
        1,
    ),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [3, 2], "ceil_mode": 1}, 13, 1),
    ("AveragePool", [], {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1] * 4, "count_include_pad": 1}, 19, 1),
    ("BatchNormalization", [floats(4)] * 4, {"epsilon": 0.01}, 15, 1),
    ("Pad", [ints(0, 1, -1, 2, 0, 0, 3, -2), np.float32(1.5)], {}, 13, 1),
    ("Pad", [ints(1, 2), np.float32(0), ints(-1)], {}, 18, 1),
    ("Pad", [], {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 2.0}, 10, 1),
    ("Slice", [ints(-1, 1), ints(-99, 6), ints(1, 3), ints(-2, 2)], {}, 13, 1),
    ("Slice", [], {"starts": [1, 0], "ends": [-1, 99], "axes": [2, 0]}, 9, 1),
    ("Split", [ints(1, 3)], {"axis": 1}, 13, 2),
    ("Split", [], {"axis": 1, "split": [3, 1]}, 11, 2),
    ("Split", [], {"axis": 2, "num_outputs": 2}, 18, 2),
    ("Concat", [X[:, :1]], {"axis": 1}, 13, 1),
    ("Add", [floats(4, 1, 1)], {}, 13, 1),
    ("Sub", [floats(1, 1, 9, 1)], {}, 13, 1),
    ("Mul", [floats(8)], {}, 13, 1),
    ("Div", [floats(4, 1, 1)], {}, 13, 1),
    ("Sum", [X, X], {}, 13, 1),
    ("Mean", [X, X * 2], {}, 13, 1),
    ("Neg", [], {}, 13, 1),
    ("Identity", [], {}, 13, 1),
    ("Dropout", [], {}, 13, 1),
    ("Transpose", [], {"perm": [2, 0, 1, 3]}, 13, 1),
    ("Transpose", [], {}, 13, 1),
    ("ScatterND", [ints(0, 1, 1, 3).reshape(2, 2), floats(2, 9, 8)], {}, 13, 1),
    ("ScatterElements", [ints(0, 2, -1).reshape(1, 3, 1, 1), floats(1, 3, 1, 1)], {"axis": 2}, 13, 1),
]


@pytest.mark.parametrize(("kind", "constants", "attributes", "opset", "outputs"), CASES)
def test_as_onnx_runtime(kind: str, constants: list[Any], attributes: dict[str, Any], opset: int, outputs: int) -> None:
    """On random numbers and on zeros, as a proof runs them."""
    arrays = {f"c{place}": np.asarray(value) for place, value in enumerate(constants)}
    names = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(kind, ["x", *arrays], names, **attributes)
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph([node], "one", given, made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    for x in (X, np.zeros_like(X)):
        expected = session.run(None, {"x": x})
        found = evaluate([node], {"x": torch.from_numpy(x).double()}, names, wide.get)
        for name, array in zip(names, expected, strict=True):
            assert found[name].dtype == torch.float64
            np.testing.assert_allclose(found[name].numpy(), array, rtol=1e-5, atol=1e-5)


def test_every_linear_operator_can_be_proved() -> None:
    assert {case[0] for case in CASES} == {kind for kind, rule in OPERATORS.items() if rule.linear}


def test_what_it_does_not_know() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(ModelError, match="not an operator of a region"):
        evaluate([node], {"x": torch.zeros(1)}, ["y"], {}.get)
    with pytest.raises(ModelError, match="not constant"):
        evaluate([onnx.helper.make_node("Add", ["x", "w"], ["y"])], {"x": torch.zeros(1)}, ["y"], {}.get)
