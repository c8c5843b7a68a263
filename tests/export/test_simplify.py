"""onnx-simplifier: its effect, and that nothing it does can lose the export."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from irepdeploy.export.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.export.simplify import simplify
from irepdeploy.runtime.runner import TensorSpec
from irepdeploy.testing.networks import random_network


@pytest.fixture(scope="module")
def content() -> bytes:
    return serialized(onnx_from_torch(random_network(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"]))


def worker(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_nothing_to_remove(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder with modules named like dependencies must not disturb the worker.
    (tmp_path / "onnx.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    result = simplify(content)
    assert (result.content, result.changed, result.note) == (content, False, "onnxsim: 0 nodes removed of 18")


def test_nodes_are_removed() -> None:
    weight = onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["a"], "first"),
        onnx.helper.make_node("Conv", ["a", "w"], ["b"], "conv"),
        onnx.helper.make_node("Identity", ["b"], ["y"], "last"),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2, 4, 4)) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    result = simplify(model.SerializeToString())
    assert result.changed and result.note == "onnxsim: 2 nodes removed of 3"
    assert [node.op_type for node in onnx.load_model_from_string(result.content).graph.node] == ["Conv"]


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import os; os.abort()", r"onnxsim crashed \(signal 6\)"),
        ("raise ValueError('no such thing')", "onnxsim failed .*no such thing"),
        ("import sys; sys.exit(3)", "onnxsim failed .*exit code 3"),
        ("pass", "wrote no ONNX model"),
        ("import sys; open(sys.argv[2], 'wb').write(b'garbage')", "wrote no ONNX model"),
    ],
)
def test_a_failure_keeps_the_model(content: bytes, code: str, note: str, tmp_path: Path) -> None:
    result = simplify(content, tmp_path, worker=worker(code))
    assert result.content == content and not result.changed
    assert re.search(note, result.note) and result.note.endswith("not simplified")
    assert list(tmp_path.iterdir()) == []


def test_a_hang_is_ended(content: bytes) -> None:
    result = simplify(content, worker=worker("import signal; signal.pause()"), timeout_s=0.2)
    assert result.content == content and "longer than 0.2 s" in result.note
