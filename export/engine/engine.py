"""Build a TensorRT engine from ONNX, in a process of its own: a crash or a hang of the builder is an error like others.

The engine appears whole or not at all, and a sidecar beside it says what it is.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irepdeploy.board.engine_builder import EngineOptions, Profile
from irepdeploy.board.engine_job import describe_job, job_log, job_result, job_sidecar, job_tail
from irepdeploy.board.sidecar import Sidecar, sidecar_path
from irepdeploy.board.trt_library import FLAVOURS, logged
from irepdeploy.errors import InputError, IrepdeployError, RunError
from irepdeploy.files import (
    move_file,
    output_folder,
    read_bytes,
    remove_file,
    sha256,
    staging_folder,
    write_bytes,
    write_json,
)
from irepdeploy.onnx_graph.model_file import model_content, open_model
from irepdeploy.onnx_graph.precision import precision_of

__all__ = ["EngineReport", "build_engine"]

WORKER = (sys.executable, "-m", "irepdeploy.board.engine_worker")
TIMEOUT_S = 3600.0
PRECISIONS = ("fp32", "fp16", "int8")

_TARGETS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class EngineReport:
    """What was built.

    Args:
        run: whether the engine has run: "not run" until somebody ran it and compared.
        layers: convolutions really executed, layers by kind, bytes of weights and activations, as the build log says.
        dla: where its layers were put, None without DLA.
        seconds: that parsing and building took.
        warnings: that TensorRT logged.
    """

    engine: Path
    sidecar: Path
    flavour: str
    version: str
    assembled: bool
    precision: str
    typing: str
    tf32: bool
    sha256: str
    size_bytes: int
    seconds: float
    layers: dict[str, Any]
    device: dict[str, Any]
    timing_cache: str
    dla: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    run: str = "not run"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the files by name."""
        return {**asdict(self), "engine": self.engine.name, "sidecar": self.sidecar.name}


def build_engine(
    onnx: bytes | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    flavour: str,
    precision: str = "fp32",
    workspace_bytes: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    tf32: bool = False,
    dla_core: int | None = None,
    command: str | None = None,
    report: Callable[[str], None] = lambda step: None,
    worker: Sequence[str] = WORKER,
    timeout_s: float = TIMEOUT_S,
) -> EngineReport:
    """Build an engine, write it to `out` and its sidecar beside it.

    Args:
        onnx: the model, or where it lies.
        out: the engine's path; nothing else of its folder is touched but its sidecar.
        flavour: "tensorrt", or "tensorrt_rtx", which needs no GPU.
        precision: "fp32", "fp16" or "int8". TensorRT 11 and TensorRT-RTX take it from the ONNX, which must be in it
            already; before, an fp32 ONNX becomes fp16 by a flag. int8 needs Q/DQ everywhere.
        workspace_bytes: limit of scratch memory; None is TensorRT's own default.
        timing_cache: a file that is read if it is there and written after the build.
        profiles: (smallest, best, largest shape) of each input with a free dimension.
        tf32: let fp32 convolutions round to TF32.
        dla_core: the DLA core for what layers it can take; the rest goes to the GPU.
        command: what builds this engine again, for its sidecar.
        report: called with each step, and after a failure with the last lines of TensorRT's log.
        worker: a command that takes the folder of a job.
        timeout_s: after which the builder is ended.

    Raises:
        InputError: the model or an option is wrong for this TensorRT; ModelError where it cannot parse or build it.
        MissingError: TensorRT, a GPU or a DLA that it needs is not here.
        RunError: the builder crashed, hung, or ran out of memory or disk.
    """
    _check(flavour, precision, workspace_bytes)
    content = model_content(onnx)
    name = "MODEL.onnx" if isinstance(onnx, bytes) else os.fspath(onnx)
    carried = precision_of(open_model(content))
    options = EngineOptions(precision, carried, workspace_bytes, dict(profiles or {}), tf32, dla_core)
    command = command or f"irepdeploy export {shlex.quote(name)} --target {_TARGETS[flavour]} --precision {precision}"
    engine = Path(out)
    output_folder(engine.parent)
    with staging_folder(engine.parent) as staging:
        write_bytes(staging / "model.onnx", content)
        if timing_cache is not None:
            write_bytes(staging / "timing.cache", _read_cache(timing_cache))
        write_json(staging / "job.json", describe_job(flavour, options, timing_cache=timing_cache is not None))
        result = _run(staging.absolute(), worker, timeout_s, report)
        built = staging / "model.engine"
        sidecar = job_sidecar(result, options, sha256(content), built, command)
        if timing_cache is not None:
            write_bytes(timing_cache, (staging / "timing.cache").read_bytes())
        warnings = logged(job_log(staging), "WARNING")
        _publish(built, sidecar, engine)
    return EngineReport(
        engine=engine,
        sidecar=Path(sidecar_path(engine)),
        flavour=flavour,
        version=result["version"],
        assembled=result["assembled"],
        precision=precision,
        typing=result["typing"],
        tf32=tf32,
        sha256=sidecar.engine_sha256,
        size_bytes=sidecar.size_bytes,
        seconds=result["seconds"],
        layers=result["layers"],
        device=result["device"],
        timing_cache=result.get("timing_cache", "none"),
        dla=result.get("dla"),
        warnings=warnings,
    )


def _check(flavour: str, precision: str, workspace_bytes: int | None) -> None:
    if flavour not in FLAVOURS:
        raise InputError(f"no TensorRT flavour {flavour!r}", where="flavour", hint=f"one of {', '.join(FLAVOURS)}")
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}", where="--precision", hint=f"one of {', '.join(PRECISIONS)}")
    if workspace_bytes is not None and workspace_bytes <= 0:
        raise InputError(f"a workspace of {workspace_bytes} bytes", where="workspace", hint="give a positive number")


def _read_cache(path: str | os.PathLike[str]) -> bytes:
    return read_bytes(path, "timing cache") if os.path.exists(path) else b""


def _run(folder: Path, worker: Sequence[str], timeout_s: float, report: Callable[[str], None]) -> dict[str, Any]:
    """Let the worker do the job in the folder, and return its result or raise its error."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    with open(folder / "stderr", "wb") as stderr:
        try:
            # The folder that the user stands in could shadow a module.
            process = subprocess.Popen(
                [*worker, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=folder
            )
        except OSError as error:
            raise RunError(f"cannot start the builder: {error.strerror}", where=worker[0]) from error
        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            with process:
                for line in process.stdout or ():
                    report(line.decode(errors="replace").strip())
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    try:
        return job_result(folder, process.returncode, late_s=timeout_s if late.is_set() else None)
    except IrepdeployError:
        for text in job_tail(folder):
            report(text)
        raise


def _publish(built: Path, sidecar: Sidecar, engine: Path) -> None:
    """Move both into place; the old sidecar goes first, so that it never stands beside an engine that is not its."""
    beside = Path(sidecar_path(engine))
    remove_file(beside)
    move_file(built, engine)
    write_json(beside, sidecar.to_dict())
