"""For invalid or incomplete ONNX files, every command prints one line and exits with code 2."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.cli import main
from support.graph_writer import onnx_model

WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def plain(*nodes: onnx.NodeProto, inputs: dict | None = None) -> onnx.ModelProto:
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    nodes = nodes or (helper.make_node("Relu", ["c"], ["y"]),)
    return onnx_model([conv, *nodes], inputs or {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)}, {"w": WEIGHT}, opset=17)


def without_weight() -> onnx.ModelProto:
    model = plain()
    del model.graph.initializer[:]
    return model


def twice() -> onnx.ModelProto:
    model = plain()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "twice": (lambda: plain(*(helper.make_node(kind, ["c"], ["y"]) for kind in ("Relu", "Neg"))), "'y' is computed"),
    "input again": (lambda: plain(helper.make_node("Relu", ["c"], ["x"])), "'x' is computed twice"),
    "cycle": (
        lambda: plain(helper.make_node("Add", ["c", "b"], ["a"]), *chain("a", "b", "y")),
        "form a cycle: 'a' reads 'b'",
    ),
    "missing weight": (without_weight, "'c' reads 'w', which no node computes"),
    "missing output": (lambda: plain(helper.make_node("Relu", ["c"], ["z"])), "no node computes the output 'y'"),
    "stored twice": (twice, "the initializer 'w' is listed twice"),
    "size 0": (lambda: plain(inputs={"x": (0, 3, 8, 8)}), "'x' is declared with a size of 0: 0x3x8x8"),
    "sizes 0": (lambda: plain(inputs={"x": (1, 3, 0, 8)}), "'x' is declared with a size of 0: 1x3x0x8"),
}


def chain(*names: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", [source], [name]) for source, name in itertools.pairwise(names)]


RUNNING = ("verify", "bench")
# ONNX Runtime takes the last of two weights; inspect shows sizes of 0.
CASES = [
    (fault, command)
    for fault in GRAPHS
    for command in ("export", "export --target xavier-jp5", "inspect", *RUNNING)
    if not (fault == "stored twice" and command in RUNNING) and not (fault.startswith("size") and command == "inspect")
]


@pytest.mark.parametrize(("fault", "command"), CASES)
def test_a_graph_that_is_none(
    fault: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, text = GRAPHS[fault]
    by_runtime = command in RUNNING and not fault.startswith("size")
    monkeypatch.chdir(tmp_path)
    onnx.save(made(), "m.onnx")
    more = ["--out", "o"] if command.startswith("export") else ["m.onnx"] * (command == "verify")
    code = main([*command.split(), "m.onnx", *more])
    err = capsys.readouterr().err.strip()
    assert code == 2 and len(err.splitlines()) == 1 and "m.onnx: " in err, err
    assert (text in err) != by_runtime
    assert "truncated" not in err and "from opset 17 to 17" not in err and not Path("o").exists()


@pytest.mark.parametrize("command", ["export", "inspect", "verify", "bench"])
@pytest.mark.parametrize("place", ["missing.data", "../up.data", "absolute", "link.data", "link/up.data", "short.data"])
def test_weights_that_are_not_beside_the_file(
    place: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "up.data").write_bytes(WEIGHT.tobytes())
    (folder / "short.data").write_bytes(WEIGHT.tobytes()[:50])
    (folder / "link.data").symlink_to(tmp_path / "up.data")
    (folder / "link").symlink_to(tmp_path)
    model = plain()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=os.fspath(tmp_path / "up.data") if place == "absolute" else place)
    monkeypatch.chdir(folder)
    Path("m.onnx").write_bytes(model.SerializeToString())
    more = ["--out", "o"] if command == "export" else ["m.onnx"] * (command == "verify")
    assert main([command, "m.onnx", *more]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and "m.onnx: " in err and not Path("o").exists()
    assert "external data cannot be read" in err or (place == "short.data" and "'w' does not hold" in err)
