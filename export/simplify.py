"""Run onnx-simplifier in a child process, so that a crash or a hang cannot lose the export."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from irepdeploy.errors import InputError, RunError, counted

__all__ = ["Simplified", "Simplifier"]

# Without -P, the current folder could shadow a module.
WORKER = (sys.executable, "-P", "-m", "irepdeploy.export.simplify_worker")
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Simplified:
    """Result of onnx-simplifier: the model (not verified yet), or None to keep the original, and a remark."""

    content: bytes | None
    note: str


class Simplifier:
    """The child process, as a context manager.

    It is started early, since its imports take longer than its work. Entering raises RunError if it cannot be started.
    `worker` is a command like `simplify_worker`; `timeout_s` counts from the call of `result`.
    """

    def __init__(self, worker: Sequence[str] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._worker, self._timeout_s = list(worker or WORKER), timeout_s

    def __enter__(self) -> Simplifier:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._worker, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise RunError(f"cannot start onnxsim: {error.strerror}", where=self._worker[0]) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def begin(self, model: Path, after: Path) -> None:
        """Start to simplify the file `model`, which must not change before `result`, and to write `after`."""
        self._model, self._after = model, after
        assert self._process.stdin is not None
        # If the process is already dead, its exit code tells.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps([str(model.absolute()), str(after.absolute())]).encode() + b"\n")
            self._process.stdin.flush()

    def result(self) -> Simplified:
        """Wait for the process, and read and remove its output file."""
        if self._process.returncode is not None or not hasattr(self, "_model"):
            raise InputError("nothing is being simplified", where="Simplifier")
        try:
            stdout, stderr = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self._end()
            return Simplified(None, f"onnxsim took longer than {self._timeout_s:g} s and was stopped: not simplified")
        try:
            return self._read(stdout, stderr)
        finally:
            self._after.unlink(missing_ok=True)

    def _read(self, stdout: bytes, stderr: bytes) -> Simplified:
        from irepdeploy.onnx_graph.model_file import open_model

        code = self._process.returncode
        if code != 0:
            return Simplified(None, f"onnxsim {_failure(code, stderr)}: not simplified")
        counts = _counts(stdout)
        if counts is not None and counts[1] >= counts[0]:
            return Simplified(None, f"onnxsim: 0 nodes removed of {counts[0]}")
        try:
            simpler = open_model(self._after)
        except InputError:
            return Simplified(None, "onnxsim did not write an ONNX model: not simplified")
        nodes, left = counts or (len(open_model(self._model).graph.node), len(simpler.graph.node))
        if left >= nodes:
            return Simplified(None, f"onnxsim: 0 nodes removed of {nodes}")
        note = f"onnxsim: {counted(nodes - left, 'node')} removed of {nodes}"
        return Simplified(simpler.SerializeToString(deterministic=True), note)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            # An unread line may still be in the buffer.
            with contextlib.suppress(OSError):
                stream.close()


def _counts(stdout: bytes) -> tuple[int, int] | None:
    """Parse the number of nodes before and after from the last line of the worker."""
    words = (stdout.decode(errors="replace").strip().splitlines() or [""])[-1].split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _failure(code: int, stderr: bytes) -> str:
    if code < 0:
        return f"crashed (signal {-code})"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return f"failed ({lines[-1][:200] if lines else f'exit code {code}'})"
