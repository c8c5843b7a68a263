"""Steps of a check: each ends in a finding, even if it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.board import cuda_check, steps
from irepdeploy.board.cuda_check import check_bindings, check_calls, check_graphs
from irepdeploy.board.cudart import open_cuda
from irepdeploy.board.steps import FAILED, LATE, OK, SKIPPED, Finding, answer, run_step
from irepdeploy.errors import CheckFailed, MissingError, RunError
from irepdeploy.parsing.json_lines import append_line
from support.fake_cudart import FakeCudart
from support.processes import wait_for_end


def run(code: str, limit_s: float = 60.0) -> Finding:
    return run_step("it", [sys.executable, "-c", code], limit_s)


def raising(error: Exception) -> dict[str, Any]:
    def step() -> tuple[str, Mapping[str, Any]]:
        raise error

    return answer(step)


def test_the_answer_of_a_step() -> None:
    assert answer(lambda: ("well", {"x": 1})) == {"status": OK, "said": "well", "figures": {"x": 1}}
    assert raising(MissingError("no GPU", hint="buy one"))["status"] == SKIPPED
    assert raising(CheckFailed("wrong", where="it")) == {"status": FAILED, "said": "it: wrong", "figures": {}}
    assert raising(ZeroDivisionError("by\nzero"))["said"] == "ZeroDivisionError: by zero"


def test_the_finding_of_a_step() -> None:
    line = json.dumps({"status": SKIPPED, "said": "no GPU", "figures": {"a": 1}})
    found = run(f"print('noise'); print({line!r})")
    assert (found.status, found.said, found.figures) == (SKIPPED, "no GPU", {"a": 1})
    assert found.output.startswith("noise") and "output" not in found.to_dict()
    # A program that prints no finding.
    table = run("import sys; print('a bar', file=sys.stderr); print('a table'); print('rows')")
    assert (table.status, table.said, table.output, table.errors) == (OK, "a table", "a table\nrows\n", "a bar\n")
    failed = run("import sys; sys.exit('no such thing')")
    assert (failed.status, failed.said) == (FAILED, "exit code 1: no such thing")
    assert run("import os; os.abort()").said.startswith("crashed (signal 6)")
    assert run_step("it", ["/nowhere/python"], 1).said == "cannot be started: No such file or directory"


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipe: the time of a step only begins once something has been written there, or once it has exited."""
    path, start = tmp_path / "begun", subprocess.Popen
    os.mkfifo(path)

    def started(command: list[str], **options: Any) -> Any:
        process = start(command, **options)
        if str(path) in command[-1]:
            path.read_bytes()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    monkeypatch.setattr(subprocess, "Popen", started)
    return path


def test_a_step_that_takes_too_long_is_ended_with_what_it_started(begun: Path) -> None:
    found = run_step("it", ["sh", "-c", f"sleep 600 & echo $!; echo > '{begun}'; wait"], 0.6)
    assert found.status == LATE and found.said == "ended after 1 s"
    wait_for_end(int(found.output))


def test_a_step_whose_output_something_else_holds_open(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process outside its group is not killed and must not be waited for; a finished step is not late."""
    monkeypatch.setattr(steps, "_GRACE_S", 0.1)
    line = json.dumps({"status": OK, "said": "well", "figures": {}})
    for more, status in ((f"echo '{line}'", OK), (f"echo > '{begun}'; wait", LATE)):
        found = run_step("it", ["sh", "-c", f"setsid sleep 600 & echo $!; {more}"], 0.6)
        os.kill(int(found.output.split()[0]), signal.SIGKILL)
        assert found.status == status


def test_a_step_that_crashes_after_its_finding_has_failed() -> None:
    found = run(f"import os; print({json.dumps(answer(lambda: ('well', {'x': 1})))!r}, flush=True); os.abort()")
    assert (found.status, found.said) == (FAILED, "crashed at its end (signal 6): well")
    assert found.figures == {"x": 1}


def test_figures_that_a_record_could_not_hold_become_text(tmp_path: Path) -> None:
    found = run(f"print({json.dumps(answer(lambda: ('well', {'x': [float('nan'), -float('inf')]})))!r})")
    assert found.figures == {"x": ["NaN", "-Infinity"]}
    append_line(tmp_path / "records.jsonl", found.to_dict())


def test_the_calls_of_cuda() -> None:
    library = FakeCudart()
    library.memory = 1 << 20
    found = check_calls(open_cuda(library=library))
    assert set(found) == {"copies_ms", "graph_ms", "again_ms", "failed_capture", "next_ms"}
    assert "not permitted when stream is capturing" in found["failed_capture"]
    assert library.left() == [] and library.last_error == 0


def test_cuda_that_does_not_do_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCudart(memory=1 << 20)
    cuda = open_cuda(library=library)
    monkeypatch.setattr(
        library, "_stream_synchronize", lambda stream: library._drain(library.streams[stream.value]) or 0
    )
    with pytest.raises(CheckFailed, match="a capture that waits for its stream does not fail"):
        check_calls(cuda)
    library = FakeCudart(memory=1 << 20)
    monkeypatch.setattr(library, "_graph_launch", lambda run, stream: 0)
    with pytest.raises(CheckFailed, match="a graph gives back other values"):
        check_calls(open_cuda(library=library))
    assert library.left() in ([], ["execs"])


def test_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = open_cuda(library=FakeCudart()).facts()
    monkeypatch.setattr(cuda_check, "device_facts", lambda: {"driver": "1", "gpu": "none: libcudart was not found"})
    for check in (check_bindings, check_graphs):
        with pytest.raises(MissingError):
            check()
    monkeypatch.setattr(cuda_check, "device_facts", lambda: facts)

    def opened(backend: str, **of: Any) -> Any:
        if backend == "pycuda":
            raise MissingError("pycuda is not installed")
        if backend == "cuda-python":
            raise MissingError("no usable GPU: error 35")
        return open_cuda(library=FakeCudart(memory=1 << 20, **of))

    monkeypatch.setattr(cuda_check, "open_cuda", opened)
    said, figures = check_bindings()
    assert said == "Fake GPU, compute capability 8.0, by ctypes; cuda-python: no usable GPU: error 35"
    assert figures["bindings"]["pycuda"] == "pycuda is not installed"
    assert check_graphs()[0] == "copies, events and graphs work with ctypes"
    monkeypatch.setattr(
        cuda_check,
        "open_cuda",
        lambda backend: opened("ctypes", compute_capability=(7, 2) if backend == "ctypes" else (8, 0)),
    )
    with pytest.raises(CheckFailed, match="different GPUs"):
        check_bindings()


def test_a_gpu_whose_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCudart(memory=100)
    with pytest.raises(RunError, match="out of memory"):
        check_calls(open_cuda(library=library))
