"""Another opset by onnx's version converter, and where it needs help."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.conversion import converted
from irepdeploy.onnx_graph.proto import inputs_of, opset_of
from support.graph_writer import onnx_model

X = np.random.default_rng(0).standard_normal((1, 3, 4, 6), np.float32)
SHAPES: Any = ({"x": X.shape}, {"y": None})


def result(model: onnx.ModelProto) -> np.ndarray:
    with OrtRunner(model.SerializeToString()) as runner:
        return runner.infer({"x": X})["y"]


def of(opset: int, kind: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Any:
    node = helper.make_node(kind, ["x", *inputs], ["y"], **attributes)
    return onnx_model([node], *SHAPES, constants, opset=opset, ir_version=4)


SCALES = {"s": np.array([1, 1, 2, 1.5], np.float32)}


@pytest.mark.parametrize(
    ("model", "opset"),
    [
        (of(12, "Squeeze", axes=[0]), 13),
        (of(12, "ReduceSum", axes=[2, 3], keepdims=0), 13),
        (of(12, "Softmax", axis=1), 13),
        (of(10, "Clip", min=0.0, max=0.5), 13),
        (of(8, "Upsample", scales=[1.0, 1.0, 2.0, 1.5], mode="linear"), 13),
        # Interpolation from other places and rounding differ from what newer operators do by default.
        (of(9, "Upsample", "s", constants=SCALES, mode="linear"), 13),
        (of(9, "Upsample", "s", constants=SCALES, mode="nearest"), 13),
        (of(10, "Resize", "s", constants=SCALES, mode="linear"), 13),
        (of(10, "Resize", "s", constants={"s": np.array([1, 1, 0.5, 0.7], np.float32)}, mode="nearest"), 13),
        # Rounded up along the axis that shrinks, down along the other.
        (of(10, "Resize", "s", constants={"s": np.array([1, 1, 1.7, 0.6], np.float32)}, mode="nearest"), 13),
        (of(10, "Resize", "s", constants={"s": np.array([1, 1, 0.5, 3], np.float32)}), 13),
        (of(12, "Hardmax"), 13),
        (of(11, "Hardmax", axis=-2), 13),
        (of(7, "Hardmax", axis=3), 13),
        (of(11, "Hardmax", axis=-1), 13),
        (of(12, "Hardmax", axis=0), 13),
        (of(18, "ReduceMean", "a", constants={"a": np.array([2, 3])}, keepdims=1, noop_with_empty_axes=0), 17),
    ],
    ids=lambda value: f"{value.graph.node[0].op_type}-{opset_of(value)}" if hasattr(value, "graph") else "",
)
def test_it_computes_the_same(model: onnx.ModelProto, opset: int) -> None:
    before = model.SerializeToString()
    other = converted(model, opset)
    onnx.checker.check_model(other)
    assert opset_of(other) == opset and model.SerializeToString() == before
    assert np.abs(result(other) - result(model)).max() < 1e-6


def test_weights_that_are_inputs_become_constants() -> None:
    model = onnx_model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2]),
            helper.make_node("Unsqueeze", ["p"], ["y"], axes=[0]),
        ],
        *SHAPES,
        {"w": np.ones((2, 3, 1, 1), np.float32)},
        opset=8,
        ir_version=3,
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (2, 3, 1, 1)))
    other = converted(model, 13)
    assert [value.name for value in other.graph.input] == ["x"] == [value.name for value in inputs_of(model.graph)]
    assert np.abs(result(other) - result(model)).max() < 1e-6


def test_functions_are_written_out() -> None:
    model = onnx_model(
        [helper.make_node("f", ["x"], ["r"], domain="own"), helper.make_node("Squeeze", ["r"], ["y"], axes=[0])],
        *SHAPES,
        opset=12,
    )
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 12)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    other = converted(model, 13)
    assert not other.functions and "own" not in {node.domain for node in other.graph.node}
    assert np.array_equal(result(other), result(model))


def test_what_cannot_be_converted_is_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        converted(of(18, "Col2Im", "s", "s", constants={"s": np.array([1, 1])}), 17, "m.onnx")
    line = caught.value.line
    assert line.startswith("m.onnx: cannot be converted from opset 18 to 17: Col2Im")
    assert "only from 18 on" in line and "opset_version=17" in line
