"""The folder of an engine build: the inputs for the build process, and the files that it writes."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from irepdeploy import __version__
from irepdeploy.board.engine_builder import EngineOptions
from irepdeploy.board.failure import from_named
from irepdeploy.board.sidecar import Sidecar
from irepdeploy.board.trt_library import LogMessage, logged
from irepdeploy.errors import RunError

__all__ = ["describe_job", "job_log", "job_result", "job_sidecar", "job_tail"]

_TAIL = 20
_SEVERE = ("ERROR", "INTERNAL_ERROR", "WARNING")


def describe_job(flavour: str, options: EngineOptions, *, timing_cache: bool) -> Dict[str, Any]:
    """Return the content of ``job.json``."""
    return {"flavour": flavour, "options": options.to_dict(), "timing_cache": timing_cache}


def job_result(folder: Path, code: int, *, late_s: Optional[float] = None) -> Dict[str, Any]:
    """Read the result that the worker process wrote.

    Args:
        folder: Folder of the build.
        code: Exit code of the worker.
        late_s: Time limit in seconds, if the worker exceeded it and was terminated.

    Raises:
        IrepdeployError: The error that the worker reported, or RunError if it wrote no result.
    """
    try:
        result = json.loads((folder / "result.json").read_bytes())
    except (OSError, ValueError):
        raise RunError(_death(folder, code, late_s), hint="see TensorRT's log") from None
    if "error" in result:
        raise from_named(result["error"])
    return result


def job_log(folder: Path) -> List[LogMessage]:
    """Read the messages that TensorRT logged, without a last line that a crash truncated."""
    messages: List[LogMessage] = []
    path = folder / "log.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                severity, text = json.loads(line)
            except ValueError:
                break
            messages.append((severity, text))
    return messages


def job_tail(folder: Path) -> List[str]:
    """Return the last errors and warnings of the build log."""
    return [f"TensorRT: {text[:500]}" for text in logged(job_log(folder), *_SEVERE)[-_TAIL:]]


def job_sidecar(
    result: Dict[str, Any], options: EngineOptions, onnx_sha256: str, engine: Path, command: str
) -> Sidecar:
    """Return the sidecar that describes the engine that was built."""
    content, device = engine.read_bytes(), result["device"]
    return Sidecar(
        flavour=result["flavour"],
        tensorrt_version=result["version"],
        # By default, TensorRT-RTX builds for every GPU that it supports.
        compute_capability=None if result["flavour"] == "tensorrt_rtx" else device.get("compute_capability"),
        gpu=device.get("name"),
        driver=device.get("driver"),
        precision=options.precision,
        typing=result["typing"],
        tf32=options.tf32,
        onnx_sha256=onnx_sha256,
        engine_sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        inputs=result["inputs"],
        outputs=result["outputs"],
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        irepdeploy_version=__version__,
        command=command,
        settings={
            "workspace_bytes": options.workspace_bytes,
            "profiles": options.to_dict()["profiles"],
            "dla_core": options.dla_core,
            "assembled": result["assembled"],
        },
    )


def _death(folder: Path, code: int, late_s: Optional[float]) -> str:
    if late_s is not None:
        return f"TensorRT's builder took longer than {late_s:g} s and was ended"
    if code < 0:
        reason = f"crashed (signal {-code})"
    else:
        lines = (folder / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f"failed ({lines[-1][:300] if lines else f'exit code {code}'})"
    last = [text for severity, text in job_log(folder) if severity in _SEVERE]
    return f"TensorRT's builder {reason}" + (f"; its last message: {' '.join(last[-1].split())[:300]}" if last else "")
