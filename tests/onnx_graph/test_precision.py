"""The precision of a file is the same on the desk's path (bench) and the board's (jetson and engines)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.bench.opened import Opener
from irepdeploy.bench.request import BenchRequest
from irepdeploy.bench.subject import ONNX, Subject
from irepdeploy.jetson.models import read_models
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.precision import precision_of

Node = onnx.NodeProto


def _model(nodes: list[Node], *weights: tuple[str, np.ndarray], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("input", "output")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _of_type(dtype: str, *more: tuple[str, np.ndarray], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return _model(
        [helper.make_node("MatMul", ["input", "w"], ["output"])], ("w", np.ones((4, 4), dtype)), *more, kind=kind
    )


def _operator(name: str, domain: str = "") -> onnx.ModelProto:
    return _model(
        [helper.make_node(name, ["input", "w"], ["output"], domain=domain)], ("w", np.ones((4, 4), np.float32))
    )


def _in_subgraph() -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, 4])]
    branch = helper.make_graph([helper.make_node("QuantizeLinear", ["input", "w"], ["inner"])], "branch", [], ends)
    node = helper.make_node("If", ["flag"], ["output"], then_branch=branch, else_branch=branch)
    return _model([node], ("flag", np.array(True)), ("w", np.ones((4, 4), np.float32)))


def _as_constant_nodes() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weights),
        helper.make_node("MatMul", ["input", "w"], ["output"]),
    ]
    return _model(nodes, ("scale", np.float32(2)))


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "fp32": (lambda: _of_type("float32"), "fp32"),
    "fp32 and a scalar in fp16": (lambda: _of_type("float32", ("scale", np.float16(2))), "fp32"),
    "fp32 and a bias in fp16": (lambda: _of_type("float32", ("bias", np.ones(4, np.float16))), "fp32"),
    "fp16": (lambda: _of_type("float16"), "fp16"),
    "fp16 and a layer kept in fp32": (lambda: _of_type("float16", ("kept", np.ones((2, 2), np.float32))), "fp16"),
    "fp16 in Constant nodes": (_as_constant_nodes, "fp16"),
    "fp64": (lambda: _of_type("float64"), "fp64"),
    "many whole numbers": (lambda: _of_type("float16", ("shape", np.ones(99, np.int64))), "fp16"),
    "without weights": (lambda: _model([helper.make_node("Relu", ["input"], ["output"])]), "fp32"),
    "without weights, fp16 input": (
        lambda: _model([helper.make_node("Relu", ["input"], ["output"])], kind=TensorProto.FLOAT16),
        "fp16",
    ),
    "Q in a subgraph": (_in_subgraph, "int8"),
    **{
        name: (lambda name=name, domain=domain: _operator(name, domain), "int8")
        for name, domain in {
            "QuantizeLinear": "",
            "DequantizeLinear": "",
            "DynamicQuantizeLinear": "",
            "QLinearConv": "",
            "QLinearMatMul": "",
            "ConvInteger": "",
            "MatMulInteger": "",
            "QLinearAdd": "com.microsoft",
            "QGemm": "com.microsoft",
        }.items()
    },
}


@pytest.mark.parametrize("case", CASES)
def test_desk_and_board_agree(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    desk = Opener(BenchRequest()).open(Subject("model", ONNX, str(path), "ort-cpu")).runner
    [board] = read_models([path])
    assert precision_of(open_model(path)) == expected
    assert (desk._precision, board.carried) == (expected, expected)
