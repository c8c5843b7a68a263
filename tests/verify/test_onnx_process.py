"""ONNX models run in a process that can be killed, with the same outputs as in this one."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.cli.program import main
from irepdeploy.errors import InputError, IrepdeployError, ModelError, RunError
from irepdeploy.testing.runner_contract import RunnerCase, RunnerContract
from irepdeploy.verify import onnx_process
from irepdeploy.verify.array_message import ArrayMessage, BrokenMessageError
from irepdeploy.verify.certified import check_certified
from irepdeploy.verify.onnx_process import OnnxProcess, OnnxProcessRunner, start_onnx_process, time_limit
from irepdeploy.verify.runners import onnx_runner
from support.endless_models import endless_loop, huge_constant
from support.graph_writer import onnx_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)
W = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)


def conv() -> onnx.ModelProto:
    model = onnx_model(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Sigmoid", ["c"], ["y"])],
        {"x": ("n", 3, 16, 16)},
        {"y": ("n", 8, 16, 16), "c": ("n", 8, 16, 16)},
        {"w": W},
    )
    model.metadata_props.add(key="irepdeploy.dataset", value="digits")
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "conv.onnx"
    onnx.save(conv(), path)
    return path


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start other processes than the one that the tests share."""
    monkeypatch.setattr(onnx_process, "_current", None)
    yield
    onnx_process._end()


class TestOnnxProcessRunner(RunnerContract):
    @pytest.fixture
    def case(self, path: Path) -> RunnerCase:
        with OrtRunner(path) as runner:
            return RunnerCase(OnnxProcessRunner(path), {"x": X.copy()}, runner.infer({"x": X}))


@pytest.mark.parametrize("as_written", [False, True])
def test_outputs_are_equal_to_the_bit(path: Path, as_written: bool) -> None:
    settings: dict[str, Any] = {"threads": 1, "spinning": False, "as_written": as_written}
    for model in (path, path.read_bytes()):
        with OrtRunner(model, **settings) as here, OnnxProcessRunner(model, **settings) as there:
            assert here.inputs == there.inputs and here.outputs == there.outputs
            assert here.metadata == there.metadata == {"irepdeploy.dataset": "digits"}
            assert here.describe() == there.describe()
            found, expected = there.infer({"x": X}), here.infer({"x": X})
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int8", "uint8", "int32", "int64"])
def test_every_type_and_empty_and_scalar_arrays(dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = onnx_model(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": None}, {"y": None}, kinds={"x": kind, "y": kind}
    )
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, ["n", "m"]))
    with onnx_runner(model.SerializeToString()) as runner:
        for shape in ((3, 5), (0, 5)):
            x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
            found = runner.infer({"x": x})["y"]
            assert found.dtype == x.dtype and found.tobytes() == x.tobytes() and found.shape == x.shape


def test_a_model_that_never_ends_is_ended(own_process: None, path: Path) -> None:
    with pytest.raises(RunError) as caught, time_limit(0.3), onnx_runner(endless_loop().SerializeToString()) as runner:
        runner.infer({"x": X[:1, :, :8, :8]})
    assert caught.value.line == (
        "ONNX Runtime took longer than 0.3 s to load and run this model, and was ended (--timeout SECONDS allows more)"
    )
    assert onnx_process._current is not None and onnx_process._current.ended
    # The next model has a process of its own.
    with onnx_runner(path) as runner:
        assert set(runner.infer({"x": X})) == {"y", "c"}


def test_the_limit_is_for_loading_and_all_runs_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    with time_limit(1000), onnx_runner(path) as runner:
        asked = []
        monkeypatch.setattr(onnx_process.time, "monotonic", lambda: float(next(now)))
        monkeypatch.setattr(OnnxProcess, "ask", lambda self, message, seconds: asked.append(seconds) or message)
        for _ in range(3):
            runner.infer({"x": X})
        monkeypatch.undo()
    assert 600 < asked[0] < 1000 and [asked[0] - each for each in asked] == [0, 1, 2]


def late(self: OnnxProcess, message: ArrayMessage, seconds: float) -> ArrayMessage:
    """Behave like `OnnxProcess.ask` of a model that never ends, at once."""
    raise TimeoutError


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_are_none(seconds: float) -> None:
    with pytest.raises(InputError, match="expected a positive number of seconds"), time_limit(seconds):
        pass


def test_the_limit_is_checked_where_nothing_runs() -> None:
    with pytest.raises(InputError, match="expected a positive number of seconds"):
        check_certified("a.onnx", "none.json", timeout_s=float("nan"))


def test_commands_end_models_that_never_end(path: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(OnnxProcess, "ask", late)
    for command in (["verify", str(path), str(path)], ["export", str(path)], ["bench", str(path)]):
        words = command if command[0] == "verify" else [*command, "--out", str(tmp_path / "out")]
        assert main([*words, "--timeout", "0.3"]) == 4
        assert "took longer than 0.3 s" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


HELLO = "import os, socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.send(b'\\x08\\0\\0\\0[{}, []]'); "


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("s.recv(9); os.kill(os.getpid(), 11)", ModelError, r"ONNX Runtime crashed \(signal 11\) on this model"),
        (
            "s.recv(9); os.kill(os.getpid(), 9)",
            RunError,
            "was killed while it ran this model, probably for using too much",
        ),
        ("s.recv(9); s.send(b'garbage' * 9)", ModelError, "process failed on this model: a header of"),
        ("s.recv(9); s.send(b'\\x08\\0\\0\\0garbage!')", ModelError, "process failed on this model: not a header"),
    ],
)
def test_a_model_that_crashes_onnx_runtime(code: str, kind: type[IrepdeployError], message: str) -> None:
    process = OnnxProcess([sys.executable, "-c", HELLO + code])
    process.wait_until_started()
    with pytest.raises(kind, match=message):
        process.ask(ArrayMessage({"verb": "open"}), 30)
    assert process.ended
    with pytest.raises(RunError, match="another model has ended"):
        process.ask(ArrayMessage({"verb": "open"}), 30)


def test_a_process_that_does_not_start() -> None:
    with pytest.raises(RunError, match="cannot start ONNX Runtime's process"):
        OnnxProcess(["/nonexistent"])
    process = OnnxProcess([sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RunError, match=r"does not start \(irepdeploy doctor\)"):
        process.wait_until_started()


def test_an_interrupt_ends_the_process(own_process: None, path: Path) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), onnx_runner(path) as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayMessage, "receive", interrupted)
        runner.infer({"x": X})
    process = onnx_process._current
    assert process is not None and process.ended


def test_bugs_are_told_from_bad_models(path: Path) -> None:
    process = start_onnx_process()
    process.wait_until_started()
    with pytest.raises(RuntimeError, match="KeyError"):
        process.ask(ArrayMessage({"verb": "run", "number": -1}), 30)
    with pytest.raises(ModelError, match=r"^conv\.txt: not an ONNX model"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        Path("conv.txt").write_text("text")
        onnx_runner("conv.txt").__enter__()
    with onnx_runner(path) as runner, pytest.raises(InputError, match="expected dtype float32"):
        runner.infer({"x": X.astype(np.float64)})


def test_what_does_not_fit_memory_or_is_not_numbers() -> None:
    with pytest.raises(RunError, match="out of memory"), onnx_runner(huge_constant().SerializeToString()) as runner:
        runner.infer({"x": X[:1, :, :8, :8]})
    model = onnx_model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": None}, ir_version=9
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    with (
        pytest.raises(ModelError, match="output 'y' is not an array of numbers"),
        onnx_runner(model.SerializeToString()) as runner,
    ):
        runner.infer({"x": X[:1, :, :8, :8]})


def test_the_process_ends_with_its_parent() -> None:
    code = (
        "import os, signal\nfrom irepdeploy.verify.onnx_process import start_onnx_process\n"
        "process = start_onnx_process()\nprocess.wait_until_started()\nprint(process.pid, flush=True)\ninput()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdin is not None and parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert select.select([child], [], [], 600)[0] == [child]
        os.close(child)


def test_a_forked_process_has_its_own(own_process: None, path: Path) -> None:
    shared = start_onnx_process()
    child = os.fork()
    if child == 0:
        os._exit(0 if onnx_process._current is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not shared.ended and start_onnx_process() is shared


@pytest.mark.parametrize(
    "described",
    [[["a", "object", [1]]], [["a", "float32", [-1]]], [["a", "float32", [1 << 60]]], [["a", "float32", "x"]], [1], 1],
)
def test_messages_that_are_none(described: Any) -> None:
    header = json.dumps([{}, described]).encode()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(len(header).to_bytes(4, "little") + header)
        theirs.close()
        with pytest.raises(BrokenMessageError):
            ArrayMessage.receive(ours)
