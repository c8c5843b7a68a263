"""onnx-simplifier: its effect; none of its failures can lose the export."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from irepdeploy.errors import InputError, RunError
from irepdeploy.export.simplify import WORKER, Simplified, Simplifier
from irepdeploy.export.writer.onnx_from_torch import serialized
from support.graph_writer import onnx_model

READ = "import json, sys; before, after = json.loads(sys.stdin.readline())\n"


@pytest.fixture(scope="module")
def content(vgg6: onnx.ModelProto) -> bytes:
    return serialized(vgg6)


def simplify(content: bytes, folder: Path, code: str | None = None, timeout_s: float = 600) -> Simplified:
    worker = None if code is None else [sys.executable, "-c", f"{READ}{code}"]
    path = folder / "model.onnx"
    path.write_bytes(content)
    with Simplifier(worker, timeout_s=timeout_s) as simplifier:
        simplifier.begin(path, folder / "after.onnx")
        result = simplifier.result()
    # The input file is unchanged, and no other file is left.
    assert path.read_bytes() == content
    path.unlink()
    assert not (folder / "after.onnx").exists()
    return result


def test_nothing_to_remove(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder with modules named like dependencies must not disturb the worker.
    (tmp_path / "onnx.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert simplify(content, tmp_path) == Simplified(None, "onnxsim: 0 nodes removed of 18")


def test_nodes_are_removed(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["a"], "first"),
        onnx.helper.make_node("Conv", ["a", "w"], ["b"], "conv"),
        onnx.helper.make_node("Identity", ["b"], ["y"], "last"),
    ]
    model = onnx_model(nodes, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}, {"w": np.ones((2, 2, 1, 1), np.float32)})
    result = simplify(model.SerializeToString(), tmp_path)
    assert result.content is not None and result.note == "onnxsim: 2 nodes removed of 3"
    assert [node.op_type for node in onnx.load_model_from_string(result.content).graph.node] == ["Conv"]


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import os; os.abort()", r"onnxsim crashed \(signal 6\)"),
        ("raise ValueError('no such thing')", "onnxsim failed .*no such thing"),
        ("import sys; sys.exit(3)", "onnxsim failed .*exit code 3"),
        ("pass", "did not write an ONNX model"),
        ("open(after, 'wb').write(b'garbage')", "did not write an ONNX model"),
    ],
)
def test_a_failure_keeps_the_model(content: bytes, code: str, note: str, tmp_path: Path) -> None:
    result = simplify(content, tmp_path, code)
    assert result.content is None
    assert re.search(note, result.note) and result.note.endswith("not simplified")
    assert list(tmp_path.iterdir()) == []


def test_a_hang_is_ended(content: bytes, tmp_path: Path) -> None:
    result = simplify(content, tmp_path, "import signal; signal.pause()", timeout_s=0.2)
    assert result.content is None and "longer than 0.2 s" in result.note


def test_one_that_dies_before_it_is_asked(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with Simplifier([sys.executable, "-c", "raise SystemExit(5)"]) as simplifier:
        os.waitid(os.P_PID, simplifier.pid, os.WEXITED | os.WNOWAIT)
        simplifier.begin(tmp_path / "model.onnx", tmp_path / "after.onnx")
        assert simplifier.result().note == "onnxsim failed (exit code 5): not simplified"
        with pytest.raises(InputError, match="nothing is being simplified"):
            simplifier.result()


def test_one_that_is_never_asked_ends_with_its_block() -> None:
    with pytest.raises(KeyboardInterrupt), Simplifier([sys.executable, "-c", READ]) as simplifier:
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(simplifier.pid, 0)


def test_the_worker_ends_with_its_parent() -> None:
    done = subprocess.run(WORKER, input=b"", capture_output=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_one_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot start onnxsim"), Simplifier([str(tmp_path / "none")]):
        pass
