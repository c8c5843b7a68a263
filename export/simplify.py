"""onnx-simplifier in a process of its own, so that a crash, a hang or an exception of it cannot lose the export."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from irepdeploy.errors import RunError
from irepdeploy.files import write_bytes

__all__ = ["Simplified", "simplify"]

# Without -P the folder that the user stands in could shadow a module.
WORKER = (sys.executable, "-P", "-m", "irepdeploy.export.simplify_worker")
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Simplified:
    """The bytes to go on with, and what happened.

    Args:
        changed: whether the bytes are other than those given; they are not yet compared with them.
        note: the effect, or why the given bytes stay.
    """

    content: bytes
    changed: bool
    note: str


def simplify(
    content: bytes, folder: Path | None = None, *, worker: Sequence[str] = WORKER, timeout_s: float = TIMEOUT_S
) -> Simplified:
    """Simplify an ONNX model; the given bytes come back where that fails or removes nothing.

    Args:
        folder: where a temporary folder may be made; default: the system's own.
        worker: a command that takes the paths of what to read and what to write, and prints the nodes before and after.
        timeout_s: after which it is ended.

    Raises:
        RunError: the disk is full.
    """

    def kept(note: str) -> Simplified:
        return Simplified(content, False, note)

    with tempfile.TemporaryDirectory(prefix=".simplify-", dir=folder) as place:
        before, after = Path(place, "before.onnx").absolute(), Path(place, "after.onnx").absolute()
        write_bytes(before, content)
        try:
            done = subprocess.run(
                [*worker, str(before), str(after)], capture_output=True, timeout=timeout_s, cwd=place, check=False
            )
        except subprocess.TimeoutExpired:
            return kept(f"onnxsim took longer than {timeout_s:g} s and was ended: not simplified")
        except OSError as error:
            raise RunError(f"cannot start onnxsim: {error.strerror}", where=worker[0]) from error
        if done.returncode != 0:
            return kept(f"onnxsim {_failure(done.returncode, done.stderr)}: not simplified")
        counts = _counts(done.stdout)
        if counts is not None and counts[1] >= counts[0]:
            return kept(f"onnxsim: 0 nodes removed of {counts[0]}")
        try:
            simpler = onnx.load_model_from_string(after.read_bytes())
        except (OSError, DecodeError):
            return kept("onnxsim wrote no ONNX model: not simplified")
    if counts is None:
        counts = len(onnx.load_model_from_string(content).graph.node), len(simpler.graph.node)
    nodes, left = counts
    if left >= nodes:
        return kept(f"onnxsim: 0 nodes removed of {nodes}")
    return Simplified(
        simpler.SerializeToString(deterministic=True), True, f"onnxsim: {nodes - left} nodes removed of {nodes}"
    )


def _counts(stdout: bytes) -> tuple[int, int] | None:
    """Nodes before and after, from the last line that the worker prints."""
    words = (stdout.decode(errors="replace").strip().splitlines() or [""])[-1].split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _failure(code: int, stderr: bytes) -> str:
    if code < 0:
        return f"crashed (signal {-code})"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return f"failed ({lines[-1][:200] if lines else f'exit code {code}'})"
