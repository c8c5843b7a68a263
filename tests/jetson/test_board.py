"""`irepdeploy jetson` over a real ssh server with a board made of files: an AGX Xavier with a fake TensorRT 8.5."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import irepdeploy.jetson.measure as measure
from irepdeploy.board.sidecar import read_sidecar
from irepdeploy.files import sha256
from irepdeploy.runs.record import read
from support.fake_board import FakeBoard


@pytest.fixture
def board(server: Any, tmp_path: Path) -> FakeBoard:
    """The far side's Python sees this board instead of the machine."""
    root = tmp_path / "board"
    board = FakeBoard(root)
    python = shlex.quote(sys.executable)
    server.set_up(f"PYTHONPATH={shlex.quote(str(board.add_tensorrt()))}; export PYTHONPATH")
    server.far_program(
        "python3",
        f'case "$2" in *.pyz) exec {python} "$@" --sysroot {shlex.quote(str(root))};; esac\nexec {python} "$@"',
    )
    return board


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with net.onnx, which computes what the fake engine computes: (1, 2, 3, 4) times the sum."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    weight = np.tile(np.arange(1, 5, dtype=np.float32), (192, 1))
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    Path("net.onnx").write_bytes(model.SerializeToString())
    return work


def test_engines_are_built_checked_and_measured_there(
    server: Any, board: FakeBoard, folder: Path, jetson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_POWER_S", 1.0)
    before = board.state()
    words = ["--precision", "fp16", "--mode", "MAXN", "--via", "trtexec", "--power", "--out", "r"]
    code, out, _ = jetson("bench", "board", "net.onnx", "--seconds", "0", *words)
    assert code == 0
    ours, theirs = records = read("r/records.jsonl")
    assert [(record.model, record.runner["runner"]) for record in records] == [("net", "trt"), ("net", "trtexec")]
    assert {record.system["power_mode"] for record in records} == {"MAXN"}
    assert all(record.conditions["gate"]["ok"] for record in records)
    power, rails = ours.power, (19.088 * 24, 19.080 * 32, 19.064 * 154, 0.0, 19.056 * 16, 19.048 * 173)
    assert list(power["mean_mw"].values()) == pytest.approx(rails) and theirs.power == {}
    assert power["module_mw"] == pytest.approx(sum(rails)) == power["idle_module_mw"]
    assert power["samples"] and power["seconds"] >= 1.0
    each = sum(rails) * power["seconds"] / power["inferences"]
    assert power["energy_mj_per_inference"] == pytest.approx(each)
    assert power["energy_above_idle_mj_per_inference"] == pytest.approx(0)
    assert ours.system_after["samples"]["temperatures_c GPU"][0] == 30.5
    assert board.state() == before
    assert not [name for name in server.files() if "/jobs/" in name]
    for text in (
        "set there: power mode 0 (MAXN), before: 7 (MODE_15W_DESKTOP)",
        "restored: power mode 7 (MODE_15W_DESKTOP)",
    ):
        assert text in out.splitlines()


@pytest.mark.slow
def test_engines_are_fetched_with_their_sidecars(server: Any, board: FakeBoard, folder: Path, jetson: Any) -> None:
    label = "it's $(touch x)"
    words = ["--precision", "fp32,fp16", "--build-only", "--out", "r"]
    code, out, _ = jetson("bench", "board", f"{label}=net.onnx", *words)
    assert code == 0
    assert sorted(path.name for path in Path("r/board").iterdir()) == [
        f"it_s_touch_x_.{precision}.engine{end}" for precision in ("fp16", "fp32") for end in ("", ".json")
    ]
    for precision in ("fp32", "fp16"):
        engine = Path(f"r/board/it_s_touch_x_.{precision}.engine")
        sidecar = read_sidecar(engine)
        assert sidecar is not None
        assert (sidecar.precision, sidecar.engine_sha256) == (precision, sha256(engine))
        assert sidecar.onnx_sha256 == sha256(Path("net.onnx"))
        assert shlex.split(sidecar.command)[4:] == [label, "--precision", precision, "--build-only"]
        assert f"wrote {engine}" in out.splitlines()
    assert not Path("r/records.jsonl").exists()
    assert not [name for name in server.files() if "/jobs/" in name]


def test_a_mode_that_takes_a_reboot_is_refused(board: FakeBoard, folder: Path, jetson: Any) -> None:
    before = board.state()
    code, _, err = jetson("bench", "board", "net.onnx", "--mode", "MODE_10W", "--seconds", "0")
    assert code == 2
    assert "reboot" in err[-1]
    assert board.state() == before


@pytest.mark.slow
def test_ctrl_c_restores_the_board(server: Any, board: FakeBoard, folder: Path) -> None:
    before = board.state()
    switched = server.folder / "switched"
    os.mkfifo(switched)
    program = board.root / "usr/sbin/nvpmodel"
    program.rename(f"{program}.real")
    program.write_text(
        f'#!/bin/sh\n"$0.real" "$@" || exit\ncase "$*" in "-m 0") echo yes > {shlex.quote(str(switched))};; esac\n'
    )
    program.chmod(0o755)
    command = [sys.executable, "-m", "irepdeploy", "jetson", "bench", "board", "net.onnx", "--mode", "MAXN"]
    command += ["--seconds", "600", "--ssh-config", str(server.config)]
    # As from a terminal: all that it has started and not set apart is interrupted with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    assert switched.read_text() == "yes\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "board: restored: power mode 7 (MODE_15W_DESKTOP)" in err.splitlines()
    assert err.splitlines()[-1] == "irepdeploy: interrupted"
    assert board.state() == before
    assert not [name for name in server.files() if "/jobs/" in name]
