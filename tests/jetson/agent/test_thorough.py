"""The thorough check of a board of files with a fake TensorRT 8.5.2, by the packed agent."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.board.steps import OK
from irepdeploy.jetson import thorough
from irepdeploy.jetson.thorough import check_thoroughly


def summing_model() -> bytes:
    """What the fake TensorRT computes of every model: the sum of the input, times 1 to 4."""
    weights = np.tile(np.arange(1, 5, dtype=np.float32), (3 * 8 * 8, 1))
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", [takes], [gives], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


class OnBoard:
    """A remote agent that is the packed agent on a board of files, without ssh."""

    host = "xavier"

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def ask(self, verb: str, request: Any = None) -> dict[str, Any]:
        return self._agent.ask(verb, request or {}).value

    def bench(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._agent.ask("bench", request).value

    def send(self, files: Any, advance: Any = None) -> list[str]:
        for content in files:
            self._agent.place(content)
        return [hashlib.sha256(content).hexdigest() for content in files]


@pytest.mark.slow
def test_a_xavier(xavier: Any, board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thorough, "sample_model", summing_model)
    before = board.state()
    found, records = check_thoroughly(OnBoard(xavier), xavier.ask("check", {}).value)  # type: ignore[arg-type]
    assert {each.name: each.status for each in found} == {
        "bindings": OK,
        "graphs": OK,
        "engine fp32": OK,
        "engine fp16": OK,
        "engine fp16, DLA core 0": OK,
        "engine fp16, DLA core 1": OK,
    }, found
    said = {each.name: each.said for each in found}
    assert said["bindings"].startswith("Fake GPU, compute capability 7.2, by ctypes")
    assert "graph captured" in said["engine fp32"] and "mW" in said["engine fp32"] and "trtexec" in said["engine fp32"]
    assert "1 on the DLA, 1 on the GPU" in said["engine fp16, DLA core 1"] and "clocks held" in said["engine fp16"]
    assert records[-1].runner["dla_core"] == 1
    assert board.state() == before
