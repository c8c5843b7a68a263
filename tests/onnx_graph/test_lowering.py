"""Files of newer opsets rewritten with operators of an older one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.conversion import converted
from irepdeploy.onnx_graph.proto import nodes_of, opset_of
from support.graph_writer import onnx_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 5, 6), np.float32)
INT = np.int64


def built(
    opset: int, kind: str, *inputs: str, outputs: tuple[str, ...] = ("y",), shape: Any = X.shape, **given: Any
) -> onnx.ModelProto:
    """Build a model of one node; arguments that are arrays are its constants."""
    constants = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    attributes = {name: value for name, value in given.items() if name not in constants}
    node = helper.make_node(kind, ["x", *inputs], outputs, "here", **attributes)
    model = onnx_model([node], {"x": shape}, dict.fromkeys(outputs), constants, opset=opset, ir_version=10)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("elem_type")
    found = onnx.shape_inference.infer_shapes(model)
    for value in found.graph.output:
        # ONNX infers nothing for some of the newest operators, which keep type and shape.
        value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
    return found


def results(model: onnx.ModelProto, x: np.ndarray = X) -> list[np.ndarray]:
    with OrtRunner(model.SerializeToString()) as runner:
        return list(runner.infer({"x": x}).values())


SIZES, ALL = np.array([7, 4], INT), np.array([2, 4, 9, 3], INT)
SCALES, HALF = np.array([2, 1.5], np.float32), np.array(0.5, np.float32)
NORMAL = {"s": RNG.standard_normal(6).astype(np.float32), "b": RNG.standard_normal(6).astype(np.float32)}
CHANNELS = {name: RNG.standard_normal(4).astype(np.float32) for name in "sb"}

FORMS: dict[str, onnx.ModelProto] = {
    "split": built(18, "Split", outputs=("y", "z"), axis=1, num_outputs=2),
    "split unevenly": built(18, "Split", outputs=("y", "z"), axis=2, num_outputs=2),
    "split by sizes": built(19, "Split", "n", outputs=("y", "z"), axis=-1, n=np.array([1, 5], INT)),
    "split a free size": built(18, "Split", outputs=("y", "z"), axis=1, num_outputs=2, shape=(2, None, 5, 6)),
    "pad": built(21, "Pad", "p", "", p=np.array([0, 0, 1, 2, 0, 0, 0, 1], INT), mode="reflect"),
    "pad some axes": built(18, "Pad", "p", "v", "a", p=np.array([1, 2, 3, 0], INT), a=np.array([-1, 1], INT), v=HALF),
    "resize": built(19, "Resize", "", "", "n", n=ALL, mode="linear", antialias=0, keep_aspect_ratio_policy="stretch"),
    "resize some axes": built(18, "Resize", "", "", "n", n=SIZES, axes=[2, 3], mode="linear"),
    "resize by some scales": built(18, "Resize", "", "s", s=SCALES, axes=[3, 2], mode="nearest"),
    "mean": built(18, "ReduceMean", "a", a=np.array([-1, 2], INT), keepdims=0),
    "max of all": built(20, "ReduceMax", keepdims=1),
    "none of all": built(18, "ReduceProd", noop_with_empty_axes=1),
    "empty axes": built(18, "ReduceMin", "a", a=np.array([], INT)),
    "pool": built(19, "AveragePool", kernel_shape=[3, 3], dilations=[1, 1], count_include_pad=1, pads=[1, 1, 1, 1]),
    "grid": built(20, "GridSample", "g", g=RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32), mode="linear"),
    "gelu": built(20, "Gelu"),
    "gelu by tanh": built(20, "Gelu", approximate="tanh"),
    "mish": built(22, "Mish"),
    "swish": built(24, "Swish", alpha=1.5),
    "rms": built(23, "RMSNormalization", "s", s=NORMAL["s"], epsilon=1e-3),
    "groups": built(21, "GroupNormalization", "s", "b", num_groups=2, **CHANNELS),
    "old groups": built(18, "GroupNormalization", "s", "b", num_groups=2, s=CHANNELS["s"][:2], b=CHANNELS["b"][:2]),
    "quantized": built(21, "QuantizeLinear", "s", s=np.array(0.05, np.float32), output_dtype=TensorProto.INT8),
    "cast": built(24, "Cast", to=TensorProto.INT32),
    "like": built(19, "CastLike", "l", l=np.zeros(1, np.float16)),
    "flat": built(24, "Reshape", "n", n=np.array([0, -1], INT), allowzero=0),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_the_older_form_computes_the_same(name: str) -> None:
    model = FORMS[name]
    before = model.SerializeToString()
    other = converted(model, 17)
    assert opset_of(other) == 17 and model.SerializeToString() == before
    for mine, due in zip(results(other), results(model), strict=True):
        assert mine.dtype == due.dtype and mine.shape == due.shape
        assert np.abs(mine.astype(float) - due).max() < 2e-6


def test_what_a_target_lacks_is_written_in_its_operators() -> None:
    """A target of opset 17 need not support all its operators, nor sums in ONNX's form."""
    scaled = built(17, "LayerNormalization", "s", "b", axis=-1, **NORMAL)
    sums = built(13, "ReduceSum", "a", a=np.array([1, 3], INT), keepdims=0)
    operators = {node.op_type for each in FORMS.values() for node in nodes_of(converted(each, 17))}
    operators |= {"ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"}
    assert [node.op_type for node in converted(scaled, 17).graph.node] == ["LayerNormalization"]
    other = converted(scaled, 17, operators=operators)
    assert "LayerNormalization" not in {node.op_type for node in other.graph.node}
    assert np.abs(results(other)[0] - results(scaled)[0]).max() < 2e-6
    other = converted(sums, 13, reduce_inputs=False)
    assert [len(node.input) for node in other.graph.node] == [1, 2]
    assert np.abs(results(other)[0] - results(sums)[0]).max() < 2e-5


def test_nodes_of_inner_graphs_are_rewritten() -> None:
    inner = onnx.GraphProto()
    inner.CopyFrom(built(18, "Split", outputs=("y", "z"), axis=1, num_outputs=2).graph)
    del inner.input[:]
    node = helper.make_node("If", ["c"], ["o", "p"], then_branch=inner, else_branch=inner)
    model = onnx_model([node], {"x": X.shape}, {"o": None, "p": None}, {"c": np.array(True)}, opset=18, ir_version=10)
    other = converted(model, 17)
    assert all(item.name != "num_outputs" for each in nodes_of(other) for item in each.attribute)
    assert all(np.array_equal(*both) for both in zip(results(other), results(model), strict=True))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (built(18, "Resize", "", "", "n", n=np.array([2, 4, 3, 3], INT), mode="linear", antialias=1), "antialias 1"),
        (built(18, "Resize", "", "", "n", n=SIZES, axes=[2, 3], keep_aspect_ratio_policy="not_larger"), "not_larger"),
        (built(18, "ReduceL2", noop_with_empty_axes=1), "over no axes"),
        (built(19, "Pad", "p", p=np.zeros(8, INT), mode="wrap"), "mode wrap"),
        (built(19, "AveragePool", kernel_shape=[2, 2], dilations=[1, 2]), "dilations [1, 2]"),
        (built(18, "BitwiseNot"), "does not exist in opset 17, only from 18 on"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_older_form_is_one_line(model: onnx.ModelProto, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        converted(model, 17, "m.onnx")
    line = caught.value.line
    assert line.startswith("m.onnx: cannot be converted from opset") and text in line and "'here'" in line
    assert "opset_version=17" in line and "\n" not in line
