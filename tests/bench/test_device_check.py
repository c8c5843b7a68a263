"""The check of a GPU, as a dry run on the CPU and with faked findings."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.bench import device_check, device_latency, device_steps
from irepdeploy.bench.device_check import Step, main, steps
from irepdeploy.bench.suites.published import TABLE2, TABLE3
from irepdeploy.board.steps import FAILED, LATE, NOT_RUN, OK, SKIPPED, Finding, run_step
from irepdeploy.errors import CheckFailed, MissingError, RunError

# Packages that are missing on the GPU machine.
_BARRED = ("pydantic", "yaml", "typer", "click", "rich", "sklearn", "scipy", "matplotlib", "PIL", "onnxsim", "jinja2")
_ORDER = [
    "bindings", "graphs", "runners", "compile", "captured forward", "tf32", "clock", "table1, small",
    "supernet-step, small", "training-cost, small", "rtx", "table1", "supernet-step", "latency", "latency, compiled",
    "latency, TF32", "training-cost",
]  # fmt: skip


def here(step: Step, limit_s: float) -> Finding:
    """Run a step in this process, without suites and the compiler, which takes minutes on a CPU."""
    name, *words = step.command[3:]
    if name != "irepdeploy.bench.device_steps" or "compile" in step.name:
        return Finding(step.name, OK, "left out")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert device_steps.main(words) == 0
    found = json.loads(output.getvalue().splitlines()[-1])
    return Finding(step.name, found["status"], found["said"], 1.0, found["figures"], output.getvalue())


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_dry_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--out", str(tmp_path)], run=here) == 0
    out = capsys.readouterr().out
    system, *lines = records(tmp_path)
    assert system["step"] == "system" and system["system"]["cpu"]
    assert [line["step"] for line in lines] == _ORDER
    found = {line["step"]: line for line in lines}
    if not torch.cuda.is_available():
        assert {name for name, line in found.items() if line["status"] == SKIPPED} == {
            "bindings", "graphs", "clock", "rtx",
        }  # fmt: skip
    assert found["runners"]["said"] == "right: torch, ort-cpu"
    assert found["runners"]["figures"]["torch, included"]["error"] < 1e-4
    assert found["tf32"]["figures"]["error_off"] < 1e-5
    # One of the latency rows with its reference.
    assert found["latency"]["said"].startswith("2 of 2 rows")
    latency = [json.loads(line) for line in (tmp_path / "latency" / "records.jsonl").read_text().splitlines()]
    assert [(line["network"], line["tf32"]) for line in latency[:2]] == [("IrepVGG-16", False), ("VGG", False)]
    assert set(latency[1]["samples_ns"]) == {"IrepVGG-16 eager", "VGG eager"}
    # The table comes last, after the results of the paper's conditions.
    assert "\nlatency\nTable 2, IrepVGG-16: eager" in out and out.rindex("Device check") > out.rindex("Table 2, VGG")
    assert all(name in out[out.rindex("Device check") :] for name in _ORDER)
    assert (tmp_path / "logs" / "runners.txt").read_text().startswith('{"status": "ok"')


def test_steps_have_limits_and_the_budget_ends_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits: list[float] = []

    def run(step: Step, limit_s: float) -> Finding:
        limits.append(limit_s)
        return Finding(step.name, LATE if len(limits) == 2 else OK, "said")

    assert main(["--out", str(tmp_path), "--budget-s", "30"], run=run) == 0
    assert all(limit <= 30 for limit in limits) and limits[0] == 20
    assert main(["--out", str(tmp_path / "b"), "--budget-s", "4"], run=run) == 0
    assert {line.get("status") for line in records(tmp_path / "b")[1:]} == {NOT_RUN}
    assert "no time left" in capsys.readouterr().out


def test_what_a_step_had_measured_when_its_time_was_over_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(step: Step, limit_s: float) -> Finding:
        return Finding(step.name, LATE, "ended after 120 s", output="Table 2, VGG: eager 1.0 ms\n")

    assert main(["--out", str(tmp_path), "--only", "latency"], run=run) == 0
    assert "\nlatency\nTable 2, VGG: eager 1.0 ms\n" in capsys.readouterr().out


def test_a_row_that_cannot_be_measured_ends_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(table: Any, row: Any, *given: Any) -> dict[str, Any]:
        if row.label == "VGG":
            raise RunError("out of memory", where="torch")
        return {}

    monkeypatch.setattr(device_latency, "_opened", lambda *given: contextlib.nullcontext({}))
    monkeypatch.setattr(device_latency, "_row", row)
    said, figures = device_latency.measure_latencies("cpu", tmp_path)
    assert said == "1 of 2 rows" and figures["Table 2, VGG"] == "torch: out of memory"


def test_a_step_that_fails_is_the_exit_code_and_ends_nothing(tmp_path: Path) -> None:
    def run(step: Step, limit_s: float) -> Finding:
        return Finding(step.name, FAILED if step.name == "graphs" else OK)

    assert main(["--out", str(tmp_path)], run=run) == 1
    assert len(records(tmp_path)) == 1 + len(_ORDER)


def test_a_machine_where_every_step_is_skipped_lacks_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(step: Step, limit_s: float) -> Finding:
        return Finding(step.name, SKIPPED if step.name == "bindings" else OK, "GPU: no driver")

    assert main(["--out", str(tmp_path), "--only", "bindings"], run=run) == 3
    assert "error: bindings: every step was skipped (GPU: no driver)" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--only", "bindings", "graphs"], run=run) == 0


def test_an_engine_of_an_earlier_check_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(device_steps, "load_tensorrt", lambda flavour: None)
    monkeypatch.setattr(device_steps, "onnx_of", lambda *given: b"")
    monkeypatch.setattr(device_steps, "build_engine", lambda content, engine, flavour: built.append(engine.name))
    monkeypatch.setattr(device_steps, "TrtRunner", lambda engine, **how: engine)
    (tmp_path / "check.tensorrt.engine").write_bytes(b"of another card")
    request = device_steps.Request("cuda", tmp_path)
    for transfers in ("excluded", "included"):
        device_steps._engine_runner(torch.nn.Identity(), request, "tensorrt", transfers=transfers)
    assert built == ["check.tensorrt.engine"]


def test_a_step_is_really_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "steps", lambda *given, **how: [Step("hangs", ("sleep", "600"), 0.1)])
    assert main(["--out", str(tmp_path)]) == 0
    assert records(tmp_path)[1]["status"] == LATE
    assert (tmp_path / "logs" / "hangs.txt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "clock", "nothing"], "--only: no step 'nothing' (one of 'bindings', 'graphs', "),
        (["--budget-s", "0"], "--budget-s: expected a positive number of seconds, got 0"),
        (["--budget-s", "nan"], "--budget-s: expected a positive number of seconds, got nan"),
        (["--rtx", "nowhere"], "nowhere: no such folder (--rtx takes a folder with unpacked wheels)"),
    ],
)
def test_options_that_are_wrong(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}") and not (tmp_path / "out").exists()


def test_what_was_found_before_an_interruption_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(step: Step, limit_s: float) -> Finding:
        if step.name == "graphs":
            os.kill(os.getpid(), signal.SIGTERM)
        return Finding(step.name, OK, "said")

    assert main(["--out", str(tmp_path)], run=run) == 143
    assert [line["step"] for line in records(tmp_path)] == ["system", "bindings"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("device_check: interrupted")


@pytest.mark.parametrize("off", [1.04, 1.06, float("nan")])
def test_the_device_s_clock_is_judged_where_launches_do_not_count(
    off: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_steps.Request, "need_gpu", lambda self: None)
    times = {64: (1e6 * off, 1e6), 1: (130e3, 100e3)}
    monkeypatch.setattr(device_steps, "_one_and_of_many", lambda net, batch: times[batch])
    request = device_steps.Request("cuda", tmp_path)
    if off == 1.04:
        said, figures = device_steps.STEPS["clock"](request)
        assert said.endswith("batch 1: 130.0 us a call, 100.0 us of 200 replays")
        assert figures["batches"]["1"]["difference"] == pytest.approx(0.3)
    else:
        with pytest.raises(CheckFailed, match=r"the device's times differ by (6\.0|nan)%: batch 64"):
            device_steps.STEPS["clock"](request)


def test_tf32_that_computes_no_number_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        device_steps.TorchRunner, "infer", lambda self, feeds: {"y": np.full((8, 64), np.nan, np.float32)}
    )
    with pytest.raises(CheckFailed, match="float32 is rounded although TF32 is off: error nan"):
        device_steps.STEPS["tf32"](device_steps.Request("cpu", tmp_path))


def test_each_way_is_checked_whatever_the_others_do() -> None:
    feeds = device_steps._feeds()

    def raising(error: Exception) -> Any:
        raise error

    ways: dict[str, Any] = {
        "one": lambda: raising(RuntimeError("CUDA error")),
        "two": lambda: raising(RunError("no memory", where="trt")),
        "three": lambda: raising(MissingError("not installed")),
        "four": lambda: Clocked(device="cpu"),
    }
    right = {"logits": feeds["input"]}
    with pytest.raises(CheckFailed, match="one: CUDA error; two: trt: no memory; right: four"):
        device_steps._all_checked(ways, right, feeds)
    del ways["one"], ways["two"]
    found = device_steps._all_checked(ways, right, feeds)
    assert found["three"] == "not installed" and found["four"]["device"] == "cpu"


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_paper_rows_and_the_carried_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(TABLE2) + len(TABLE3) == 28
    assert {row.label for table in device_latency._TABLES for row in table.rows} == {
        row.label for row in (*TABLE2, *TABLE3)
    }
    monkeypatch.setenv("PYTHONPATH", "earlier")
    commands = {step.name: step for step in steps(Path("out"), rtx=Path("carried"))}
    assert list(commands) == _ORDER
    # The process that builds an engine must find them too.
    assert commands["rtx"].environment == {
        "NVIDIA_TF32_OVERRIDE": "0",
        "PYTHONPATH": os.pathsep.join(("carried", "earlier")),
    }
    assert "--dry-run" not in " ".join(commands["table1"].command) and "paper" in commands["table1"].command


class Clocked:
    """A GPU call with the attributes that the check of a runner uses."""

    def __init__(self, **described: Any) -> None:
        self.described = {"device": "cuda:0", "provider": "torch cuda", **described}
        self.name = "torch"

    def __enter__(self) -> Clocked:
        return self

    def __exit__(self, *given: Any) -> None: ...

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"logits": feeds["input"]}

    def bind(self, feeds: dict[str, Any]) -> Any:
        return lambda: None

    def describe(self) -> dict[str, Any]:
        return self.described


def test_a_runner_that_is_wrong() -> None:
    feeds = device_steps._feeds()
    right = {"logits": feeds["input"]}
    with pytest.raises(CheckFailed, match="its outputs are wrong"):
        device_steps._checked(Clocked(), {"logits": feeds["input"] + 1}, feeds)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="the device reports no times"):
        device_steps._checked(Clocked(), right, feeds)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="no CUDA graph: failed: refused"):
        device_steps._checked(Clocked(device="cpu", cuda_graph="failed: refused"), right, feeds)  # type: ignore[arg-type]


def test_rtx_is_skipped_where_it_is_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_steps.Request, "need_gpu", lambda self: None)

    def nothing(*given: Any, **how: Any) -> Any:
        raise MissingError("TensorRT-RTX is not installed")

    monkeypatch.setattr(device_steps, "_engine_runner", nothing)
    request = device_steps.Request("cuda", tmp_path)
    with pytest.raises(MissingError, match="not carried: ONNX model in memory: NvTensorRTRTX"):
        device_steps.STEPS["rtx"](request)
    # A wheel that is present but gives wrong results fails; it does not count as missing.
    monkeypatch.setattr(device_steps, "_engine_runner", lambda *given: Clocked())
    with pytest.raises(CheckFailed, match="its outputs are wrong"):
        device_steps.STEPS["rtx"](request)


def barring(folder: Path) -> dict[str, str]:
    """Return an environment whose Pythons have nothing but torch, numpy, onnx, onnxruntime and this package."""
    folder.mkdir()
    # Not by a finder that raises: torch asks which of them there are.
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({_BARRED}))\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_it_imports_torch_numpy_onnx_and_onnxruntime_alone(tmp_path: Path) -> None:
    modules = {step.command[3] for step in steps(tmp_path)} | {"irepdeploy.bench.device_check"}
    code = f"import importlib\nfor name in {sorted(modules)}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=barring(tmp_path / "bar"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_whole_dry_run_with_nothing_else_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "irepdeploy.bench.device_check", "--dry-run", "--out", str(tmp_path / "out")]
    found = run_step("dry run", command, 3000, barring(tmp_path / "bar"))
    assert found.status == OK, found.output
    lines = records(tmp_path / "out")[1:]
    assert [line["step"] for line in lines] == _ORDER
    assert {line["status"] for line in lines} <= {OK, SKIPPED}, found.output
    assert (tmp_path / "out" / "table1" / "records.jsonl").exists()
